"""Placebo runs: the same search as another's, on data whose edge was destroyed.

Contract. Which run is whose is recorded in the transaction that creates it, so that none is run twice. What its best
reached is kept when it has ended, and stays when the run is pruned, as long as its optimization is there. A run whose
optimization is pruned stays a placebo run until it is pruned, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, bindparam, literal_column, select, update

from o9.model.optimization import OptimizationState
from o9.store.core.column_types import real
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.schema.optimizations import OPTIMIZATION
from o9.store.schema.statistics import PLACEBO

if TYPE_CHECKING:
    from o9.store.optimizations.transitions import Create


@dataclass(frozen=True)
class CreatePlacebo(Operation[tuple[OptimizationState, bool]]):
    """Record `create.state` as placebo `number` of `origin_id`."""

    create: Create
    origin_id: str
    number: int

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.create.targets, self.origin_id)

    def apply(self, unit: UnitOfWork) -> tuple[OptimizationState, bool]:
        """The state as recorded, and whether it is new."""
        recorded, is_new = self.create.apply(unit)
        if is_new and (origin := unit.row(self.origin_id)) is not None:
            unit.update(unit.existing(recorded.optimization_id), deployment_id=origin["deployment_id"])
        row = {"optimization_id": self.origin_id, "number": self.number, "run_id": recorded.optimization_id}
        unit.insert(PLACEBO, row | {"value": None}, ignore_known=True)
        return recorded, is_new


@dataclass(frozen=True)
class KeepPlacebo(Operation[None]):
    """What the best of the placebo run `run_id` has reached. Its optimization is to be judged anew."""

    run_id: str
    value: float

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        mine = PLACEBO.c.run_id == self.run_id
        unit.connection.execute(update(PLACEBO).where(mine).values(value=real(self.value)))
        origin_id = unit.connection.execute(select(PLACEBO.c.optimization_id).where(mine)).scalar()
        origin = None if origin_id is None else unit.row(origin_id)
        if origin is not None:
            unit.update(origin)


@dataclass(frozen=True)
class PlaceboRuns:
    """By number: the runs' ids, and what each reached; None for one that has not ended, or without a best.

    requests: how often more of them were asked for, as far as the runs are not pruned; 1 at least where there are any.
    """

    run_ids: dict[int, str]
    values: dict[int, float | None]
    requests: int = 0

    @property
    def finished(self) -> list[float]:
        """What those that have ended reached, by number."""
        return [value for _, value in sorted(self.values.items()) if value is not None]


def placebos(connection: Connection, optimization_id: str) -> PlaceboRuns:
    joined = PLACEBO.outerjoin(OPTIMIZATION, OPTIMIZATION.c.optimization_id == PLACEBO.c.run_id)
    runs = select(PLACEBO.c.number, PLACEBO.c.run_id, PLACEBO.c.value, OPTIMIZATION.c.created_at).select_from(joined)
    rows = connection.execute(
        runs.where(PLACEBO.c.optimization_id == optimization_id, PLACEBO.c.run_id != optimization_id)
    ).all()
    requests = len({row.created_at for row in rows if row.created_at is not None})  # those of one request share it
    return PlaceboRuns(
        {row.number: row.run_id for row in rows},
        {row.number: row.value for row in rows},
        max(requests, 1) if rows else 0,
    )


def release_placebos(unit: UnitOfWork, optimization_id: str) -> None:
    """Before an optimization is pruned: its runs stay placebo runs, without an origin, until they are pruned."""
    unit.run(_RELEASE, {"target": optimization_id})


def is_placebo() -> ColumnElement[bool]:
    """Whether a row of `optimization` is a placebo run."""
    return select(literal_column("1")).where(PLACEBO.c.run_id == OPTIMIZATION.c.optimization_id).exists()


# A row without an origin has its own run for its optimization, so that the id of the pruned one is free again.
_RELEASE = (
    update(PLACEBO)
    .where(
        PLACEBO.c.optimization_id == bindparam("target"),
        PLACEBO.c.run_id.in_(select(OPTIMIZATION.c.optimization_id)),
    )
    .values(optimization_id=PLACEBO.c.run_id)
)

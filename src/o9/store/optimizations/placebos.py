"""Placebo runs: an optimization's search repeated on data whose edge was destroyed.

Contract. A placebo run is linked to its optimization in the transaction that creates it, so that none is run twice. Its
best value is recorded when it ends, and outlives the run itself if that is pruned first. If the optimization is pruned,
the run stays a placebo run until it is pruned too.
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
        """Return the state as recorded, and whether it is new."""
        recorded, is_new = self.create.apply(unit)
        if is_new and (origin := unit.row(self.origin_id)) is not None:
            unit.update(unit.existing(recorded.optimization_id), deployment_id=origin["deployment_id"])
        row = {"optimization_id": self.origin_id, "number": self.number, "run_id": recorded.optimization_id}
        unit.insert(PLACEBO, row | {"value": None}, ignore_known=True)
        return recorded, is_new


@dataclass(frozen=True)
class RecordPlaceboValue(Operation[None]):
    """Record the best value of the placebo run `run_id`, and mark its optimization for a new health check."""

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
    """The placebo runs of an optimization, by number."""

    run_ids: dict[int, str]
    values: dict[int, float | None]  # None if the run has not ended, or has no best
    requests: int = 0  # how many requests made them, without those whose runs are pruned; at least 1 if there are runs

    @property
    def finished(self) -> list[float]:
        """The known values, by number."""
        return [value for _, value in sorted(self.values.items()) if value is not None]


def placebos(connection: Connection, optimization_id: str) -> PlaceboRuns:
    joined = PLACEBO.outerjoin(OPTIMIZATION, OPTIMIZATION.c.optimization_id == PLACEBO.c.run_id)
    runs = select(PLACEBO.c.number, PLACEBO.c.run_id, PLACEBO.c.value, OPTIMIZATION.c.created_at).select_from(joined)
    rows = connection.execute(
        runs.where(PLACEBO.c.optimization_id == optimization_id, PLACEBO.c.run_id != optimization_id)
    ).all()
    requests = len({row.created_at for row in rows if row.created_at is not None})  # one moment for each request
    return PlaceboRuns(
        {row.number: row.run_id for row in rows},
        {row.number: row.value for row in rows},
        max(requests, 1) if rows else 0,
    )


def release_placebos(unit: UnitOfWork, optimization_id: str) -> None:
    """Detach the placebo runs of an optimization that is about to be pruned; they stay placebo runs."""
    unit.run(_RELEASE, {"target": optimization_id})


def is_placebo() -> ColumnElement[bool]:
    """Return the condition that a row of `optimization` is a placebo run."""
    return select(literal_column("1")).where(PLACEBO.c.run_id == OPTIMIZATION.c.optimization_id).exists()


# A row without an origin refers to its own run as the optimization, so that the pruned one's id is free again.
_RELEASE = (
    update(PLACEBO)
    .where(
        PLACEBO.c.optimization_id == bindparam("target"),
        PLACEBO.c.run_id.in_(select(OPTIMIZATION.c.optimization_id)),
    )
    .values(optimization_id=PLACEBO.c.run_id)
)

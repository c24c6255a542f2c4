"""Running an ended optimization again from one of its checkpoints, as a new optimization.

The new ledger begins with the origin's trials up to that step, marked as inherited (attempt 0), so that the strategy
continues as it did there and no trial is counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, func, insert, literal, select, true

from o9.model.errors import OptimizationStateError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, OptimizationStatus
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.optimizations.transitions import Create, read_state
from o9.store.schema.optimizations import BASELINE, CALENDAR, CHECKPOINT, METRIC, PROVENANCE, RETURNS, TRIAL
from o9.store.statistics.families import INHERITED


@dataclass(frozen=True)
class Retry(Operation[tuple[OptimizationState, bool]]):
    """Record `create.state` with what `origin_id` committed in its first `steps` steps.

    Raises OptimizationStateError if the origin has not ended, OptimizationValidationError if it has no such step.
    """

    create: Create
    origin_id: str
    steps: int

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.create.targets, self.origin_id)

    def apply(self, unit: UnitOfWork) -> tuple[OptimizationState, bool]:
        """Return the state as recorded, and whether it is new."""
        origin = unit.existing(self.origin_id)
        if OptimizationStatus(origin["status"]) not in ENDED:
            raise OptimizationStateError(
                f"optimization {self.origin_id!r} is {origin['status']}; it can be run again only after it has ended"
            )
        name = self.create.state.optimization_id
        unit.flush()
        last = CHECKPOINT.c.optimization_id == self.origin_id, CHECKPOINT.c.step == self.steps - 1
        if self.steps and not unit.connection.execute(select(CHECKPOINT.c.step).where(*last)).first():
            raise OptimizationValidationError(
                "metadata.retry_from_step",
                f"{self.origin_id!r} has no checkpoint of step {self.steps}; it committed {origin['completed_steps']}",
            )
        recorded, is_new = self.create.apply(unit)
        if is_new:
            unit.update(unit.existing(name), deployment_id=origin["deployment_id"])
        if not is_new or not self.steps:
            return recorded, is_new
        unit.flush()
        kept = select(TRIAL.c.number).where(TRIAL.c.optimization_id == self.origin_id, TRIAL.c.step < self.steps)
        attempts = select(func.max(PROVENANCE.c.attempt)).where(PROVENANCE.c.optimization_id == self.origin_id)
        copied = {
            TRIAL: TRIAL.c.step < self.steps,
            RETURNS: RETURNS.c.number.in_(kept),
            CALENDAR: true(),
            BASELINE: true(),
            PROVENANCE: PROVENANCE.c.attempt == attempts.scalar_subquery(),
            METRIC: METRIC.c.step < self.steps,
            CHECKPOINT: CHECKPOINT.c.step < self.steps,
        }
        for table, which in copied.items():
            self._copy(unit, table, which)
        row = unit.existing(name)
        total = row["total_steps"]
        unit.update(
            row,
            completed_steps=self.steps,
            progress=min(1.0, self.steps / total) if total else 0.0,
            family=origin["family"],
        )
        unit.flush()
        return read_state(unit, name), True

    def _copy(self, unit: UnitOfWork, table: Table, which: ColumnElement[bool]) -> None:
        name = self.create.state.optimization_id
        replaced: dict[str, Any] = {"optimization_id": literal(name), "attempt": literal(INHERITED)}
        columns = [column.name for column in table.columns]
        source = select(*[replaced.get(column, table.c[column]) for column in columns])
        source = source.where(table.c.optimization_id == self.origin_id, which)
        unit.connection.execute(insert(table).from_select(columns, source))

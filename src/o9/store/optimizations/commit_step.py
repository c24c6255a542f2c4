"""What an attempt writes while it runs: a whole step in one transaction, or changes of the state.

Each operation checks the fence, and its answer has the present intent, so that control needs no query of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from o9.model.errors import OptimizationStateError, OptimizationValidationError, StaleAttemptError
from o9.model.states import ACTIVE, INTENDED_END, Intent, OptimizationStatus
from o9.model.trial import Output, Trial
from o9.model.validation import validate_changes
from o9.store.core.column_types import JSON_FIELDS, REAL_FIELDS, free_text, pack_returns, real, to_json, trial_to_row
from o9.store.core.unit import OnOptimization, Row, UnitOfWork
from o9.store.optimizations.outputs import write_output
from o9.store.optimizations.provenance import write_baseline, write_calendar
from o9.store.schema.optimizations import CHECKPOINT, METRIC, RETURNS, TRIAL
from o9.store.statistics.families import INHERITED, join_family, origin_of, recognize_repeats

# Without `status`, which only `transitions.move` writes.
AMENDABLE = frozenset({
    "progress", "current_step", "total_steps", "completed_steps", "current_performance", "performance_improvement",
    "parameters", "optimized_parameters", "results", "metrics", "issues", "warnings", "cpu_usage", "memory_usage",
    "metadata", "baseline_performance", "target_performance", "name", "description",
})  # fmt: skip


# Figures of a step, and their columns.
_FIGURES = {
    "performance": "current_performance", "improvement": "performance_improvement",
    "cpu_usage": "cpu_usage", "memory_usage": "memory_usage",
}  # fmt: skip


@dataclass(frozen=True)
class Acknowledged:
    """The answer to an attempt's write, which is durable, with the optimization's present intent."""

    intent: Intent
    completed_steps: int


@dataclass(frozen=True)
class CommitStep(OnOptimization[Acknowledged]):
    """Write one step: trials, metrics, progress, the best so far and the next checkpoint.

    If the attempt commits a step again because the answer was lost, it is acknowledged and not written twice.

    performance, improvement, optimized_parameters: of the best so far; None if no trial has succeeded.
    cpu_usage (percent of one core), memory_usage (MiB): None if not measured, which keeps the state's values.
    output: what the strategy printed outside its trials.
    retry_of: the origin of a retry, else "".
    """

    optimization_id: str
    fence: int
    step: int
    trials: Sequence[Trial]
    checkpoint: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    current_step: str = ""
    performance: float | None = None
    improvement: float | None = None
    optimized_parameters: Mapping[str, Any] | None = None
    cpu_usage: float | None = None
    memory_usage: float | None = None
    output: Output | None = None
    retry_of: str = ""

    def apply(self, unit: UnitOfWork) -> Acknowledged:
        row = require_held(unit, self.optimization_id, self.fence)
        if self.step == row["completed_steps"] - 1 and self._is_written(unit):
            return Acknowledged(Intent(row["intent"]), row["completed_steps"])
        if self.step != row["completed_steps"]:
            raise OptimizationStateError(
                f"optimization {self.optimization_id!r}: step {self.step} cannot be committed; "
                f"the next one is {row['completed_steps']}"
            )
        # Encoding may raise, so all of it comes before the unit's first change.
        trials = [trial_to_row(self.optimization_id, row["attempt"], trial) for trial in self.trials]
        checkpoint = to_json(dict(self.checkpoint))
        changes: Row = {"completed_steps": self.step + 1, "current_step": free_text(self.current_step)}
        if row["total_steps"]:
            changes["progress"] = min(1.0, (self.step + 1) / row["total_steps"])
        for name, column in _FIGURES.items():
            value = getattr(self, name)
            if value is not None:
                if not math.isfinite(value):
                    raise OptimizationValidationError(name, f"{value} is not a finite number; give None if unknown")
                changes[column] = real(value)
        if self.optimized_parameters is not None:
            changes["optimized_parameters"] = to_json(dict(self.optimized_parameters))
        metrics = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        if self.metrics:
            changes["metrics"] = to_json(metrics)
        recognize_repeats(unit, self.retry_of, trials)
        join_family(unit, row, trials)
        _write_trials(unit, self.optimization_id, self.trials, trials)
        write_output(unit, self.optimization_id, self.step, self.trials, self.output)
        key = {"optimization_id": self.optimization_id, "step": self.step}
        for name, value in metrics.items():
            unit.insert(METRIC, {**key, "name": name, "value": real(value), "at": unit.now})
        unit.insert(CHECKPOINT, {**key, "data": checkpoint})
        unit.update(row, **changes)
        unit.change(self.optimization_id, "step")
        return Acknowledged(Intent(row["intent"]), row["completed_steps"])

    def _is_written(self, unit: UnitOfWork) -> bool:
        """Whether this very step is already committed, and only the answer was lost."""
        unit.flush()
        mine = (CHECKPOINT.c.optimization_id == self.optimization_id) & (CHECKPOINT.c.step == self.step)
        found = unit.connection.execute(select(CHECKPOINT.c.data).where(mine)).scalar()
        columns = [TRIAL.c[name] for name in ("number", "state", "parameters", "value")]
        kept = select(*columns).where(TRIAL.c.optimization_id == self.optimization_id, TRIAL.c.step == self.step)
        origin = origin_of(unit, self.optimization_id)
        if origin is None or self.step < origin[1]:  # later ones marked as inherited are the retry's own repeats
            kept = kept.where(TRIAL.c.attempt != INHERITED)
        sent = [trial_to_row(self.optimization_id, 0, trial) for trial in self.trials]
        written = {tuple(row) for row in unit.connection.execute(kept)}
        return found == to_json(dict(self.checkpoint)) and written == {
            tuple(row[column.name] for column in columns) for row in sent
        }


@dataclass(frozen=True)
class Amend(OnOptimization[Acknowledged]):
    """Change fields of the state outside a step, but never the status. An attempt gives its `fence`.

    ending: these are the attempt's final changes, accepted even if it was ended from outside.
    """

    optimization_id: str
    changes: Mapping[str, Any]
    fence: int | None = None
    ending: bool = False

    def apply(self, unit: UnitOfWork) -> Acknowledged:
        if self.fence is None:
            row = unit.existing(self.optimization_id)
        else:
            row = require_held(unit, self.optimization_id, self.fence, ending=self.ending)
        if unknown := self.changes.keys() - AMENDABLE:
            raise OptimizationStateError(f"{min(unknown)} cannot be amended; pause, resume and cancel change a status")
        validate_changes(self.changes)
        values = dict(self.changes)
        for name in values:
            if name in JSON_FIELDS:
                values[name] = to_json(values[name])
            elif name in REAL_FIELDS:
                values[name] = real(values[name])
        unit.update(row, **values)
        unit.change(self.optimization_id, "amended")
        return Acknowledged(Intent(row["intent"]), row["completed_steps"])


@dataclass(frozen=True)
class RecordCutOff(OnOptimization[None]):
    """Record the trials of a step that was cut off, so that the ledger has every trial ever begun.

    `performance`, `improvement` and `optimized_parameters` are given if one of these trials finished as the best.
    """

    optimization_id: str
    fence: int
    trials: Sequence[Trial]
    performance: float | None = None
    improvement: float | None = None
    optimized_parameters: Mapping[str, Any] | None = None

    def apply(self, unit: UnitOfWork) -> None:
        row = require_held(unit, self.optimization_id, self.fence, ending=True)
        unit.flush()
        numbers = [trial.number for trial in self.trials]
        mine = TRIAL.c.optimization_id == self.optimization_id
        written = unit.connection.execute(select(TRIAL.c.number).where(mine, TRIAL.c.number.in_(numbers)))
        known = set(written.scalars())  # by an earlier commit whose answer was lost
        trials = [trial for trial in self.trials if trial.number not in known]
        added = [trial_to_row(self.optimization_id, row["attempt"], trial) for trial in trials]
        origin = origin_of(unit, self.optimization_id)
        recognize_repeats(unit, origin[0] if origin else "", added)
        join_family(unit, row, added)
        _write_trials(unit, self.optimization_id, trials, added)
        if trials:
            write_output(unit, self.optimization_id, trials[0].step, trials)
        if self.performance is not None and self.optimized_parameters is not None:
            unit.update(
                row,
                current_performance=real(self.performance),
                performance_improvement=real(self.improvement or 0.0),
                optimized_parameters=to_json(dict(self.optimized_parameters)),
            )
        unit.change(self.optimization_id, "step")


def _write_trials(unit: UnitOfWork, optimization_id: str, trials: Sequence[Trial], rows: Sequence[Row]) -> None:
    for trial, row in zip(trials, rows, strict=True):
        unit.insert(TRIAL, row)
        if trial.returns is not None:
            returns = {
                "optimization_id": optimization_id,
                "number": trial.number,
                "periods_per_year": trial.periods_per_year,
                "data": pack_returns(trial.returns),
                "hold_out": None if trial.hold_out_returns is None else pack_returns(trial.hold_out_returns),
                "calendar": write_calendar(unit, optimization_id, trial.dates),
                "hold_out_calendar": write_calendar(unit, optimization_id, trial.hold_out_dates),
            }
            unit.insert(RETURNS, returns)
    write_baseline(unit, optimization_id, trials)


def require_held(unit: UnitOfWork, optimization_id: str, fence: int, *, ending: bool = False) -> Row:
    """Return the row, or raise StaleAttemptError unless it has this fence and is active, or with `ending` ended."""
    row = unit.existing(optimization_id)
    status = OptimizationStatus(row["status"])
    if row["fence"] != fence or not (status in ACTIVE or (ending and status in INTENDED_END.values())):
        raise StaleAttemptError(
            f"optimization {optimization_id!r}: this attempt (fence {fence}) no longer holds it; it is "
            f"{row['status']} with fence {row['fence']}. Nothing was written"
        )
    return row

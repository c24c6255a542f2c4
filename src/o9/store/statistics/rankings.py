"""Rankings: the last value of each metric of an optimization, kept in an index that a page is read from.

`rank` writes them in the transaction in which an optimization rests, or ends; `RefreshRankings` for those that
run; `RecordMetrics` for what was measured from outside. `figures` decides, purely, what of a state may be ranked: what
was never measured is not among it, though the state has a 0.0 for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import is_placebo
from o9.store.core.column_types import real
from o9.store.core.unit import OnOptimization, Operation, Row, UnitOfWork
from o9.store.schema.optimizations import OPTIMIZATION, RECORDED
from o9.store.schema.statistics import RANKING

MAXIMIZE, MINIMIZE = "maximize", "minimize"
# The figures of a state that can be ranked, and whether more or less is better; None: as its optimization has it.
STATE_FIGURES: dict[str, str | None] = {
    "current_performance": None,
    "performance_improvement": MAXIMIZE,
    "execution_time": MINIMIZE,
    "waited_seconds": MINIMIZE,
    "completed_steps": MAXIMIZE,
    "cpu_usage": MINIMIZE,
    "memory_usage": MINIMIZE,
}
BEST_METRICS = "best_metrics"  # of an optimization's results: what its best trial's objective measured
_OF = " of "
_OF_THE_OBJECTIVE = frozenset({"best_value"})  # metrics of steps that are values of the objective
# What the rollups count of an optimization, and what is ranked of it beside that.
COUNTED = tuple(OPTIMIZATION.c[name] for name in (
    "optimization_id", "optimization_type", "strategy", "priority", "status", "started_at", "completed_at",
    "completed_steps", "execution_time", "current_performance", "performance_improvement", "optimized_parameters",
    "baseline_performance", "waited_seconds",
))  # fmt: skip
_RANKED = ("cpu_usage", "memory_usage", "metrics", "metadata", "results", "family")
_READ = select(*COUNTED, *(OPTIMIZATION.c[name] for name in _RANKED))


def figures(row: Mapping[Any, Any]) -> dict[str, tuple[str, float]]:
    """By metric the direction and the value of one optimization, of which `row` is the columns of `_READ`."""
    metadata = json.loads(row["metadata"])
    if is_placebo(metadata):
        return {}
    own = MINIMIZE if metadata.get("direction") == MINIMIZE else MAXIMIZE
    found = {
        name: (own if name in _OF_THE_OBJECTIVE else STATE_FIGURES.get(name) or MAXIMIZE, real(value))
        for name, value in json.loads(row["metrics"]).items()
        if _is_figure(value)
    }
    has = {
        "current_performance": measured(row),
        "performance_improvement": compared(row),
        "execution_time": row["started_at"] is not None,
        "waited_seconds": row["waited_seconds"] is not None,
        "completed_steps": row["started_at"] is not None,
        "cpu_usage": row["cpu_usage"] > 0.0,
        "memory_usage": row["memory_usage"] > 0.0,
    }
    found |= {name: (way or own, real(row[name])) for name, way in STATE_FIGURES.items() if has[name]}
    of_the_best = json.loads(row["results"]).get(BEST_METRICS)
    if row["family"] and isinstance(of_the_best, dict):
        found |= {
            within(name, row["family"]): (MAXIMIZE, real(value))
            for name, value in of_the_best.items()
            if _is_figure(value)
        }
    return found


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def within(metric: str, family: str) -> str:
    """What the best trial's own metric is ranked by: over other objectives or data it cannot be compared."""
    return f"{metric}{_OF}{family}"


def metric_of(name: str) -> str:
    """The metric that is ranked as `name`, without the family."""
    return name.rpartition(_OF)[0] or name


def families_of(metric: str, recorded: Iterable[str]) -> list[str]:
    """In which families `metric` is ranked, of all names that are."""
    return sorted(name.removeprefix(metric + _OF) for name in recorded if name.startswith(metric + _OF))


def measured(row: Mapping[Any, Any]) -> bool:
    """Whether it has a performance: 0.0 without parameters that reached it means that nothing has succeeded yet."""
    return bool(row["current_performance"] != 0.0 or row["optimized_parameters"] != "{}")


def compared(row: Mapping[Any, Any]) -> bool:
    """Whether its improvement is one: without a baseline it is the performance itself, and no share of anything."""
    return measured(row) and row["baseline_performance"] != 0.0


def rank(unit: UnitOfWork, optimization_ids: Iterable[str]) -> Sequence[Mapping[Any, Any]]:
    """Write what can be ranked of these, as the unit leaves them; answers with their rows."""
    unit.flush()
    where = OPTIMIZATION.c.optimization_id.in_(sorted(optimization_ids))
    found = unit.connection.execute(_READ.where(where)).mappings().all()
    rows = [
        {"optimization_id": row["optimization_id"], "metric": name, "direction": direction, "value": value}
        for row in found
        for name, (direction, value) in figures(row).items()
    ]
    if rows:
        unit.upsert(RANKING, rows)
    return found


@dataclass(frozen=True)
class RefreshRankings(Operation[None]):
    """Rank these again: they run, and have progressed."""

    optimization_ids: tuple[str, ...]

    def apply(self, unit: UnitOfWork) -> None:
        rank(unit, self.optimization_ids)


@dataclass(frozen=True)
class RecordMetrics(OnOptimization[None]):
    """Keep what was measured from outside. `at` is an ISO moment in UTC. It moves no status and needs no attempt."""

    optimization_id: str
    values: Mapping[str, float]
    at: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.existing(self.optimization_id)
        for name, value in self.values.items():
            if not _is_figure(value):
                raise OptimizationValidationError(name, f"{value!r} is not a finite number; leave out what is unknown")
        rows: list[Row] = []
        for name, value in self.values.items():
            known = {"optimization_id": self.optimization_id, "value": real(value)}
            unit.insert(RECORDED, {**known, "name": name, "at": self.at})
            rows.append({**known, "metric": name, "direction": STATE_FIGURES.get(name) or MAXIMIZE})
        # A state's own figures are O9's to measure; values from outside are history, and not ranked.
        rows = [row for row in rows if row["metric"] not in STATE_FIGURES]
        if rows:
            unit.upsert(RANKING, rows)

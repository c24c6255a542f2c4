"""Rankings: the last value of each metric of an optimization, in an index from which pages are read.

`rank` writes them in the transaction in which an optimization pauses or ends, `RefreshRankings` while it runs, and
`RecordMetrics` for metrics from outside. `ranked_figures` decides, purely, which figures of a state are ranked; those
that were never measured are not, though the state has 0.0 for them.
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
# The figures of a state that are ranked, and their direction; None means the optimization's own.
STATE_FIGURES: dict[str, str | None] = {
    "current_performance": None,
    "performance_improvement": MAXIMIZE,
    "execution_time": MINIMIZE,
    "waited_seconds": MINIMIZE,
    "completed_steps": MAXIMIZE,
    "cpu_usage": MINIMIZE,
    "memory_usage": MINIMIZE,
}
BEST_METRICS = "best_metrics"  # key of an optimization's results: the metrics of its best trial
_OF = " of "
_OF_THE_OBJECTIVE = frozenset({"best_value"})  # step metrics that are values of the objective
# The columns that rollups need.
COUNTED = tuple(OPTIMIZATION.c[name] for name in (
    "optimization_id", "optimization_type", "strategy", "priority", "status", "started_at", "completed_at",
    "completed_steps", "execution_time", "current_performance", "performance_improvement", "optimized_parameters",
    "baseline_performance", "waited_seconds",
))  # fmt: skip
_RANKED = ("cpu_usage", "memory_usage", "metrics", "metadata", "results", "family")
_READ = select(*COUNTED, *(OPTIMIZATION.c[name] for name in _RANKED))


def ranked_figures(row: Mapping[Any, Any]) -> dict[str, tuple[str, float]]:
    """Return direction and value by metric; `row` has the columns of `_READ`."""
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
        "current_performance": has_performance(row),
        "performance_improvement": has_improvement(row),
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
            family_metric(name, row["family"]): (MAXIMIZE, real(value))
            for name, value in of_the_best.items()
            if _is_figure(value)
        }
    return found


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def family_metric(metric: str, family: str) -> str:
    """Return the name under which a metric of the best trial is ranked: it is comparable only within a family."""
    return f"{metric}{_OF}{family}"


def metric_of(name: str) -> str:
    """Return the metric that is ranked as `name`, without the family."""
    return name.rpartition(_OF)[0] or name


def families_of(metric: str, recorded: Iterable[str]) -> list[str]:
    """Return the families in which `metric` is ranked, given the names of all ranked metrics."""
    return sorted(name.removeprefix(metric + _OF) for name in recorded if name.startswith(metric + _OF))


def has_performance(row: Mapping[Any, Any]) -> bool:
    """Whether a performance was measured: 0.0 without optimized parameters means that no trial has succeeded."""
    return bool(row["current_performance"] != 0.0 or row["optimized_parameters"] != "{}")


def has_improvement(row: Mapping[Any, Any]) -> bool:
    """Whether `performance_improvement` is a share of a baseline: without one, it is the performance itself."""
    return has_performance(row) and row["baseline_performance"] != 0.0


def rank(unit: UnitOfWork, optimization_ids: Iterable[str]) -> Sequence[Mapping[Any, Any]]:
    """Write the rankings of these optimizations as the unit leaves them, and return their rows."""
    unit.flush()
    where = OPTIMIZATION.c.optimization_id.in_(sorted(optimization_ids))
    found = unit.connection.execute(_READ.where(where)).mappings().all()
    rows = [
        {"optimization_id": row["optimization_id"], "metric": name, "direction": direction, "value": value}
        for row in found
        for name, (direction, value) in ranked_figures(row).items()
    ]
    if rows:
        unit.upsert(RANKING, rows)
    return found


@dataclass(frozen=True)
class RefreshRankings(Operation[None]):
    """Update the rankings of running optimizations."""

    optimization_ids: tuple[str, ...]

    def apply(self, unit: UnitOfWork) -> None:
        rank(unit, self.optimization_ids)


@dataclass(frozen=True)
class RecordMetrics(OnOptimization[None]):
    """Record metrics from outside, at the ISO time `at` in UTC. This needs no attempt."""

    optimization_id: str
    values: Mapping[str, float]
    at: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.existing(self.optimization_id)
        for name, value in self.values.items():
            if not _is_figure(value):
                raise OptimizationValidationError(name, f"{value!r} is not a finite number; omit unknown values")
        rows: list[Row] = []
        for name, value in self.values.items():
            known = {"optimization_id": self.optimization_id, "value": real(value)}
            unit.insert(RECORDED, {**known, "name": name, "at": self.at})
            rows.append({**known, "metric": name, "direction": STATE_FIGURES.get(name) or MAXIMIZE})
        # O9 measures a state's own figures itself; their values from outside enter only the history.
        rows = [row for row in rows if row["metric"] not in STATE_FIGURES]
        if rows:
            unit.upsert(RANKING, rows)

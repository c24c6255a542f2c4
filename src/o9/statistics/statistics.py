"""Figures over all optimizations, read from aggregates that are kept current: they cost the same at any size."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from o9.model.component import not_yet
from o9.model.optimization import OptimizationMetrics
from o9.model.states import OptimizationStatus
from o9.store.component import StoreComponent
from o9.store.rollups import quantile
from o9.store.store import Store

_ENDED_WELL = OptimizationStatus.COMPLETED.value
_ENDED_BADLY = (OptimizationStatus.FAILED.value, OptimizationStatus.CANCELLED.value, OptimizationStatus.TIMEOUT.value)


class OptimizationStatistics(StoreComponent):
    """Durations are seconds of running; improvements are shares of the baseline (see `o9.lifecycle.effect`)."""

    def __init__(self, storage_path: str = "optimization_stats.db", *, store: Store | None = None) -> None:
        super().__init__(store, storage_path)

    async def get_global_statistics(self) -> dict[str, Any]:
        """Counts by status, type and strategy; success rate, durations and improvements of what has ended."""
        counts = await self.store.read_async(self.store.counts)
        endings = await self.store.read_async(self.store.endings)
        by_status = _summed(counts, "status")
        completed = by_status.get(_ENDED_WELL, 0)
        ended = completed + sum(by_status.get(status, 0) for status in _ENDED_BADLY)
        return {
            "total_optimizations": sum(by_status.values()),
            "by_status": by_status,
            "by_type": _summed(counts, "optimization_type"),
            "by_strategy": _summed(counts, "strategy"),
            "active_optimizations": sum(by_status.get(status, 0) for status in ("initializing", "running")),
            "completed_optimizations": completed,
            "success_rate": completed / ended if ended else None,
            "duration_seconds": _distribution(endings, "duration_sum", "durations"),
            "performance_improvement": _distribution(endings, "improvement_sum", "improvements"),
        }

    async def get_optimization_statistics(self, optimization_id: str) -> dict[str, Any]:
        """Trials by state, steps, timing and effect of one optimization."""
        state = await self.existing(optimization_id)
        trials = await self.store.read_async(self.store.trial_counts, optimization_id)
        return {
            "optimization_id": optimization_id,
            "status": state.status.value,
            "trials": trials,
            "completed_steps": state.completed_steps,
            "total_steps": state.total_steps,
            "execution_time": state.execution_time,
            "current_performance": state.current_performance,
            "baseline_performance": state.baseline_performance,
            "performance_improvement": state.performance_improvement,
        }

    async def get_optimization_history(self, optimization_id: str, limit: int = 1000) -> list[dict[str, Any]]:
        """The last `limit` metric values, oldest first: step, name, value, at."""
        await self.existing(optimization_id)
        return await self.store.read_async(self.store.metrics, optimization_id, limit=limit)

    async def record_optimization_metric(self, optimization_id: str, metrics: OptimizationMetrics) -> None:
        raise not_yet("recording metrics from outside of an optimization")

    async def get_performance_trends(self, time_range: timedelta = timedelta(days=7)) -> dict[str, Any]:
        raise not_yet("a trend of performance")

    async def get_optimization_rankings(self, metric_name: str, limit: int = 10) -> list[dict[str, Any]]:
        raise not_yet("a ranking by a metric")


def _summed(counts: list[dict[str, Any]], key: str) -> dict[str, int]:
    summed: Counter[str] = Counter()
    for row in counts:
        summed[row[key]] += row["count"]
    return dict(sorted(summed.items()))


def _distribution(endings: list[dict[str, Any]], total: str, histogram: str) -> dict[str, float | None]:
    """Mean and quantiles over what ended after it had run; None where nothing has."""
    merged: Counter[str] = Counter()
    for row in endings:
        merged.update(row[histogram])
    count = sum(merged.values())
    return {
        "count": count,
        "mean": sum(row[total] for row in endings) / count if count else None,
        "median": quantile(merged, 0.5),
        "p90": quantile(merged, 0.9),
    }

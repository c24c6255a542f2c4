"""Statistics over all optimizations, read from aggregates, so that they cost the same at any size.

Contract. An unknown figure is None, with a reason. Only `record_optimization_metric` writes. Unknown ids raise
OptimizationNotFoundError; unknown metrics and invalid arguments raise OptimizationValidationError, naming the field.
The cost of `get_parameter_importance` and of frames grows with what they read. Events cover what any process wrote.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationMetrics, OptimizationState, utc_now
from o9.model.states import OptimizationStatus, OptimizationType
from o9.model.validation import validate_whole
from o9.statistics import frames, rows, summary
from o9.statistics.importance import MOST_TRIALS, importance
from o9.statistics.trends import trends, windows_of
from o9.store import queries
from o9.store.core.column_types import moment
from o9.store.core.component import StoreComponent
from o9.store.statistics.rankings import MAXIMIZE, MINIMIZE, STATE_FIGURES, RecordMetrics, families_of, family_metric
from o9.store.store import Store
from o9.text.suggest import suggestion

if TYPE_CHECKING:
    import pandas as pd

DAYS_SHOWN = 30
DEFAULT_RANGE = timedelta(days=7)
LOOKED_AT = 50  # how many optimizations in a status are read for the longest time in it
HISTORY_LIMIT = 100_000
MOST_RANKED = 1_000
CHECK_SECONDS = 1.0  # how often the end of an hour is looked for
SETTLED = timedelta(seconds=10)  # after the end of an hour, so that nodes with slow clocks have written to it
_NOW = ("created", "initializing", "running", "paused", "suspended")


class OptimizationStatistics(StoreComponent):
    """Statistics of the record. Durations are seconds of running; improvements are shares of the baseline.

    Used alone, `async with OptimizationStatistics("optimization_state.db") as statistics:` opens a store and closes it.

    While it is started, it emits the event `window` for each hour, ten seconds after its end, even if nothing ended in
    it. Its keys are `window` ("hour"), `starts` (YYYY-MM-DDTHH, in UTC), and those of a window of
    `get_performance_trends`.
    """

    events = ("window",)

    def __init__(
        self,
        storage_path: str = "optimization_stats.db",
        *,
        store: Store | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(store, storage_path)
        self._clock = clock
        self._hour = datetime.min  # the next hour to report

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cleanup()

    async def get_global_statistics(self) -> dict[str, Any]:
        """Return counts, rates, durations, improvements and waits, in total and by several keys.

        `ended` has them by type, strategy, priority and status, `by_day` for the last 30 days. `now` has, for each
        status that is no end, the longest time that an optimization has been in it. `quantiles` has the relative error
        of quantiles, which are read from histograms. See `o9.statistics.summary`.
        """
        return await asyncio.to_thread(_global, self.store)

    async def get_optimization_statistics(self, optimization_id: str) -> dict[str, Any]:
        """Return the trials by state, steps, times in seconds and performance of one optimization."""
        state = await self.existing(optimization_id)
        return await asyncio.to_thread(_of_one, self.store, state)

    async def get_optimization_history(self, optimization_id: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the last `limit` metric values, oldest first: step (None if from outside), name, value, at."""
        validate_whole("limit", limit, HISTORY_LIMIT)
        await self.existing(optimization_id)
        return await asyncio.to_thread(rows.metrics, self.store, optimization_id, limit)

    async def record_optimization_metric(self, optimization_id: str, metrics: OptimizationMetrics) -> None:
        """Record metrics from outside; fields that are None are skipped.

        They enter the history and the rankings, except that O9's own `execution_time`, `cpu_usage` and `memory_usage`
        are ranked. Raises OptimizationValidationError if all fields are None, or for another optimization's metrics.
        """
        if not isinstance(metrics, OptimizationMetrics):
            raise OptimizationValidationError("metrics", f"expected an OptimizationMetrics, got {metrics!r:.80}")
        if metrics.optimization_id != optimization_id:
            raise OptimizationValidationError(
                "metrics.optimization_id", f"{metrics.optimization_id!r} is not {optimization_id!r}"
            )
        names = [field.name for field in fields(metrics) if field.name not in ("optimization_id", "timestamp")]
        values = {name: value for name in names if (value := getattr(metrics, name)) is not None}
        if not values:
            raise OptimizationValidationError("metrics", f"all are None; give one of {', '.join(names)}")
        await self.store.write_async(RecordMetrics(optimization_id, values, moment(metrics.timestamp)))

    async def get_performance_trends(self, time_range: timedelta = DEFAULT_RANGE) -> dict[str, Any]:
        """Return count, success rate and means by hour (up to 2 days), day (up to 400) or month, with their slopes.

        Raises OptimizationValidationError for a range of zero or less. See `o9.statistics.trends`.
        """
        return await asyncio.to_thread(_trends, self.store, time_range)

    async def get_optimization_rankings(self, metric_name: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return the best `limit` by a metric: rank, optimization_id, value, direction, name, type, strategy, status.

        The metric is a figure of the state (`o9.store.statistics.rankings.STATE_FIGURES`) or any recorded metric.
        Values of the objective are ranked by each optimization's own direction; for times and resources less is better,
        for all else more. Running optimizations have the values of the last `compute_statistics`. Ties share a rank.

        Metrics of objectives (`Evaluation.metrics` of the best trial) are ranked within each family: the best `limit`
        of each family in turn, with its name as `family`.
        """
        return await asyncio.to_thread(_rankings, self.store, metric_name, limit)

    async def get_parameter_importance(self, optimization_id: str) -> dict[str, Any]:
        """Return how much each parameter and pair explains of the values of the first 20,000 trials."""
        await self.existing(optimization_id)
        trials = await self.store.read_async(queries.trials, optimization_id, limit=MOST_TRIALS)
        return {"optimization_id": optimization_id, **await asyncio.to_thread(importance, trials)}

    async def frame(
        self,
        kind: str,
        optimization_id: str | None = None,
        *,
        status: OptimizationStatus | str | None = None,
        optimization_type: OptimizationType | str | None = None,
        metric_name: str | None = None,
        time_range: timedelta | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a part of the record as a pandas frame; `o9.statistics.frames` has its columns.

        Kinds for one optimization: `trials`, `returns` (one value in a row; `limit` counts trials), `metrics` and
        `transitions`. For one or all: `health` and `alerts`. For all: `optimizations`, filtered by `status` and
        `optimization_type`; `rankings` by `metric_name`, 1,000 at most; `trends` over `time_range` (default: 7 days);
        `statistics`. Without `limit`, all rows are returned. Raises OptimizationValidationError for an argument that
        the kind does not take.

        >>> async def best(store_path, optimization_id):
        ...     async with OptimizationStatistics(store_path) as statistics:
        ...         trials = await statistics.frame("trials", optimization_id)
        ...     return trials.sort_values("value").iloc[-1]
        """
        choice = {
            "optimization_id": optimization_id, "status": status, "optimization_type": optimization_type,
            "metric_name": metric_name, "time_range": time_range, "limit": limit,
        }  # fmt: skip
        frames.check(kind, choice)
        if optimization_id is not None and kind != "alerts":  # an alert's id need not be an optimization's
            await self.existing(optimization_id)
        wanted = (
            _member("status", status, OptimizationStatus),
            _member("optimization_type", optimization_type, OptimizationType),
        )

        def made() -> pd.DataFrame:
            match kind:
                case "returns":
                    assert optimization_id is not None
                    return frames.returns_frame(optimization_id, rows.returns(self.store, optimization_id, limit))
                case "optimizations":
                    found = rows.optimizations(self.store, *wanted, limit)
                case "rankings":
                    found = _rankings(self.store, str(metric_name), limit or MOST_RANKED)
                case "trends":
                    found = _trends(self.store, DEFAULT_RANGE if time_range is None else time_range)["windows"]
                case "statistics":
                    found = rows.statistics(_global(self.store))
                case _:
                    found = _ROWS[kind](self.store, optimization_id, limit)
            return frames.frame_of(kind, found)

        return await asyncio.to_thread(made)

    async def export(self, path: str | Path, kind: str, optimization_id: str | None = None, **choice: Any) -> Path:
        """Write a `frame` to a `.csv` or `.parquet` file, and return its path. Parquet needs the extra [parquet]."""
        made = await self.frame(kind, optimization_id, **choice)
        return await asyncio.to_thread(frames.write, made, path)

    async def _begin(self) -> None:
        self._hour = _hour(self._clock())
        self._repeat(self._emit_windows, CHECK_SECONDS, "reporting the last hour's statistics")

    async def _emit_windows(self) -> None:
        while self._hour < _hour(self._clock() - SETTLED):
            starts, following = _name(self._hour), self._hour + timedelta(hours=1)
            rows = await self.store.read_async(queries.windows, "hour", starts, _name(following))
            self._hour = following
            await self.emit("window", {"window": "hour", "starts": starts, **summary.window_figures(rows)})


_ROWS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "trials": rows.trials,
    "metrics": rows.metrics,
    "transitions": rows.transitions,
    "health": rows.health,
    "alerts": rows.alerts,
}


def _global(store: Store) -> dict[str, Any]:
    now, counts = utc_now(), store.read(queries.counts)
    result = summary.global_summary(counts, store.read(queries.priorities), store.read(queries.totals))
    since = (now - timedelta(days=DAYS_SHOWN - 1)).strftime("%Y-%m-%d")
    by_status = Counter(summary.summed(counts, "status"))  # includes placebo runs, which also wait in the queue
    return result | {
        "by_day": summary.by_window(store.read(queries.windows, "day", since, "9999")),
        "now": {status: _in_status(store, status, by_status[status], now) for status in _NOW},
    }


def _in_status(store: Store, status: str, count: int, now: datetime) -> dict[str, Any]:
    """Return the count, and the longest time in this status among the `looked_at` oldest optimizations in it."""
    since = store.read(queries.in_status_since, status, LOOKED_AT) if count else []
    longest = max(0.0, (now - datetime.fromisoformat(min(since))).total_seconds()) if since else None
    return {"count": count, "looked_at": len(since), "longest_seconds": longest}


def _of_one(store: Store, state: OptimizationState) -> dict[str, Any]:
    holding = store.read(queries.holding, state.optimization_id)
    figures = (
        "completed_steps", "total_steps", "progress", "execution_time", "current_performance", "baseline_performance",
        "target_performance", "performance_improvement",
    )  # fmt: skip
    return {
        "optimization_id": state.optimization_id,
        "status": state.status.value,
        "trials": store.read(queries.trial_counts, state.optimization_id),
        **{name: getattr(state, name) for name in figures},
        "seconds_per_step": state.execution_time / state.completed_steps if state.completed_steps else None,
        "waited_seconds": holding.waited_seconds if holding else None,
        "attempts": holding.attempt if holding else None,
    }


def _trends(store: Store, time_range: timedelta) -> dict[str, Any]:
    windows = windows_of(time_range, utc_now(), lambda span: store.read(queries.first_window, span))
    rows = store.read(queries.windows, windows.span, windows.starts[0], "9999") if windows.starts else ()
    return {"time_range_seconds": time_range.total_seconds(), **trends(windows, summary.by_window(rows))}


def _rankings(store: Store, metric: str, limit: int) -> list[dict[str, Any]]:
    if not isinstance(metric, str) or not metric or "\0" in metric:
        raise OptimizationValidationError("metric_name", f"{metric!r} is not the name of a metric")
    validate_whole("limit", limit, MOST_RANKED)
    rows = [row for own in (MAXIMIZE, MINIMIZE) for row in store.read(queries.ranked, metric, own, limit)]
    if rows or metric in STATE_FIGURES:
        return _ranked(rows, limit)
    recorded = store.read(queries.ranked_metrics)
    if not (families := families_of(metric, recorded)):
        near = suggestion(metric, sorted({*STATE_FIGURES, *recorded}), n=3, cutoff=0.5)
        raise OptimizationValidationError("metric_name", f"no optimization has the metric {metric!r}{near}")
    of_each = [(family, _rankings(store, family_metric(metric, family), limit)) for family in families]
    return [row | {"family": family} for family, ranked in of_each for row in ranked]


def _ranked(rows: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return the best `limit` of `rows`, which are the best of each direction. Ties share a rank: 1, 1, 3.

    To put both directions in one order, values that are minimized are compared with the opposite sign.
    """

    def score(row: Mapping[str, Any]) -> float:
        return float(row["value"] if row["direction"] == MAXIMIZE else -row["value"])

    ranks: list[dict[str, Any]] = []
    for place, row in enumerate(sorted(rows, key=lambda row: (-score(row), row["optimization_id"]))[:limit], start=1):
        rank = ranks[-1]["rank"] if ranks and score(ranks[-1]) == score(row) else place
        ranks.append({"rank": rank, **row})
    return ranks


def ranks_shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rank of each row as text, with `=` after a rank that several rows share."""
    ranks = [(row.get("family"), row["rank"]) for row in rows]
    return [f"{rank[1]}{'=' if ranks.count(rank) > 1 else ''}" for rank in ranks]


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _name(hour: datetime) -> str:
    return hour.strftime("%Y-%m-%dT%H")


def _member(field: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        return None if value is None else kind(value)
    except ValueError as error:
        raise OptimizationValidationError(field, str(error)) from None

"""Figures over all optimizations, read from aggregates that are kept current: they cost the same at any size.

Contract. What is unknown is None, with the reason beside it. Nothing here writes, but `record_optimization_metric`.
Unknown ids raise OptimizationError, unknown metrics and bad arguments OptimizationValidationError, naming the field.
`get_parameter_importance` and the frames read what they are asked about, and cost what that is. Events follow the
record, whichever process wrote it.
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
from o9.store.statistics.rankings import MAXIMIZE, MINIMIZE, STATE_FIGURES, RecordMetrics, families_of, within
from o9.store.store import Store
from o9.text.suggest import suggestion

if TYPE_CHECKING:
    import pandas as pd

DAYS_SHOWN = 30
DEFAULT_RANGE = timedelta(days=7)
LOOKED_AT = 50  # of those in one status now, to say how long they have been in it
HISTORY_LIMIT = 100_000
MOST_RANKED = 1_000
LOOK_SECONDS = 1.0  # for an hour that is over
SETTLED = timedelta(seconds=10)  # after its end, a node whose clock is slow may still write to an hour
_NOW = ("created", "initializing", "running", "paused", "suspended")


class OptimizationStatistics(StoreComponent):
    """Durations are seconds of running; improvements are shares of the baseline (see `o9.lifecycle.effect`).

    By itself, `async with OptimizationStatistics("optimization_state.db") as statistics:` opens a store and closes it.

    Event, while it is started: `window(window)` for each hour, ten seconds after its end, also where nothing ended in
    it. Keys: `window` ("hour"), `starts` (YYYY-MM-DDTHH, in UTC), and those of `get_performance_trends`' windows.
    clock: says what time it is.
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
        self._hour = datetime.min  # the next one to report

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cleanup()

    async def get_global_statistics(self) -> dict[str, Any]:
        """Counts, rates, durations, improvements and waits, also by type, strategy, priority, status and day.

        `ended` has them by each; `by_day` the last 30 days; `now` for how long those that have not ended are what they
        are. Quantiles are read from histograms: `quantiles` has their relative error. See `summary`.
        """
        return await asyncio.to_thread(_global, self.store)

    async def get_optimization_statistics(self, optimization_id: str) -> dict[str, Any]:
        """Trials by state, steps, timing and effect of one optimization; seconds."""
        state = await self.existing(optimization_id)
        return await asyncio.to_thread(_of_one, self.store, state)

    async def get_optimization_history(self, optimization_id: str, limit: int = 1000) -> list[dict[str, Any]]:
        """The last `limit` metric values, oldest first: step (None: recorded from outside), name, value, at."""
        validate_whole("limit", limit, HISTORY_LIMIT)
        await self.existing(optimization_id)
        return await asyncio.to_thread(rows.metrics, self.store, optimization_id, limit)

    async def record_optimization_metric(self, optimization_id: str, metrics: OptimizationMetrics) -> None:
        """Keep what was measured from outside; fields that are None are left out.

        It enters the history, and the rankings but for what O9 measures itself (`execution_time`, `cpu_usage`,
        `memory_usage`). Raises OptimizationValidationError where nothing was measured, or another id is meant.
        """
        if not isinstance(metrics, OptimizationMetrics):
            raise OptimizationValidationError("metrics", f"an OptimizationMetrics is needed, not {metrics!r:.80}")
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
        """By hour (up to 2 days), day (up to 400) or month: count, success rate, means; each with a slope.

        Raises OptimizationValidationError for a range of zero or less. See `o9.statistics.trends`.
        """
        return await asyncio.to_thread(_trends, self.store, time_range)

    async def get_optimization_rankings(self, metric_name: str, limit: int = 10) -> list[dict[str, Any]]:
        """The best `limit` by a metric: rank, optimization_id, value, direction, name, type, strategy, status.

        A figure of the state (`o9.store.statistics.rankings.STATE_FIGURES`) or any recorded metric. What its objective
        gives is ranked by each optimization's own direction; less is better for times and resources, more for all else.
        Those that run are ranked as `compute_statistics` last found them. Ties share a rank.

        What objectives measured themselves (`Evaluation.metrics`, of the best trial) is ranked within each family: the
        best `limit` of one, then those of the next; `family` says which.
        """
        return await asyncio.to_thread(_rankings, self.store, metric_name, limit)

    async def get_parameter_importance(self, optimization_id: str) -> dict[str, Any]:
        """Which parameters and pairs explain the values of one optimization's trials (the first 20,000)."""
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
        """A part of the record as a pandas frame, whole unless `limit`; its columns: see `o9.statistics.frames`.

        Of one optimization: `trials`, `returns` (of its trials, one value a row; `limit` counts trials), `metrics` and
        `transitions`. Of all, or one: `health` and `alerts`. Of all: `optimizations`, also by `status` and
        `optimization_type`; `rankings` by `metric_name`, 1,000 at most; `trends` over `time_range`, 7 days unless
        given; `statistics`. Raises OptimizationValidationError for what a kind does not take, naming it.

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
        if optimization_id is not None and kind != "alerts":  # which may be about what is no optimization
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
        """Write a `frame` to `….csv` or `….parquet`; returns the path. Parquet needs the extra [parquet]."""
        made = await self.frame(kind, optimization_id, **choice)
        return await asyncio.to_thread(frames.write, made, path)

    async def _begin(self) -> None:
        self._hour = _hour(self._clock())
        self._repeat(self._emit_windows, LOOK_SECONDS, "reporting the hour that is over")

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
    by_status = Counter(summary.summed(counts, "status"))  # with placebo runs, which take their turn in the queue
    return result | {
        "by_day": summary.by_window(store.read(queries.windows, "day", since, "9999")),
        "now": {status: _in_status(store, status, by_status[status], now) for status in _NOW},
    }


def _in_status(store: Store, status: str, count: int, now: datetime) -> dict[str, Any]:
    """`looked_at`: of how many, those that were created first, `longest_seconds` is known; None where of none."""
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
        raise OptimizationValidationError("metric_name", f"nothing was ranked by {metric!r}{near}")
    of_each = [(family, _rankings(store, within(metric, family), limit)) for family in families]
    return [row | {"family": family} for family, ranked in of_each for row in ranked]


def _ranked(rows: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The best `limit` of `rows`, which are the first `limit` of each direction. Ties share a rank: 1, 1, 3.

    Each is ranked by its own direction: a smaller value of what is minimized is better, and those of different
    directions are put in one order by the value with its sign turned.
    """

    def score(row: Mapping[str, Any]) -> float:
        return float(row["value"] if row["direction"] == MAXIMIZE else -row["value"])

    ranks: list[dict[str, Any]] = []
    for place, row in enumerate(sorted(rows, key=lambda row: (-score(row), row["optimization_id"]))[:limit], start=1):
        rank = ranks[-1]["rank"] if ranks and score(ranks[-1]) == score(row) else place
        ranks.append({"rank": rank, **row})
    return ranks


def ranks_shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rank of each; `=` behind one that several of them share."""
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

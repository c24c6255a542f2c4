"""Global figures from rollups, as JSON-ready data. Pure.

Shares are 0 to 1, durations and waits are in seconds, improvements are shares of the baseline (`o9.lifecycle.effect`).
An unknown figure is None, with a `reason`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from o9.model.states import OptimizationPriority, OptimizationStatus
from o9.model.strategy import PLACEBO
from o9.store.statistics.rollups import HISTOGRAMS, RELATIVE_ERROR, SUMS, Key, Sums, bucket_centre, quantiles

COMPLETED = OptimizationStatus.COMPLETED.value
FAILED = (OptimizationStatus.FAILED.value, OptimizationStatus.TIMEOUT.value)
CANCELLED = OptimizationStatus.CANCELLED.value
ENDED = (COMPLETED, *FAILED, CANCELLED)
ACTIVE = (OptimizationStatus.INITIALIZING.value, OptimizationStatus.RUNNING.value)
QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9}
QUANTILES_ARE = {
    "source": "histogram buckets, a twelfth of a decade wide",
    "relative_error": round(RELATIVE_ERROR, 4),
}
BY = {"type": 2, "strategy": 3, "priority": 4, "status": 5}  # positions in a rollup's key


def global_summary(
    counts: Sequence[Mapping[str, Any]],
    priorities: Sequence[Mapping[str, Any]],
    totals: Sequence[tuple[Key, Sums]],
) -> dict[str, Any]:
    """Return counts of all optimizations, and figures of ended ones in total and by each of `BY`.

    `success_rate` is the share of completed optimizations in ended ones, `failure_rate` that of failed and timed out
    ones; the rest was cancelled. Placebo runs are counted only in `placebo_runs` and by priority. Pruned optimizations
    are included in the figures of ended ones but not in the counts; `pruned_optimizations` is their number.

    counts, priorities, totals: the results of the queries of these names.
    """
    placebo_runs = sum(row["count"] for row in counts if row["strategy"] == PLACEBO)
    counts = [row for row in counts if row["strategy"] != PLACEBO]
    by_status = summed(counts, "status")
    by_key = _grouped(totals := [(key, sums) for key, sums in totals if key.strategy != PLACEBO])
    ended = {status: sums.count for status, sums in by_key["status"].items()}
    whole = Sums()
    for sums in by_key["status"].values():
        whole.add(sums)
    return {
        "total_optimizations": sum(by_status.values()),
        "placebo_runs": placebo_runs,
        "by_status": by_status,
        "by_type": summed(counts, "optimization_type"),
        "by_strategy": summed(counts, "strategy"),
        "by_priority": {priority_name(row["priority"]): row["count"] for row in priorities},
        "active_optimizations": sum(by_status.get(status, 0) for status in ACTIVE),
        "completed_optimizations": by_status.get(COMPLETED, 0),
        "failed_optimizations": sum(by_status.get(status, 0) for status in FAILED),
        "pruned_optimizations": max(0, sum(ended.values()) - sum(by_status.get(status, 0) for status in ENDED)),
        **rates(ended),
        **spread(whole),
        "ended": {by: _ended_by(by, grouped, totals) for by, grouped in by_key.items()},
        "quantiles": QUANTILES_ARE,
    }


def rates(by_status: Mapping[str, int]) -> dict[str, float | None]:
    """Return shares of ended optimizations; None if there are none."""
    ended = sum(by_status.get(status, 0) for status in ENDED)
    if not ended:
        return dict.fromkeys(("success_rate", "failure_rate", "cancelled_rate"))
    return {
        "success_rate": by_status.get(COMPLETED, 0) / ended,
        "failure_rate": sum(by_status.get(status, 0) for status in FAILED) / ended,
        "cancelled_rate": by_status.get(CANCELLED, 0) / ended,
    }


def spread(sums: Sums) -> dict[str, dict[str, Any]]:
    """Return mean and quantiles of durations, improvements and waits."""
    return {
        "duration_seconds": _distribution(
            sums.ran, sums.duration_sum, sums.durations, "no optimization that ran has ended"
        ),
        "performance_improvement": _distribution(
            sums.improved, sums.improvement_sum, sums.improvements, "no ended optimization has an improvement"
        ),
        "waiting_seconds": _distribution(
            sums.waited, sums.wait_sum, sums.waits, "no ended optimization has a waiting time"
        ),
    }


def by_window(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each window by its start, from rows of `queries.windows`."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["starts"], []).append(row)
    return {starts: window_figures(each) for starts, each in grouped.items()}


def window_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one window, from its rows by status."""
    by_status = {row["status"]: int(row["count"]) for row in rows}
    ran, improved = (sum(int(row[name]) for row in rows) for name in ("ran", "improved"))
    return {
        "count": sum(by_status.values()),
        "by_status": by_status,
        "success_rate": rates(by_status)["success_rate"],
        "mean_duration_seconds": sum(row["duration_sum"] for row in rows) / ran if ran else None,
        "mean_improvement": sum(row["improvement_sum"] for row in rows) / improved if improved else None,
    }


def priority_name(level: int) -> str:
    return OptimizationPriority(level).name.lower()


def _grouped(totals: Sequence[tuple[Key, Sums]]) -> dict[str, dict[Any, Sums]]:
    """Add up the rollups by each of `BY`. Histograms are first made lists of equal length, which are cheap to add."""
    dense = {name: _dense([getattr(sums, name) for _, sums in totals]) for name in HISTOGRAMS}
    found: dict[str, dict[Any, Sums]] = {}
    for by, place in BY.items():
        members: dict[Any, list[int]] = {}
        for number, (key, _) in enumerate(totals):
            members.setdefault(key[place], []).append(number)
        found[by] = {name: _added(totals, dense, each) for name, each in sorted(members.items())}
    return found


def _dense(histograms: Sequence[Mapping[str, int]]) -> tuple[list[str], list[list[int]]]:
    buckets = sorted({bucket for each in histograms for bucket in each}, key=bucket_centre)
    return buckets, [[each.get(bucket, 0) for bucket in buckets] for each in histograms]


def _added(
    totals: Sequence[tuple[Key, Sums]], dense: Mapping[str, tuple[list[str], list[list[int]]]], members: Sequence[int]
) -> Sums:
    whole = Sums(**{name: sum(getattr(totals[n][1], name) for n in members) for name in SUMS})
    for name, (buckets, rows) in dense.items():
        dict.update(
            getattr(whole, name), zip(buckets, map(sum, zip(*(rows[n] for n in members), strict=True)), strict=True)
        )
    return whole


def _ended_by(by: str, grouped: Mapping[Any, Sums], totals: Sequence[tuple[Key, Sums]]) -> dict[str, dict[str, Any]]:
    by_status: dict[Any, Counter[str]] = {name: Counter() for name in grouped}
    for key, sums in totals:
        by_status[key[BY[by]]][key.status] += sums.count
    return {
        priority_name(name) if by == "priority" else name: {
            "count": whole.count,
            "by_status": dict(by_status[name]),
            **rates(by_status[name]),
            **spread(whole),
        }
        for name, whole in grouped.items()
    }


def summed(counts: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    summed: Counter[str] = Counter()
    for row in counts:
        summed[row[key]] += row["count"]
    return dict(sorted(summed.items()))


def _distribution(count: int, total: float, histogram: Mapping[str, int], reason: str) -> dict[str, Any]:
    result: dict[str, Any] = {"count": count, "mean": total / count if count else None}
    if count and sum(map(bool, histogram.values())) == 1:  # in a single bucket, the mean is at least as accurate
        return result | dict.fromkeys(QUANTILES, result["mean"])
    result |= zip(QUANTILES, quantiles(histogram, tuple(QUANTILES.values())), strict=True)
    return result if count else result | {"reason": reason}

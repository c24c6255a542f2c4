"""Maintenance of the rollups, and their summary: what the flow `compute_statistics` does, without Prefect.

Rollups are written in the transaction that ends an optimization. A result that is amended later, or an edit of the
database by hand, can make them wrong. So recent days are recounted from the record, hour by hour, and differences are
added (`RepairRollups`); then days are compared with their hours, months with their days, all time with its months. The
cost does not grow with history. Writers wait only while a window is repaired.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from o9.model.states import OptimizationStatus
from o9.model.validation import validate_whole
from o9.statistics.rows import statistics
from o9.store import queries
from o9.store.statistics.rankings import RefreshRankings
from o9.store.statistics.repair import RepairRollups
from o9.store.store import Store
from o9.text.format import figure

DAYS = 2  # today, and yesterday, to which a node with a slow clock may still write
MOST_DAYS = 36_600
REFRESHED_LIMIT = 1_000
BATCH = 200

Progress = Callable[[float], Awaitable[None]]


@dataclass
class Maintenance:
    """What was compared and repaired. `corrections` has each wrong rollup, and what was added to it."""

    days: list[str] = field(default_factory=list)
    windows: int = 0
    corrections: list[dict[str, Any]] = field(default_factory=list)
    refreshed_rankings: int = 0


async def maintain_rollups(
    store: Store, now: datetime, days: int = DAYS, progress: Progress | None = None
) -> Maintenance:
    """Repair the rollups of the last `days` days including today, and refresh the rankings of what runs."""
    validate_whole("days", days, MOST_DAYS)
    done = Maintenance()
    first = await store.read_async(queries.first_ended)
    dates = [(now - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(days - 1, -1, -1)]
    done.days = [day for day in dates if (first is not None and day >= first[:10]) or day in dates[-DAYS:]]
    for number, day in enumerate(done.days):
        for hour in await store.read_async(queries.hours_ended_in, day):
            await _repair(store, "hour", hour, done)
        await _repair(store, "day", day, done)
        if progress is not None:
            await progress((number + 1) / (len(done.days) + 1))
    for month in sorted({day[:7] for day in done.days}):
        await _repair(store, "month", month, done)
    await _repair(store, "all", "", done)
    done.refreshed_rankings = await _refresh(store)
    if progress is not None:
        await progress(1.0)
    return done


async def _repair(store: Store, span: str, starts: str, done: Maintenance) -> None:
    done.windows += 1
    if not await store.read_async(queries.differences, span, starts):
        return
    for key, missing in (await store.write_async(RepairRollups(span, starts))).items():
        figures = {
            "count": missing.count, "steps": missing.steps_sum, "duration_seconds": missing.duration_sum,
            "improvement": missing.improvement_sum, "waiting_seconds": missing.wait_sum,
        }  # fmt: skip
        done.corrections.append(key._asdict() | figures)


async def _refresh(store: Store) -> int:
    wanted = queries.Filter(status=OptimizationStatus.RUNNING)
    running = [each.optimization_id for each in (await store.read_async(queries.page, wanted, REFRESHED_LIMIT)).items]
    for begin in range(0, len(running), BATCH):
        await store.write_async(RefreshRankings(tuple(running[begin : begin + BATCH])))
    return len(running)


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `get_global_statistics()` as a row for all, and one for each type, strategy, priority and status."""
    return [
        {
            name.replace("_", " "): value if isinstance(value, (int, str)) else figure(value)
            for name, value in row.items()
        }
        for row in statistics(summary)
    ]


def markdown(summary: Mapping[str, Any], trends: Mapping[str, Any], done: Maintenance) -> str:
    """Return a summary in Markdown: counts, trends, and the result of the maintenance."""
    counts = ", ".join(f"{count} {status}" for status, count in summary["by_status"].items()) or "none yet"
    pruned = f"; {summary['pruned_optimizations']} were pruned" if summary["pruned_optimizations"] else ""
    days = done.days[0] if len(done.days) == 1 else f"{done.days[0]} to {done.days[-1]}"
    repaired = f"**{len(done.corrections)} rollups repaired**" if done.corrections else "all were correct"
    return "\n".join([
        "# Optimizations",
        "",
        f"**{summary['total_optimizations']}** in total: {counts}{pruned}.",
        "",
        f"## Trend by {trends['window']}",
        "",
        *(f"- {name.replace('_', ' ')}: {_trend(each)}" for name, each in trends["trends"].items()),
        "",
        "## Rollups",
        "",
        f"{done.windows} windows compared with the record ({days}): {repaired}.",
        "",
    ])  # fmt: skip


def _trend(each: Mapping[str, Any]) -> str:
    if each["slope"] is None:
        return f"unknown: {each['reason']}"
    return (
        f"{each['direction']}, {each['slope']:+.4g} per {each['per']} "
        f"(95%: {each['low']:+.4g} to {each['high']:+.4g}, {each['windows']} windows)"
    )

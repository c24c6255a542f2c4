"""Keeping the rollups true, and what is shown of them: what `compute_statistics` does, without Prefect.

The rollups are written in the transaction that ends an optimization. An amendment of a result after the end, or an edit
of the database by hand, can still make them wrong. So the days that can still change are recounted from the record, an
hour at a time, and what differs is added (`mending.Mend`); then days are compared with their hours, months with their
days, all time with its months. The cost does not grow with history. Writers wait only for a window that is mended.
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
from o9.store.statistics.mending import Mend
from o9.store.statistics.rankings import RefreshRankings
from o9.store.store import Store
from o9.text.format import figure

DAYS = 2  # today, and yesterday, which a node with a slow clock may still write to
MOST_DAYS = 36_600
REFRESHED_LIMIT = 1_000
BATCH = 200

Progress = Callable[[float], Awaitable[None]]


@dataclass
class Upkeep:
    """What was compared and mended. `corrections`: each rollup that was wrong, and by how much."""

    days: list[str] = field(default_factory=list)
    windows: int = 0
    corrections: list[dict[str, Any]] = field(default_factory=list)
    refreshed_rankings: int = 0


async def keep_up(store: Store, now: datetime, days: int = DAYS, progress: Progress | None = None) -> Upkeep:
    """Mend the rollups of the last `days` days (today is one), and refresh what runs in the rankings."""
    validate_whole("days", days, MOST_DAYS)
    upkeep = Upkeep()
    first = await store.read_async(queries.first_ended)
    dates = [(now - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(days - 1, -1, -1)]
    upkeep.days = [day for day in dates if (first is not None and day >= first[:10]) or day in dates[-DAYS:]]
    for number, day in enumerate(upkeep.days):
        for hour in await store.read_async(queries.hours_ended_in, day):
            await _mend(store, "hour", hour, upkeep)
        await _mend(store, "day", day, upkeep)
        if progress is not None:
            await progress((number + 1) / (len(upkeep.days) + 1))
    for month in sorted({day[:7] for day in upkeep.days}):
        await _mend(store, "month", month, upkeep)
    await _mend(store, "all", "", upkeep)
    upkeep.refreshed_rankings = await _refresh(store)
    if progress is not None:
        await progress(1.0)
    return upkeep


async def _mend(store: Store, span: str, starts: str, upkeep: Upkeep) -> None:
    upkeep.windows += 1
    if not await store.read_async(queries.differences, span, starts):
        return
    for key, missing in (await store.write_async(Mend(span, starts))).items():
        figures = {
            "count": missing.count, "steps": missing.steps_sum, "duration_seconds": missing.duration_sum,
            "improvement": missing.improvement_sum, "waiting_seconds": missing.wait_sum,
        }  # fmt: skip
        upkeep.corrections.append(key._asdict() | figures)


async def _refresh(store: Store) -> int:
    wanted = queries.Filter(status=OptimizationStatus.RUNNING)
    running = [each.optimization_id for each in (await store.read_async(queries.page, wanted, REFRESHED_LIMIT)).items]
    for begin in range(0, len(running), BATCH):
        await store.write_async(RefreshRankings(tuple(running[begin : begin + BATCH])))
    return len(running)


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`get_global_statistics()` as one row for all, and one for each type, strategy, priority and status."""
    return [
        {
            name.replace("_", " "): value if isinstance(value, (int, str)) else figure(value)
            for name, value in row.items()
        }
        for row in statistics(summary)
    ]


def markdown(summary: Mapping[str, Any], trends: Mapping[str, Any], upkeep: Upkeep) -> str:
    """How many there are, where it is going, and whether the rollups were true."""
    counts = ", ".join(f"{count} {status}" for status, count in summary["by_status"].items()) or "none yet"
    pruned = f"; {summary['pruned_optimizations']} more were pruned" if summary["pruned_optimizations"] else ""
    days = upkeep.days[0] if len(upkeep.days) == 1 else f"{upkeep.days[0]} to {upkeep.days[-1]}"
    mended = f"**{len(upkeep.corrections)} rollups mended**" if upkeep.corrections else "all were true"
    return "\n".join([
        "# Optimizations",
        "",
        f"**{summary['total_optimizations']}** in all: {counts}{pruned}.",
        "",
        f"## Trend by {trends['window']}",
        "",
        *(f"- {name.replace('_', ' ')}: {_trend(each)}" for name, each in trends["trends"].items()),
        "",
        "## Rollups",
        "",
        f"{upkeep.windows} windows compared with the record ({days}): {mended}.",
        "",
    ])  # fmt: skip


def _trend(each: Mapping[str, Any]) -> str:
    if each["slope"] is None:
        return f"unknown: {each['reason']}"
    return (
        f"{each['direction']}, {each['slope']:+.4g} per {each['per']} "
        f"(95%: {each['low']:+.4g} to {each['high']:+.4g}, {each['windows']} windows)"
    )

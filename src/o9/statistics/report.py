"""Statistics as tables and Markdown for Prefect's artifacts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from o9.statistics.rows import statistics
from o9.statistics.upkeep import Upkeep
from o9.text.format import figure


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`get_global_statistics()` as one row for all, and one for each type, strategy, priority and status."""
    return [{name.replace("_", " "): figure(value) for name, value in row.items()} for row in statistics(summary)]


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

"""Statistics as tables and Markdown for Prefect's artifacts. Pure; an unknown figure is a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from o9.statistics.rows import statistics
from o9.statistics.upkeep import Upkeep
from o9.text.format import brief, percent


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`get_global_statistics()` as one row for all, and one for each type, strategy, priority and status."""
    return [
        {
            "by": row["by"],
            "which": row["which"],
            "ended": row["count"],
            "success rate": percent(row["success_rate"]),
            "mean seconds": brief(row["mean_duration_seconds"]),
            "median seconds": brief(row["median_duration_seconds"]),
            "mean improvement": percent(row["mean_improvement"]),
            "mean wait, seconds": brief(row["mean_waiting_seconds"]),
        }
        for row in statistics(summary)
    ]


def markdown(summary: Mapping[str, Any], trends: Mapping[str, Any], upkeep: Upkeep) -> str:
    """The same as Markdown, with the trends and the rollups that were mended."""
    lines = [
        "# Optimizations",
        "",
        f"**{summary['total_optimizations']}** in all: "
        + (", ".join(f"{count} {status}" for status, count in summary["by_status"].items()) or "none yet")
        + (f"; {summary['pruned_optimizations']} more were pruned" if summary["pruned_optimizations"] else "")
        + ".",
        "",
        f"- completed: {percent(summary['success_rate'])} of what ended",
        f"- failed or timed out: {percent(summary['failure_rate'])}",
        f"- seconds of running: {_spread(summary['duration_seconds'])}",
        f"- improvement on the baseline: {_spread(summary['performance_improvement'])}",
        f"- seconds in the queue: {_spread(summary['waiting_seconds'])}",
        "",
        f"Quantiles come from histograms and are within {percent(summary['quantiles']['relative_error'])}.",
        "",
        f"## Trend by {trends['window']}",
        "",
    ]
    lines += [f"- {name.replace('_', ' ')}: {_trend(each)}" for name, each in trends["trends"].items()]
    lines += ["", "## Rollups", "", _mended(upkeep)]
    return "\n".join(lines) + "\n"


def _mended(upkeep: Upkeep) -> str:
    days = upkeep.days[0] if len(upkeep.days) == 1 else f"{upkeep.days[0]} to {upkeep.days[-1]}"
    if not upkeep.corrections:
        return f"{upkeep.windows} windows compared with the record ({days}): all were true."
    return f"{upkeep.windows} windows compared with the record ({days}): **{len(upkeep.corrections)} rollups mended**."


def _trend(each: Mapping[str, Any]) -> str:
    if each["slope"] is None:
        return f"unknown: {each['reason']}"
    return (
        f"{each['direction']}, {each['slope']:+.4g} per {each['per']} "
        f"(95%: {each['low']:+.4g} to {each['high']:+.4g}, {each['windows']} windows)"
    )


def _spread(figures: Mapping[str, Any]) -> str:
    if figures["mean"] is None:
        return f"unknown: {figures['reason']}"
    return (
        f"mean {figures['mean']:.4g}, median about {figures['median']:.3g}, "
        f"90% up to about {figures['p90']:.3g} ({figures['count']})"
    )

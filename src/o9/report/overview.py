"""All optimizations as a page: what stands where, and the reason where something cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from o9.report.charts import life as life_plots
from o9.report.facts import AllFacts
from o9.report.headline import Figure
from o9.statistics.ranking import ranks_shown
from o9.statistics.trends import FIGURES
from o9.text.format import duration, number, percent

FEWEST_WINDOWS = 2  # of which something can be drawn
# What a ranking is by, and how its values read.
_RANKINGS: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "current_performance": ("Best value", number),
    "performance_improvement": ("Improvement on the baseline", lambda value: percent(value, sign=True)),
    "execution_time": ("Time of running, the shortest first", duration),
}
_QUEUE = {
    "queued": "Waiting for a slot",
    "claimed": "Claimed, and about to begin",
    "waiting_for_others": "Waiting for others to complete",
    "held": "Held back until they are started",
}


def overview(found: AllFacts) -> dict[str, Any]:
    """What `templates/overview.html` shows beside the facts themselves."""
    summary = found.summary
    drawn = len(found.trends["windows"]) >= FEWEST_WINDOWS
    return {
        "figures": _figures(summary),
        "trends": [(life_plots.TREND_TITLES[name], life_plots.trend(name, found.trends)) for name in FIGURES if drawn],
        "trends_note": _trends_note(found.trends),
        "rankings": [_ranking(metric, rows) for metric, rows in found.rankings.items()],
        "queue": _queue(summary["queue"]),
    }


def _trends_note(trends: Mapping[str, Any]) -> str:
    window, windows = trends["window"], trends["windows"]
    if not windows:
        return "Not drawn. Nothing has ended yet."
    since = life_plots.start_of(windows[0]["starts"])
    if len(windows) < FEWEST_WINDOWS:
        return f"Not drawn. All that has ended did so in one {window}, from {since} UTC on; a trend needs another."
    return (
        f"By the {window}, from {since} UTC on. Slopes are Theil and Sen's with their 95% interval; the {window} that "
        "the present is in is shown, and counts for none."
    )


def _figures(summary: Mapping[str, Any]) -> list[Figure]:
    ended = sum(each["count"] for each in summary["ended"]["status"].values())
    nothing = "nothing has ended yet"
    rates = [
        ("Completed", "success_rate", f"of {ended:,} that have ended"),
        ("Failed or timed out", "failure_rate", "of what has ended"),
    ]
    found = [
        Figure(
            "Optimizations", f"{summary['total_optimizations']:,}", f"{summary['active_optimizations']:,} at work now"
        )
    ]
    for title, name, note in rates:
        rate = summary[name]
        found.append(Figure(title, "unknown", nothing) if rate is None else Figure(title, percent(rate), note))
    spreads: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("Median time of running", "duration_seconds", duration),
        ("Median improvement", "performance_improvement", lambda value: percent(value, sign=True)),
        ("Median wait in the queue", "waiting_seconds", duration),
    ]
    for title, name, in_words in spreads:
        spread = summary[name]
        if spread["median"] is None:
            found.append(Figure(title, "unknown", spread["reason"]))
        else:
            note = f"nine of ten up to {in_words(spread['p90'])}; of {spread['count']:,}"
            found.append(Figure(title, f"≈ {in_words(spread['median'])}", note))
    return found


def _ranking(metric: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, Sequence[tuple[str, str, str]]]:
    title, in_words = _RANKINGS[metric]
    names = [row["name"] or row["optimization_id"] for row in rows]
    return title, list(zip(ranks_shown(rows), names, [in_words(row["value"]) for row in rows], strict=True))


def _queue(queue: Mapping[str, Any]) -> list[str]:
    """A sentence for each group that is not empty."""
    lines = []
    for name, meaning in _QUEUE.items():
        group = queue[name]
        if group["count"]:
            longest = duration(group["longest_seconds"])
            lines.append(f"{meaning}: {group['count']:,}, the longest for {longest}.")
    if queue["looked_at"] < queue["of"]:
        lines.append(f"Only the first {queue['looked_at']:,} of {queue['of']:,} by creation were looked at.")
    return lines

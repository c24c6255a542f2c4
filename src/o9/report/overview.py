"""The page of all optimizations: what each section shows, or why it shows nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from o9.report.charts import life as life_plots
from o9.report.facts import AllFacts
from o9.statistics.statistics import ranks_shown
from o9.statistics.trends import FIGURES
from o9.text.format import duration, number, percent

FEWEST_WINDOWS = 2  # that can be drawn
# By metric: the title of its ranking, and how a value reads.
_RANKINGS: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "current_performance": ("Best value", number),
    "performance_improvement": ("Improvement over the baseline", lambda value: percent(value, sign=True)),
    "execution_time": ("Run time, shortest first", duration),
}


def overview(found: AllFacts) -> dict[str, Any]:
    """The context of `templates/overview.html`, in addition to the facts."""
    drawn = len(found.trends["windows"]) >= FEWEST_WINDOWS
    return {
        "trends": [(life_plots.TREND_TITLES[name], life_plots.trend(name, found.trends)) for name in FIGURES if drawn],
        "trends_note": _trends_note(found.trends),
        "rankings": [_ranking(metric, rows) for metric, rows in found.rankings.items()],
    }


def _trends_note(trends: Mapping[str, Any]) -> str:
    window, windows = trends["window"], trends["windows"]
    if not windows:
        return "Not drawn. No optimization has ended yet."
    since = life_plots.start_of(windows[0]["starts"])
    if len(windows) < FEWEST_WINDOWS:
        return f"Not drawn. Everything ended within one {window}, from {since} UTC; a trend needs at least two."
    return (
        f"By {window}, from {since} UTC. Slopes are Theil and Sen's with their 95% intervals; the current {window} is "
        "shown, but left out of them."
    )


def _ranking(metric: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, Sequence[tuple[str, str, str]]]:
    title, in_words = _RANKINGS[metric]
    names = [row["name"] or row["optimization_id"] for row in rows]
    return title, list(zip(ranks_shown(rows), names, [in_words(row["value"]) for row in rows], strict=True))

"""All optimizations as a page: what stands where, and the reason where something cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from o9.report.charts import life as life_plots
from o9.report.facts import AllFacts
from o9.statistics.statistics import ranks_shown
from o9.statistics.trends import FIGURES
from o9.text.format import duration, number, percent

FEWEST_WINDOWS = 2  # of which something can be drawn
# What a ranking is by, and how its values read.
_RANKINGS: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "current_performance": ("Best value", number),
    "performance_improvement": ("Improvement on the baseline", lambda value: percent(value, sign=True)),
    "execution_time": ("Time of running, the shortest first", duration),
}


def overview(found: AllFacts) -> dict[str, Any]:
    """What `templates/overview.html` shows beside the facts themselves."""
    drawn = len(found.trends["windows"]) >= FEWEST_WINDOWS
    return {
        "trends": [(life_plots.TREND_TITLES[name], life_plots.trend(name, found.trends)) for name in FIGURES if drawn],
        "trends_note": _trends_note(found.trends),
        "rankings": [_ranking(metric, rows) for metric, rows in found.rankings.items()],
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


def _ranking(metric: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, Sequence[tuple[str, str, str]]]:
    title, in_words = _RANKINGS[metric]
    names = [row["name"] or row["optimization_id"] for row in rows]
    return title, list(zip(ranks_shown(rows), names, [in_words(row["value"]) for row in rows], strict=True))

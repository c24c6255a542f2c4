"""The pages of `stats`, `trends` and `rankings`. Pure: from what `OptimizationStatistics` returns to renderables.

Contract. Fits 60 columns or more. An unknown value is a dash or a dot, with its reason below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from o9.cli.console import Cells, indented, plain_table, table_of
from o9.cli.views import words
from o9.model.states import OptimizationStatus
from o9.statistics.statistics import DAYS_SHOWN, ranks_shown
from o9.store.statistics.rankings import MAXIMIZE, metric_of
from o9.text.escape import shown
from o9.text.format import brief, duration, number, percent
from o9.text.format import count as count_text

Figures = Mapping[str, Any]
GROUPS_SHOWN = 10
WIDEST_SPARKLINE = 60
ROOM_FOR_NAMES = 100  # in rankings
WIDE = 80  # columns of a terminal in which waits and improvements fit
_SPREADS = {
    "duration_seconds": "run time",
    "performance_improvement": "improvement",
    "waiting_seconds": "wait in the queue",
}


# Statistics


def statistics_view(data: Figures, today: date, width: int) -> list[RenderableType]:
    """The page of `o9 stats`. `today` is the last of the days shown, in UTC."""
    total, by_status = data["total_optimizations"], data["by_status"]
    running, waiting = data["active_optimizations"], by_status.get("created", 0)
    placebos = f"; and {count_text(data['placebo_runs'], 'placebo run')}" if data["placebo_runs"] else ""
    return [
        Text(f"{count_text(total, 'optimization')}: {running:,} active, {waiting:,} waiting{placebos}", style="bold"),
        Text(),
        Text(", ".join(f"{by_status[each]:,} {each.value}" for each in OptimizationStatus if by_status.get(each))),
        Text(),
        *_ended(data),
        Text(),
        _groups(data, width),
        Text(),
        Text(f"The last {DAYS_SHOWN} days (UTC)", style="bold"),
        _days(data["by_day"], today),
        *_now(data),
    ]


def _ended(data: Figures) -> list[RenderableType]:
    ended = sum(each["count"] for each in data["ended"]["status"].values())
    if data["success_rate"] is None:
        return [Text("Nothing has ended yet, so there are no rates, durations or improvements.", style="dim")]
    rates = f"{percent(data['success_rate'])} completed, {percent(data['failure_rate'])} failed or timed out, "
    numbers = ("mean", "10%", "median", "90%", "count")
    table = plain_table("", *numbers, right=numbers)
    unknown = []
    for name, label in _SPREADS.items():
        each, shape = data[name], _signed_percent if name == "performance_improvement" else duration
        if each["mean"] is None:
            unknown.append(Text(f"{label} unknown: {each['reason']}"))
            continue
        table.add_row(label, *(shape(each[key]) for key in ("mean", "p10", "median", "p90")), f"{each['count']:,}")
    error = percent(data["quantiles"]["relative_error"])
    return [
        Text(f"Of {ended:,} that ended: {rates}{percent(data['cancelled_rate'])} cancelled"),
        Text(),
        *([table] if table.rows else []),
        *unknown,
        Text(f"10% and 90% are percentiles. Means are exact, percentiles within {error}.", style="dim"),
    ]


def _groups(data: Figures, width: int) -> Table:
    columns = _GROUP_COLUMNS if width >= WIDE else _GROUP_COLUMNS[:1]
    numbers = ("all", "ended", "done", *(heading for heading, _ in columns))
    table = plain_table("", *numbers, right=numbers)
    for place, by in enumerate(("type", "strategy", "priority")):
        counts: dict[str, int] = data[f"by_{by}"]
        most_first = sorted(counts, key=lambda name: (-counts[name], name))
        ordered = list(reversed(counts)) if by == "priority" else most_first
        if place:
            table.add_row()
        table.add_row(Text(by, style="bold"))
        for name in ordered[:GROUPS_SHOWN]:
            ended = data["ended"][by].get(name, {"count": 0})
            cells = [percent(ended["success_rate"]), *(shape(ended) for _, shape in columns)] if ended["count"] else []
            table.add_row(f"  {shown(name)}", f"{counts[name]:,}", f"{ended['count']:,}", *cells)
        if hidden := len(ordered) - GROUPS_SHOWN:
            table.add_row(f"  … and {hidden} more (see --json)", style="dim") if hidden > 0 else None
    return table


_GROUP_COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("run\n(median)", lambda ended: duration(ended["duration_seconds"]["median"])),
    ("wait\n(median)", lambda ended: duration(ended["waiting_seconds"]["median"])),
    ("improved\n(mean)", lambda ended: _signed_percent(ended["performance_improvement"]["mean"])),
)


def _days(by_day: Mapping[str, Figures], today: date) -> RenderableType:
    days = [(today - timedelta(days=back)).isoformat() for back in range(DAYS_SHOWN - 1, -1, -1)]
    counts = [by_day[day]["count"] if day in by_day else 0 for day in days]
    rates = [by_day[day]["success_rate"] if day in by_day else None for day in days]
    most = max(counts)
    if not most:
        return Text("  none ended", style="dim")
    busiest = days[counts.index(most)]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(min_width=DAYS_SHOWN)
    table.add_row("  ended", Text(sparkline(counts, 0, most), style="cyan"), f"{sum(counts):,}, most {busiest[5:]}")
    known = [rate for rate in rates if rate is not None]
    table.add_row("  completed", Text(sparkline(rates, 0, 1), style="green"), _from_to(known, percent))
    table.add_row("", Text(f"{days[0][5:]}{days[-1][5:]:>{DAYS_SHOWN - 5}}", style="dim"), "")
    return table


def _now(data: Figures) -> list[RenderableType]:
    """How long those that have not ended have had their status."""
    rows = [(name, each) for name, each in data["now"].items() if each["count"]]
    if not rows:
        return []
    table = plain_table("  ", "count", "longest", right=("count", "longest"))
    for name, each in rows:
        table.add_row(f"  {name}", f"{each['count']:,}", duration(each["longest_seconds"]))
    page: list[RenderableType] = [Text(), Text("Now", style="bold"), table]
    if any(each["looked_at"] < each["count"] for _, each in rows):
        page.append(Text("Of many, only those created first are considered.", style="dim"))
    return page


# Trends


def _signed_percent(share: float | None) -> str:
    return percent(share, sign=True)


# By figure: its label, and how a value, a change and the unit of a change read.
_TRENDS: dict[str, tuple[str, Callable[[float], str], Callable[[float], str], str]] = {
    "count": ("ended", brief, "{:+.3g}".format, ""),
    "success_rate": ("completed", percent, lambda slope: f"{100 * slope:+.2f}", " points"),
    "mean_duration_seconds": (
        "run time", duration, lambda slope: f"{'-' if slope < 0 else '+'}{duration(abs(slope))}", "",
    ),
    "mean_improvement": ("improvement", _signed_percent, lambda slope: f"{100 * slope:+.2f}", " points"),
}  # fmt: skip
_LABEL = max(len(each[0]) for each in _TRENDS.values()) + 2


def trends_view(data: Figures, days: float, width: int) -> list[RenderableType]:
    """The page of `o9 trends`: the values, bounds and slope of each figure."""
    windows, window, found = data["windows"], data["window"], data["trends"]
    room = max(8, min(WIDEST_SPARKLINE, width - _LABEL - 24))
    each = _group_size(len(windows), room)
    reasons = {trend.get("reason") for trend in found.values()}
    none = reasons.pop() if len(reasons) == 1 else None
    page: list[RenderableType] = [Text(_range_of(windows, window, days), style="bold"), Text()]
    for name, (label, shape, change, unit) in _TRENDS.items():
        values = [row[name] for row in windows]
        known = [value for value in values if value is not None]
        marks = sparkline(fitted(values, room), *_scale(name, known))
        extent = _from_to(known, shape) if known else "unknown"
        page.append(Text.assemble(label.ljust(_LABEL), (marks, "cyan"), f"  {extent}"))
        if none is None:
            page.append(indented(_direction(found[name], change, unit, window), _LABEL))
    notes = [f"No slopes: {none}." if none else f"Slopes: {data['method']} at {percent(data['confidence'])}."]
    notes += [f"The current {window} is left out of the slopes." if not windows[-1]["is_over"] else ""]
    notes += [f"Each mark is the mean of {each} {window}s." if each > 1 else ""]
    notes += ["A point is a percentage point." if none is None else ""]
    page += [Text(), Text(" ".join(filter(None, notes)), style="dim")]
    return page


def _range_of(windows: Sequence[Figures], window: str, days: float) -> str:
    first, last = (
        each["starts"].replace("T", " ") + (":00" if "T" in each["starts"] else "")
        for each in (windows[0], windows[-1])
    )
    reach = "The last day" if days == 1 else f"The last {days:g} days"
    return f"{reach}, by {window} (UTC): {first}" + (f" to {last}" if last != first else "")


def _scale(name: str, known: Sequence[float]) -> tuple[float, float]:
    if name == "success_rate" or not known:
        return 0.0, 1.0
    return (min(known), max(known)) if name == "mean_improvement" else (0.0, max(known))


def _direction(trend: Figures, change: Callable[[float], str], unit: str, window: str) -> Text:
    """`rising: +2.5 a day (+0.3 to +4.7; 30 days)`"""
    if trend["slope"] is None:
        return Text(f"unknown: {trend['reason']}", style="dim")
    slope, low, high = (change(trend[end]) for end in ("slope", "low", "high"))
    per = "an hour" if trend["per"] == "hour" else "a day"
    return Text(f"{trend['direction']}: {slope}{unit} {per} ({low} to {high}; {trend['windows']} {window}s)")


# Rankings

# The figures that O9 itself records: how a value reads, and what it is.
_OWN: dict[str, tuple[Callable[[float], str], str]] = {
    "current_performance": (number, "the best value of the objective"),
    "performance_improvement": (_signed_percent, "over the baseline"),
    "execution_time": (duration, "run time"),
    "waited_seconds": (duration, "wait in the queue"),
    "completed_steps": (brief, "steps"),
    "cpu_usage": (lambda value: f"{value:.0f}%", "percent of one core"),
    "memory_usage": (lambda value: f"{value:,.0f} MiB", "MiB"),
}


def rankings_view(metric: str, rows: Sequence[Figures], width: int) -> list[RenderableType]:
    """The best first; `=` marks a shared rank. A narrow terminal hides name and status, but never an id."""
    shape = _OWN.get(metric, (number, ""))[0]
    listed: list[Cells] = [
        {
            "rank": rank,
            "id": row["optimization_id"],
            "name": Text(shown(row["name"]), no_wrap=True, overflow="ellipsis"),
            "status": words.status(OptimizationStatus(row["status"])),
            "value": shape(row["value"]),
        }
        for rank, row in zip(ranks_shown(rows), rows, strict=True)
    ]
    hidden = [] if width >= ROOM_FOR_NAMES else ["name", "status"]
    table = table_of(listed, hidden, right=("rank", "value"), fixed=("rank", "status", "value"))
    ways = {row["direction"] for row in rows}
    better = "Higher is better." if MAXIMIZE in ways else "Lower is better."
    if len(ways) > 1:
        better = "Some are maximized and some minimized; each is ranked by its own direction."
    title = f"The best {len(rows):,} by {metric}. {better}" if len(rows) > 1 else f"By {metric}. {better}"
    return [Text(shown(title), style="bold"), "", table]


def best_view(best: Mapping[str, Sequence[Figures]], measured: Sequence[str]) -> list[RenderableType]:
    """The best few by each of O9's own figures, and the names of the metrics of objectives."""
    page: list[RenderableType] = []
    for metric, rows in best.items():
        shape, meaning = _OWN[metric]
        table = Table.grid(padding=(0, 2))
        for justify in ("right", "left", "right"):
            table.add_column(justify=justify, overflow="fold")
        for row in rows:
            table.add_row(f"  {row['rank']}", shown(row["optimization_id"]), shape(row["value"]))
        page += [Text.assemble((metric, "bold"), (f"  {meaning}", "dim")), table, ""]
    if names := ", ".join(dict.fromkeys(map(metric_of, measured))):
        page += [Text.assemble(("Measured by objectives: ", "bold"), shown(names)), ""]
    return [*page, words.Next([("o9 rankings METRIC", "ranks by any of them")])]


# Sparklines: a value above the lowest is never drawn as the lowest; an unknown value is a dot, never a zero.

_LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One mark for each value, from `low` at the bottom to `high` at the top; the middle if these are equal."""
    return "".join("·" if value is None else _LEVELS[_level(value, low, high)] for value in values)


def fitted(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` values, each the mean of the known ones among equally many neighbours."""
    each = _group_size(len(values), width)
    groups = [[value for value in values[n : n + each] if value is not None] for n in range(0, len(values), each)]
    return [sum(value / len(group) for value in group) if group else None for group in groups]


def _group_size(count: int, width: int) -> int:
    """How many of `count` neighbours share one of `width` marks."""
    return max(1, math.ceil(count / max(1, width)))


def _level(value: float, low: float, high: float) -> int:
    half = high / 2 - low / 2  # halved first, since the difference may overflow
    if not half > 0:
        return 0 if value == 0 else 3
    level = round(min(1.0, max(0.0, (value / 2 - low / 2) / half)) * (len(_LEVELS) - 1))
    return max(1, level) if value > low else level


def _from_to(known: Sequence[float], shape: Callable[[float], str]) -> str:
    low, high = shape(min(known)), shape(max(known))
    return low if low == high else f"{low} to {high}"

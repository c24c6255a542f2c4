"""The timeline of one optimization's statuses, and trends over all optimizations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from o9.health.unknown import Unknown
from o9.model.states import ENDED, OptimizationStatus
from o9.report.charts.downsample import significant
from o9.report.charts.figure import BLUE, STATUS_COLOURS, Plot, axis, label, layout
from o9.text.format import count, duration, moment, percent, sentence

MOST_SPANS = 300
MOST_LANES = 30
_SHOWN_MESSAGE = 120
# By figure: its title, and how a value reads.
TREND_TITLES = {
    "count": "Ended",
    "success_rate": "Share completed",
    "mean_duration_seconds": "Mean run time",
    "mean_improvement": "Mean improvement",
}
_SHARES = ("success_rate", "mean_improvement")
_IN_WORDS: dict[str, Callable[[Any], str]] = {
    "count": lambda value: f"{count(value, 'optimization')} ended",
    "success_rate": lambda value: f"{percent(value)} completed",
    "mean_duration_seconds": duration,
    "mean_improvement": lambda value: percent(value, sign=True),
}


def timeline(transitions: Sequence[Mapping[str, Any]], now: datetime) -> Plot | Unknown:
    """A bar for each status, from its transition to the next one or to `now`, in a lane for each attempt."""
    if not transitions:
        return Unknown("no transition is recorded")
    rows = transitions[-MOST_SPANS:]
    moments = [datetime.fromisoformat(row["at"]) for row in rows]
    ends = [*moments[1:], max(now, moments[-1])]
    lanes = list(dict.fromkeys(_lane(row) for row in rows))[-MOST_LANES:]
    data = []
    for status in OptimizationStatus:
        mine = [i for i, row in enumerate(rows) if row["to_status"] == status.value and _lane(row) in lanes]
        if mine:
            data.append(_spans(status, mine, rows, moments, ends))
    last = OptimizationStatus(rows[-1]["to_status"])
    attempts = max(int(row["attempt"]) for row in transitions)
    whole = (
        (moments[-1] if last in ENDED else ends[-1]) - datetime.fromisoformat(transitions[0]["at"])
    ).total_seconds()
    finding = f"{count(len(transitions), 'transition')} in {count(attempts, 'attempt')}, over "
    finding += f"{duration(whole)}; it is {last.value}."
    notes = ["Times are UTC; what was too short to see is drawn as a line"]
    if len(rows) < len(transitions) or len(lanes) == MOST_LANES:
        notes.append(f"the last {len(rows)} of {len(transitions):,} transitions, in up to {MOST_LANES} lanes")
    return Plot(
        finding,
        data,
        layout(
            axis(type="date", nticks=4, tickangle=0),
            axis(type="category", categoryorder="array", categoryarray=lanes[::-1], ticks="outside", ticklen=6,
                 tickcolor="rgba(0,0,0,0)"),
            barmode="overlay", bargap=0.4, showlegend=True, height=130 + 34 * len(lanes),
        ),
        "; ".join(notes) + ".",
        "own",
    )  # fmt: skip


def trend(name: str, trends: Mapping[str, Any]) -> Plot | Unknown:
    """One figure of `OptimizationStatistics.get_performance_trends()` over its windows, and its slope in words."""
    windows = [row for row in trends["windows"] if row[name] is not None]
    if not windows:
        return Unknown("nothing that ended in this time has this figure")
    starts = [start_of(row["starts"]) for row in windows]
    values = [significant(row[name]) for row in windows]
    shape: dict[str, Any] = (
        {"type": "bar", "marker": {"color": [BLUE if row["is_over"] else "rgba(47,127,193,.45)" for row in windows]}}
        if name == "count"
        else {"type": "scatter", "mode": "lines+markers", "line": {"color": BLUE, "width": 2}, "marker": {"size": 6}}
    )
    is_share = name in _SHARES
    value = "%{y:.1%}" if is_share else "%{y}"
    data = {"x": starts, "y": values, "hovertemplate": f"%{{x}}: {value}<extra></extra>", **shape}
    y = axis(tickformat=".0%" if is_share else "", rangemode="tozero", nticks=5)
    if name == "success_rate":
        y["range"] = [0, 1.05]
    if name == "mean_duration_seconds":
        y["ticksuffix"] = " s"
    x = axis(type="date", nticks=4, tickangle=0)
    slope = trends["trends"][name]
    note = f"Its slope is unknown: {slope['reason']}." if slope["slope"] is None else _slope(slope, is_share=is_share)
    return Plot(_last(name, windows[-1], trends["window"]), [data], layout(x, y, margin=_MARGIN), note, "small")


def start_of(starts: str) -> str:
    """The start of a window, for a date axis and for people: `2026-01-31 09:00`, `2026-01-31`, `2026-01-01`."""
    if "T" in starts:
        return f"{starts.replace('T', ' ')}:00"
    return f"{starts}-01" if len(starts) == len("YYYY-MM") else starts


_MARGIN = {"l": 44, "r": 10, "t": 8, "b": 30}


def _spans(
    status: OptimizationStatus,
    mine: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    moments: Sequence[datetime],
    ends: Sequence[datetime],
) -> dict[str, Any]:
    """The bars of one status; marks for a final one, which has no end."""
    colour = STATUS_COLOURS[status]
    hovers = [_hover(rows[i], moments[i], ends[i], final=status in ENDED) for i in mine]
    common = {
        "name": status.value, "y": [_lane(rows[i]) for i in mine], "customdata": hovers,
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    if status in ENDED:
        mark = {"color": colour, "size": 12, "symbol": "diamond"}
        x = [_millisecond(moments[i]) for i in mine]
        return {"type": "scatter", "mode": "markers", "x": x, "marker": mark, "cliponaxis": False, **common}
    return {
        "type": "bar", "orientation": "h", "base": [_millisecond(moments[i]) for i in mine],
        "x": [round((ends[i] - moments[i]).total_seconds() * 1000, 1) for i in mine],
        "marker": {"color": colour, "line": {"color": colour, "width": 1.5}}, **common,
    }  # fmt: skip


def _hover(row: Mapping[str, Any], begin: datetime, end: datetime, *, final: bool) -> str:
    lasted = "" if final else f" for {duration((end - begin).total_seconds())}"
    lines = [
        f"<b>{label(row['to_status'])}</b>{lasted}",
        f"from {moment(begin)}",
        f"cause: {label(row['cause'])}, node {label(row['node'], 60) or 'unknown'}",
    ]
    if row["message"]:
        lines.append(label(row["message"], _SHOWN_MESSAGE))
    return "<br>".join(lines)


def _lane(row: Mapping[str, Any]) -> str:
    return f"attempt {row['attempt']}" if row["attempt"] else "queue"


def _millisecond(at: datetime) -> str:
    """For a date axis, which knows no time zones."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _last(name: str, row: Mapping[str, Any], window: str) -> str:
    shown = _IN_WORDS[name](row[name])
    which = "the last one with data" if row["is_over"] else f"a {window} that is not over"
    return f"{start_of(row['starts'])}, {which}: {shown}."


def _slope(slope: Mapping[str, Any], *, is_share: bool) -> str:
    scale, unit = (100, " points") if is_share else (1, "")
    best, low, high = (f"{scale * slope[name]:+.3g}" for name in ("slope", "low", "high"))
    return f"{sentence(slope['direction'])} Slope {best}{unit} per {slope['per']} (95%: {low} to {high})."

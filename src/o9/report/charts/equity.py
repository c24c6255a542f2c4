"""The equity curve of the best trial's returns, and its drawdown. Pure.

Contract. Returns are simple returns per period. They are compounded, or summed if one of them leaves nothing to
compound; the page says which. `Unknown`, with the reason, if nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from o9.health.statistics.moments import Floats
from o9.health.unknown import Unknown
from o9.model.dates import iso_dates
from o9.report.charts.downsample import all_significant, extremes_kept, significant
from o9.report.charts.figure import BLUE, GREY, LEGEND_ABOVE, Plot, axis, layout
from o9.text.format import brief, count, percent, ratio, sentence

MOST_POINTS = 2_000
LOGARITHMIC_FROM = 5.0  # largest over smallest value; below it, a linear scale shows the same


def equity(
    best: ArrayLike | None,
    *,
    periods_per_year: float | None = None,
    hold_out: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
    baseline_hold_out: ArrayLike | None = None,
    dates: Sequence[float] | None = None,
    hold_out_dates: Sequence[float] | None = None,
) -> Plot | Unknown:
    """The equity curve and the drawdown of the best, and of the baseline if it has returns of the same periods.

    The hold-out's returns, on data that the search did not use, follow behind a line. If all returns have dates
    (seconds since 1970), they are drawn over these.
    """
    inside = _usable(best, "the best trial has no returns")
    if isinstance(inside, Unknown):
        return inside
    outside = _usable(hold_out, "there are none")
    compared = _baseline(baseline, baseline_hold_out, inside, outside)
    lines = [_Line("best", BLUE, inside, None if isinstance(outside, Unknown) else outside)]
    if not isinstance(compared, Unknown):
        lines.append(compared)
    summed = any(_level(line.whole, summed=False) is None for line in lines)
    curves = [curve for line in lines if (curve := _curve(line, summed=summed)) is not None]
    if len(curves) < len(lines):
        return Unknown("its returns are so large that even their sum overflows")
    levels = np.concatenate([curve.level for curve in curves])
    logarithmic = not summed and bool(levels.max() > LOGARITHMIC_FROM * levels.min())
    calendar = _calendar(lines[0], dates, hold_out_dates)
    over = "dates" if calendar else "years" if periods_per_year else "periods"
    notes = [*_how(summed=summed, logarithmic=logarithmic, over=over)]
    if lines[0].outside is not None:
        notes.append(f"after the line: {len(lines[0].outside):,} returns on data that the search did not use")
    elif hold_out is not None and isinstance(outside, Unknown):
        notes.append(f"the hold-out is not drawn: {outside.reason}")
    if isinstance(compared, Unknown):
        notes.append(f"the baseline is not drawn: {compared.reason}")
    drawn, there = max(len(curve.shown) for curve in curves), len(curves[0].level)
    if drawn < there:
        notes.append(f"{drawn:,} of {there:,} points are drawn, including the highest and the lowest of each stretch")
    per_year = periods_per_year or 1.0
    places = calendar or all_significant(place / per_year for place in range(there))
    shares = "" if summed else ".0%"
    scale: dict[str, Any] = {"type": "log", "dtick": "D2"} if logarithmic else {}
    return Plot(
        _in_words(lines, periods_per_year, summed=summed),
        # Reversed, so that the best is drawn over the baseline.
        [trace for curve in reversed(curves) for trace in curve.traces(places)],
        layout(
            axis("", anchor="y2", type="date") if calendar else axis(over, anchor="y2"),
            axis("sum of returns" if summed else "growth of 1", domain=[0.38, 1], **scale),
            yaxis2=axis("drawdown", domain=[0, 0.3], tickformat=shares, rangemode="tozero", nticks=4),
            hovermode="x unified",
            showlegend=len(curves) > 1,
            legend=LEGEND_ABOVE | {"traceorder": "reversed"},
            **_boundary(places[len(inside)] if lines[0].outside is not None else None),
        ),
        " ".join(map(sentence, notes)),
        "tall",
    )


@dataclass(frozen=True)
class _Line:
    """A line's returns, in sample and in the hold-out."""

    name: str
    colour: str
    inside: Floats
    outside: Floats | None

    @property
    def whole(self) -> Floats:
        return self.inside if self.outside is None else np.concatenate([self.inside, self.outside])


@dataclass(frozen=True)
class _Curve:
    """`level`: one value more than returns, from the start on. `fall`: from the last high. `shown`: drawn positions."""

    line: _Line
    summed: bool
    level: Floats
    fall: Floats
    shown: list[int]

    def traces(self, places: Sequence[float | str]) -> list[dict[str, Any]]:
        name, colour = self.line.name, self.line.colour
        x = [places[place] for place in self.shown]
        common = {"type": "scatter", "mode": "lines", "legendgroup": name, "x": x}
        filled = {"fill": "tozeroy", "fillcolor": "rgba(47,127,193,.18)"} if name == "best" else {}
        level = {
            "name": name, "y": all_significant(self.level[self.shown].tolist()), "hovertemplate": "%{y:.3f}",
            "line": {"color": colour, "width": 2},
        }  # fmt: skip
        fall = {
            "name": f"{name}, drawdown", "y": all_significant(self.fall[self.shown].tolist()), "yaxis": "y2",
            "line": {"color": colour, "width": 1}, "hovertemplate": "%{y:.3f}" if self.summed else "%{y:.1%}",
            "showlegend": False,
        }  # fmt: skip
        return [common | level, common | fall | filled]


def _usable(returns: ArrayLike | None, why_none: str) -> Floats | Unknown:
    if returns is None:
        return Unknown(why_none)
    series = np.asarray(returns, dtype=np.float64)
    if not len(series):
        return Unknown(why_none)
    finite = np.isfinite(series)
    if not finite.all():
        bad, first = int((~finite).sum()), int(finite.argmin())
        return Unknown(f"{bad:,} of {len(series):,} returns are not finite, the first in period {first:,}")
    return series


def _baseline(
    baseline: ArrayLike | None, later: ArrayLike | None, inside: Floats, outside: Floats | Unknown
) -> _Line | Unknown:
    """The baseline over the same periods, or why it is not drawn."""
    own = _usable(baseline, "none of its returns are recorded")
    if isinstance(own, Unknown):
        return own
    if len(own) != len(inside):
        return Unknown(f"it has {len(own):,} returns, the best {len(inside):,}")
    if isinstance(outside, Unknown):
        return _Line("baseline", GREY, own, None)
    fresh = _usable(later, "none of its returns in the hold-out are recorded")
    if isinstance(fresh, Unknown):
        return fresh
    if len(fresh) != len(outside):
        return Unknown(f"it has {len(fresh):,} returns in the hold-out, the best {len(outside):,}")
    return _Line("baseline", GREY, own, fresh)


def _level(series: Floats, *, summed: bool) -> Floats | None:
    """One unit (summed: zero) after each period; None if that is not positive and finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        level: Floats = np.cumsum(np.append(0.0, series)) if summed else np.cumprod(np.append(1.0, 1.0 + series))
    return level if np.isfinite(level).all() and (summed or level.min() > 0) else None


def _falls(level: Floats, *, summed: bool) -> Floats:
    high = np.maximum.accumulate(level)
    falls: Floats = level - high if summed else level / high - 1.0
    return falls


def _curve(line: _Line, *, summed: bool) -> _Curve | None:
    level = _level(line.whole, summed=summed)
    if level is None:
        return None
    fall = _falls(level, summed=summed)
    shown = {*extremes_kept(level, MOST_POINTS // 2), *extremes_kept(fall, MOST_POINTS // 2)}
    return _Curve(line, summed, level, fall, sorted(shown))


def _in_words(lines: Sequence[_Line], per_year: float | None, *, summed: bool) -> str:
    """`In sample, 10.0 years: the best turned 1 into 6.41 (+10.2% a year), …; the baseline …. In the hold-out …`"""
    phases = [_phase("In sample", [(line.name, line.inside) for line in lines], per_year, summed=summed)]
    later = [(line.name, line.outside) for line in lines if line.outside is not None]
    if later:
        phases.append(_phase("In the hold-out", later, per_year, summed=summed))
    return " ".join(phases)


def _phase(when: str, of: Sequence[tuple[str, Floats]], per_year: float | None, *, summed: bool) -> str:
    text = "; ".join(f"the {name} {_became(series, per_year, summed=summed)}" for name, series in of)
    return f"{when}, {_long(len(of[0][1]), per_year)}: {text}."


def _became(series: Floats, per_year: float | None, *, summed: bool) -> str:
    level = _level(series, summed=summed)
    assert level is not None  # the whole series has one
    end, fall = float(level[-1]), _falls(level, summed=summed)
    if summed:
        text = f"added up to {brief(end)}"
    else:
        text = f"turned 1 into {ratio(end)}"
        if per_year and len(series) >= per_year:
            text += f" ({percent(end ** (per_year / len(series)) - 1, sign=True)} a year)"
    deepest = brief(-float(fall.min())) if summed else percent(-float(fall.min()))
    below = _long(_longest_below(fall), per_year)
    return f"{text}, its deepest drawdown was {deepest}, its longest time below a high {below}"


def _longest_below(fall: Floats) -> int:
    """Periods of the longest stretch below a high; the start counts as one."""
    return int(np.diff(np.append(np.flatnonzero(fall >= 0), len(fall))).max()) - 1


def _long(periods: int, per_year: float | None) -> str:
    return f"{periods / per_year:,.1f} years" if per_year else count(periods, "period")


def _how(*, summed: bool, logarithmic: bool, over: str) -> list[str]:
    text = "summed, since one of them leaves nothing to compound" if summed else "compounded"
    where = "" if over == "dates" else f"; the axis counts {over} from the start, since the record has no dates"
    notes = [f"the returns are {text}{where}"]
    return [*notes, "the scale is logarithmic: equal steps are equal gains"] if logarithmic else notes


def _calendar(line: _Line, dates: Sequence[float] | None, later: Sequence[float] | None) -> list[str]:
    """The date of each point, the first one a usual period before the first return; empty if a date is unknown, or if
    the hold-out does not follow the rest.
    """
    days = [*(dates or ()), *((later or ()) if line.outside is not None else ())]
    if len(days) != len(line.whole) or len(days) < 2 or any(after <= before for before, after in pairwise(days)):
        return []
    usual = float(np.median(np.diff(days)))
    return list(iso_dates([days[0] - usual, *days]))


def _boundary(at: float | str | None) -> dict[str, Any]:
    """A line where the hold-out begins."""
    if at is None:
        return {}
    x, line = at if isinstance(at, str) else significant(at), {"color": GREY, "width": 1, "dash": "dot"}
    note = {"text": "hold-out", "showarrow": False, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}
    return {
        "shapes": [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}],
        "annotations": [{"x": x, "y": 0.34, "yref": "paper", **note}],
    }

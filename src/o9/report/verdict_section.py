"""What may be believed of the best, on top of a report: the banner, the figures that it rests on, the forecast. Pure.

Contract. Nothing is decided here, and nothing is said but what the `Verdict` holds: `o9.health.wording` words the
grade and the forecast, and each row is one of its figures. What is not known says so, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from o9.health.grades import Forecast, Grade, Verdict
from o9.health.unknown import Unknown
from o9.health.verdict import DEFLATED_LEVEL, FAMILY_LEVEL, PLACEBO_LEVEL, WITH_HOLD_OUT
from o9.health.wording import forecast_sentence, interval, placebo_limits, sharpe
from o9.report.charts.downsample import all_significant, significant
from o9.report.charts.figure import BLUE, GREEN, GREY, ORANGE, Plot, axis, layout, range_around
from o9.text.format import count, percent, sentence


@dataclass(frozen=True)
class Ground:
    """A figure: its value, how to read it, and whether the rule looks at it."""

    title: str
    value: str
    reading: str
    decides: bool


def grounds(verdict: Verdict) -> list[Ground]:
    """What the rule looked at, and below it what the field expects to see beside a Sharpe ratio and decides nothing.

    Of what is void nothing decides: it comes from a backtest that is at fault.
    """
    if not verdict.figures:
        return []
    found = _Figures(verdict.figures)
    rows = [*_deciding(found), *_beside(found)]
    return rows if verdict.grade is not Grade.VOID else [replace(row, decides=False) for row in rows]


def forecast_plot(verdict: Verdict) -> Plot | Unknown:
    """What was claimed, what is to be expected, and what was held out, on one line of Sharpe ratios."""
    found = verdict.forecast
    if found is None:
        if verdict.grade is Grade.VOID:
            return Unknown("there is no forecast of a backtest that is at fault")
        why = verdict.figures.get("unknown", {}).get("forecast")
        return Unknown(why or "it is not known how many periods a year has")
    points = [("claimed in sample", found.claimed, GREY), ("forecast", found.mean, BLUE)]
    if found.held_out is not None:
        points.append(("held out", found.held_out, GREEN))
    places = [0.0, found.low, found.high, *(at for _, at, _ in points)]
    across = axis(
        "Sharpe ratio a year", range=all_significant(range_around(min(places), max(places))), zeroline=True,
        zerolinecolor=ORANGE, zerolinewidth=1,
    )  # fmt: skip
    note = f"The bar is the interval of the Sharpe ratio over the next {found.years:g} years, with a probability of "
    note += "80%; the chance that the edge dies is in it."
    if found.too_high:
        note += " It is too high: the search followed its results, and nothing was held out."
    if found.hidden_crash:
        note += " In sample, the returns look like premiums for a rare loss: then it is too narrow."
    return Plot(
        sentence(forecast_sentence(verdict)),
        [_point(name, at, colour, found) for name, at, colour in points],
        layout(across, axis(autorange="reversed"), height=84 + 34 * len(points)),
        note,
        "own",
    )


def _point(name: str, at: float, colour: str, found: Forecast) -> dict[str, Any]:
    text = f"{name}: {sharpe(at)}"
    spread: dict[str, Any] = {}
    if name == "forecast":
        text += f" ({interval(found)})"
        spread = {
            "error_x": {
                "type": "data", "symmetric": False, "array": [significant(found.high - at)],
                "arrayminus": [significant(at - found.low)], "color": colour, "thickness": 5, "width": 0,
            }
        }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers+text", "name": name, "x": [significant(at)], "y": [name],
        "text": [sharpe(at)], "textposition": "top center", "cliponaxis": False,
        "marker": {"color": colour, "size": 12}, "hovertemplate": f"{text}<extra></extra>",
    } | spread  # fmt: skip


@dataclass(frozen=True)
class _Figures:
    """The figures of a verdict, of which any may be missing."""

    of: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.of.get(name)

    def why(self, name: str) -> str:
        return sentence(self.of.get("unknown", {}).get(name, "") or "it is not known")

    def sharpe(self, name: str) -> str:
        year = self["periods_per_year"]
        return f"{self[name]:.4f} a period" if year is None else f"{sharpe(self[name] * math.sqrt(year))} a year"

    def length(self, periods: float) -> str:
        year = self["periods_per_year"]
        return f"{periods / year:,.1f} years" if year else f"{periods:,.0f} returns"


def _deciding(found: _Figures) -> Iterator[Ground]:
    yield _in_sample(found)
    yield _search(found)
    p = found["p_value"]
    if p is None:
        yield Ground("Family test", "unknown", found.why("p_value"), True)
    else:
        reading = "the probability that the best of such a family without any edge looks as good; at most "
        reading += f"{WITH_HOLD_OUT:g} is required beside a hold-out, {FAMILY_LEVEL:g} without one"
        if found["adaptive"]:
            reading += ". This search followed its results, so that p is too low, and proves nothing without other data"
        yield Ground("Family test", f"p = {p:.3f}", sentence(reading), True)
    yield _hold_out(found)
    if found["placebo_p_value"] is not None:
        runs = f"The same search, {found['placebo_runs']:,} times on data without an edge"
        reading = " ".join([f"{runs}: at most {PLACEBO_LEVEL:g} is required.", *placebo_limits(found.of)])
        yield Ground("Placebo runs", f"p = {found['placebo_p_value']:.3f}", reading, True)


def _in_sample(found: _Figures) -> Ground:
    if found["sharpe"] is None:
        return Ground("Sharpe ratio in sample", "unknown", found.why("sharpe"), True)
    if found["beta"] is not None:
        over = f"alpha over the baseline, beta {sharpe(found['beta'])}"
    elif found["market_neutral"]:
        over = "over zero, as it is declared market-neutral"
    else:
        over = "over zero or cash, so that the market's own rise counts as an edge"
    reading = f"from {found['observations']:,} returns ({found.length(found['observations'])}); {over}"
    return Ground("Sharpe ratio in sample", found.sharpe("sharpe"), sentence(reading), True)


def _search(found: _Figures) -> Ground:
    how = "chosen by the results of others" if found["adaptive"] else "not chosen by results"
    reading = f"{how}; all that were ever tried on this objective and data count"
    if found["effective"] is not None and round(found["effective"]) < found["counted"]:
        reading += f"; being correlated, they count as {count(round(found['effective']), 'independent trial')}"
    if missing := (found["counted"] or 0) - (found["kept"] or 0):
        reading += f"; {missing:,} of them have no returns over the same periods, and count as trials without edge"
    return Ground("Trials", f"{found['counted'] or 0:,}", sentence(reading), True)


def _hold_out(found: _Figures) -> Ground:
    if found["hold_out_sharpe"] is None:
        return Ground("Held out", "nothing", found.why("hold_out_sharpe"), True)
    reading = f"over {found.length(found['hold_out_observations'])} that the search never saw"
    if found["hold_out_above_zero"] is not None:
        reading += f"; above zero with probability {found['hold_out_above_zero']:.3f}; "
        reading += f"{found['hold_out_level']:.3f} is required"
    if (found["looks"] or 1) > 1:
        reading += f", because this is look {found['looks']} at held-out data"
    return Ground("Held out", found.sharpe("hold_out_sharpe"), sentence(reading), True)


def _beside(found: _Figures) -> Iterator[Ground]:
    if found["counted"] == 1:  # nothing was chosen
        return
    if found["deflated"] is None:
        yield Ground("Deflated Sharpe ratio", "unknown", found.why("deflated"), False)
    else:
        luck = "what" if found["luck"] is None else f"the {found.sharpe('luck')} that"
        reading = f"the probability that it is above {luck} luck gives the best of that many; above "
        reading += f"{DEFLATED_LEVEL:g} is the custom"
        if found["deflated_effective"] is not None:
            reading += f". With the number of independent trials: {found['deflated_effective']:.3f}"
        yield Ground("Deflated Sharpe ratio", f"{found['deflated']:.3f}", sentence(reading), False)
    if found["pbo"] is None:
        yield Ground("Probability of backtest overfitting", "unknown", found.why("pbo"), False)
    else:
        reading = "how often the best of one half of the time fell below the median of the other half, about one half "
        reading += "where all are equally good; what was chosen lost money there in "
        reading += percent(found["probability_of_loss"])
        yield Ground("Probability of backtest overfitting", f"{found['pbo']:.2f}", sentence(reading), False)
    if found["track_record_needed"] is not None and found["observations"] is not None:
        reading = "until such a Sharpe ratio, were it the only one tried, differs from zero with 95%; there are "
        reading += found.length(found["observations"])
        yield Ground("Track record needed", found.length(found["track_record_needed"]), sentence(reading), False)
    if found["backtest_years_needed"] is not None and found["observations"] is not None:
        reading = "until the best of that many trials without edge no longer shows such a Sharpe ratio; there are "
        reading += found.length(found["observations"])
        yield Ground("Backtest needed", f"{found['backtest_years_needed']:,.1f} years", sentence(reading), False)

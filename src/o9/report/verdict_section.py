"""The top of a report: how far the best can be trusted, the figures behind that, and the forecast. Pure.

Contract. Everything comes from the `Verdict`: `o9.health.wording` words the grade and the forecast, and each row is one
of its figures. What is unknown has its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from o9.health.grades import Forecast, Grade, Verdict
from o9.health.unknown import Unknown
from o9.health.verdict import DEFLATED_LEVEL, FAMILY_LEVEL, PLACEBO_LEVEL, WITH_HOLD_OUT
from o9.health.wording import Figures, forecast_sentence, interval, length_of, placebo_limits, sharpe, sharpe_of
from o9.report.charts.downsample import all_significant, significant
from o9.report.charts.figure import BLUE, GREEN, GREY, ORANGE, Plot, axis, layout, range_around
from o9.text.format import count, percent, sentence


@dataclass(frozen=True)
class Ground:
    """A figure behind the verdict: its value, how to read it, and whether the rule uses it."""

    title: str
    value: str
    reading: str
    decides: bool


def grounds(verdict: Verdict) -> list[Ground]:
    """The figures that the rule uses, followed by customary ones beside a Sharpe ratio, which decide nothing.

    If the verdict is void, none decides: all come from a faulty backtest.
    """
    if not verdict.figures:
        return []
    rows = [*_deciding(verdict.figures), *_customary(verdict.figures)]
    return rows if verdict.grade is not Grade.VOID else [replace(row, decides=False) for row in rows]


def forecast_plot(verdict: Verdict) -> Plot | Unknown:
    """The claimed, the expected and the held-out Sharpe ratio on one axis."""
    found = verdict.forecast
    if found is None:
        if verdict.grade is Grade.VOID:
            return Unknown("a faulty backtest has no forecast")
        why = verdict.figures.get("unknown", {}).get("forecast")
        return Unknown(why or "the number of periods per year is unknown")
    points = [("claimed in sample", found.claimed, GREY), ("forecast", found.mean, BLUE)]
    if found.held_out is not None:
        points.append(("held out", found.held_out, GREEN))
    places = [0.0, found.low, found.high, *(at for _, at, _ in points)]
    across = axis(
        "Sharpe ratio a year", range=all_significant(range_around(min(places), max(places))), zeroline=True,
        zerolinecolor=ORANGE, zerolinewidth=1,
    )  # fmt: skip
    note = (
        f"The bar is the 80% interval of the Sharpe ratio over the next {found.years:g} years; it includes the chance "
    )
    note += "that the edge disappears."
    if found.too_high:
        note += " It is too high: the search followed its results, and nothing was held out."
    if found.hidden_crash:
        note += " In sample, the returns look like premiums for a rare loss; if they are, it is too narrow."
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


def _ground(
    found: Figures, title: str, name: str, shown: Callable[[Any], str], *reading: str, decides: bool = True
) -> Ground:
    """The figure `name` and the clauses that say how to read it; if it is unknown, the reason."""
    if found[name] is None:
        return Ground(title, "unknown", sentence(found["unknown"].get(name) or "the reason is not recorded"), decides)
    return Ground(title, shown(found[name]), sentence("; ".join(filter(None, reading))), decides)


def _deciding(found: Figures) -> Iterator[Ground]:
    over = "over zero or cash, so that the market's own rise counts as an edge"
    if found["beta"] is not None:
        over = f"alpha over the baseline, beta {sharpe(found['beta'])}"
    elif found["market_neutral"]:
        over = "over zero, as declared by metadata.market_neutral"
    yield _ground(
        found, "Sharpe ratio in sample", "sharpe", lambda _: sharpe_of(found),
        f"from {_length(found, 'observations')} of returns", over,
    )  # fmt: skip
    effective, missing = round(found["effective"] or found["counted"]), found["counted"] - found["kept"]
    yield _ground(
        found, "Trials", "counted", "{:,}".format,
        "the sampler followed earlier results" if found["adaptive"] else "the sampler ignored results",
        "all trials on this objective and data count",
        f"correlated, they count as {count(effective, 'independent trial')}"
        if effective < found["counted"] else "",
        f"{missing:,} of them have no returns over the same periods, and count as trials without edge"
        if missing else "",
    )  # fmt: skip
    yield _ground(
        found, "Family test", "p_value", "p = {:.3f}".format,
        "the probability that the best of such a family looks this good without any edge",
        f"at most {WITH_HOLD_OUT:g} is required with a hold-out, {FAMILY_LEVEL:g} without one",
        "this search followed its results, so p is too low" if found["adaptive"] else "",
    )  # fmt: skip
    yield _ground(
        found, "Held out", "hold_out_sharpe", lambda _: sharpe_of(found, "hold_out_sharpe"),
        f"over {_length(found, 'hold_out_observations')} that the search never saw",
        f"above zero with probability {found['hold_out_above_zero']:.3f}"
        if found["hold_out_above_zero"] is not None else "",
        f"{found['hold_out_level'] or 0:.3f} is required",
        f"this is look {found['looks']} at held-out data" if (found["looks"] or 1) > 1 else "",
    )  # fmt: skip
    if found["placebo_p_value"] is not None:
        runs = f"The same search, {found['placebo_runs']:,} times on data without an edge"
        reading = " ".join([f"{runs}: at most {PLACEBO_LEVEL:g} is required.", *placebo_limits(found)])
        yield Ground("Placebo runs", f"p = {found['placebo_p_value']:.3f}", reading, True)


def _customary(found: Figures) -> Iterator[Ground]:
    if found["counted"] == 1:  # nothing was chosen
        return
    independent, there = found["deflated_effective"], f"there are {_length(found, 'observations')}"
    yield _ground(
        found, "Deflated Sharpe ratio", "deflated", "{:.3f}".format,
        "the probability that it is above what luck gives the best of this many trials",
        f"above {DEFLATED_LEVEL:g} is customary",
        "" if independent is None else f"with the number of independent trials: {independent:.3f}", decides=False,
    )  # fmt: skip
    yield _ground(
        found, "Probability of backtest overfitting", "pbo", "{:.2f}".format,
        "how often the best of one half of the time ranked below the median in the other half, about one half if all "
        "are equally good", f"it lost money there in {percent(found['probability_of_loss'])}",
        decides=False,
    )  # fmt: skip
    if found["track_record_needed"] is not None:
        yield _ground(
            found, "Track record needed", "track_record_needed", lambda _: _length(found, "track_record_needed"),
            "for such a Sharpe ratio of a single trial to differ from zero with 95% confidence", there, decides=False,
        )  # fmt: skip
    if found["backtest_years_needed"] is not None:
        yield _ground(
            found, "Backtest needed", "backtest_years_needed", "{:,.1f} years".format,
            "for the best of this many trials without edge not to show such a Sharpe ratio", there, decides=False,
        )  # fmt: skip


def _length(found: Figures, name: str) -> str:
    return "" if found[name] is None else length_of(found[name], found["periods_per_year"])

"""How the search went: its history, which parameters mattered, and a slice of the values along each parameter. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from o9.health.unknown import Unknown
from o9.lifecycle.effect import Direction, is_better
from o9.model.search_space import SearchSpace
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.report.charts.downsample import all_significant, evenly, extremes_kept, significant
from o9.report.charts.figure import BLUE, FONT_SIZE, GREY, ORANGE, Plot, axis, label, layout, range_around
from o9.text.escape import plain
from o9.text.format import brief, count, number, percent, sentence, value_text

MOST_POINTS = 4_000
MOST_SLICE_POINTS = 1_200
MOST_FAILED = 200
MARKED_AT = 0.03  # of the axis, just above its lower end
MOST_PARAMETERS = 20
MOST_SLICES = 12
MOST_CHOICES = 16
SMALL_HEIGHT = 224  # as the style sheet has it
# An axis is cut to the middle 98% of the values if all values would make it over three times as long.
LEFT_OUT_FROM = 3.0


def history(trials: Sequence[Trial], direction: Direction, bests: Sequence[float] = ()) -> Plot | Unknown:
    """Every trial's value in the order of trials, and the best so far as steps, all of which are kept.

    bests: the best so far after each step, for a strategy that reports no trials.
    """
    valued = _valued(trials)
    if not valued:
        return _by_steps(bests) if bests and not trials else Unknown(_why_none(trials))
    numbers = [trial.number for trial in valued]
    values = [trial.value for trial in valued if trial.value is not None]
    improved = _improvements(values, direction)
    shown = extremes_kept(values, MOST_POINTS)
    axis_range, outside = _range(values, keep=[values[place] for place in improved[-1:]])
    last, best, gains = trials[-1].number, improved[-1], len(improved) - 1
    gained = f"the best so far improved {count(gains, 'time')} after the first" if gains else "none beat the first"
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": "trial",
            "x": [numbers[place] for place in shown], "y": all_significant(values[place] for place in shown),
            "marker": {"color": GREY, "size": 5, "opacity": 0.55},
            "hovertemplate": "trial %{x}: %{y}<extra></extra>",
        },
        {
            "type": "scatter", "mode": "lines", "name": "best so far",
            "line": {"color": BLUE, "width": 2, "shape": "hv"}, "x": [numbers[place] for place in improved] + [last],
            "y": all_significant([*(values[place] for place in improved), values[best]]),
            "hovertemplate": "best so far %{y}, from trial %{x} on<extra></extra>",
        },
        {
            "type": "scatter", "mode": "markers", "name": "best", "x": [numbers[best]],
            "y": [significant(values[best])], "marker": {"color": ORANGE, "size": 12, "symbol": "star"},
            "hovertemplate": "best: trial %{x}, %{y}<extra></extra>",
        },
    ]  # fmt: skip
    lost = [trial.number for trial in trials if trial.state is not TrialState.COMPLETED or trial.value is None]
    data += _without_value(lost, at=axis_range[0] + MARKED_AT * (axis_range[1] - axis_range[0]))
    notes = []
    if len(shown) < len(values):
        notes.append(f"{len(shown):,} of {len(values):,} values are drawn, the highest and the lowest of each stretch")
    if outside:
        notes.append(f"outside the axis: {count(outside, 'value')}; a double click shows all")
    if lost:
        drawn = "" if len(lost) <= MOST_FAILED else f", of which {MOST_FAILED} are marked"
        notes.append(
            f"{count(len(lost), 'trial')} without a value (failed, infeasible or cancelled){drawn} at the lower edge"
        )
    y = axis(f"value ({'lower' if direction == 'minimize' else 'higher'} is better)", range=all_significant(axis_range))
    return Plot(
        f"The best value, {number(values[best])}, came with trial {numbers[best]:,}; "
        f"{count(len(values), 'trial')} {'has' if len(values) == 1 else 'have'} a value, and {gained}.",
        data,
        layout(axis("trial", rangemode="nonnegative", tickformat=",d"), y, showlegend=True),
        _joined(notes),
    )


def importance_bars(found: Mapping[str, Any]) -> Plot | Unknown:
    """`o9.statistics.importance.importance(…)` as bars, the most important on top."""
    if found["parameters"] is None:
        return Unknown(found["reason"])
    known = [(name, each) for name, each in found["parameters"].items() if each["importance"] is not None]
    mute = [f"{plain(name)} ({each['reason']})" for name, each in found["parameters"].items() if "reason" in each]
    if not known:
        return Unknown(f"it is unknown for all parameters: {', '.join(mute[:MOST_PARAMETERS]) or 'there are none'}")
    shown = known[:MOST_PARAMETERS][::-1]
    first, most = known[0]
    finding = (
        f"{plain(first)} explains {percent(most['importance'])} of the differences between "
        f"{count(found['trials'], 'trial')}{', more than any other parameter' if len(known) > 1 else ''}."
        if most["importance"] > 0
        else f"No parameter explains more of {count(found['trials'], 'trial')} than chance would."
    )
    notes = [sentence(found["note"]).rstrip(".")]
    if pairs := [pair for pair in found["pairs"] or () if pair["interaction"] > 0]:
        one, other = pairs[0]["parameters"]
        notes.append(
            f"the pair with the largest interaction: {plain(one)} and {plain(other)} "
            f"({percent(pairs[0]['interaction'])})"
        )
    if len(known) > len(shown):
        notes.append(f"the first {len(shown)} of {len(known)} parameters")
    if mute:
        notes.append(f"unknown for {', '.join(mute[:MOST_PARAMETERS])}")
    data = {
        "type": "bar", "orientation": "h", "y": _distinct([name for name, _ in shown]),
        "x": all_significant(each["importance"] for _, each in shown), "marker": {"color": BLUE},
        "text": [percent(each["importance"]) for _, each in shown], "textposition": "outside", "cliponaxis": False,
        "customdata": all_significant(each["p_value"] for _, each in shown),
        "hovertemplate": "%{y}: %{text}, p = %{customdata}<extra></extra>", "textfont": {"size": FONT_SIZE},
    }  # fmt: skip
    top = max(each["importance"] for _, each in shown)
    return Plot(
        finding,
        [data],
        layout(
            axis("share of the variance of ranks", tickformat=".0%", range=[0, significant(max(top, 0.01) * 1.18)]),
            axis(type="category", ticklen=6, ticks="outside", tickcolor="rgba(0,0,0,0)"),
            bargap=0.35,
            height=90 + 28 * len(shown),
        ),
        _joined(notes),
        "own",
    )


def slices(
    trials: Sequence[Trial], space: SearchSpace | None, order: Sequence[str], best: int | None, direction: Direction
) -> list[tuple[str, Plot | Unknown]]:
    """The values along each parameter, in the order given first; at most MOST_SLICES. Best is a trial's number."""
    valued = _valued(trials)
    names = list(dict.fromkeys([*order, *sorted({name for trial in valued for name in trial.parameters})]))
    if not valued:
        return []
    logarithmic = {each.name for each in space.parameters if getattr(each, "log", False)} if space else set()
    values = [trial.value for trial in valued if trial.value is not None]
    kept = [trial.value for trial in valued if trial.number == best and trial.value is not None]
    axis_range, _ = _range(values, kept)
    found = []
    for name in names[:MOST_SLICES]:
        having = [trial for trial in valued if name in trial.parameters]
        found.append((name, _slice(name, having, name in logarithmic, best, direction, axis_range)))
    return found


def _slice(
    name: str,
    having: Sequence[Trial],
    logarithmic: bool,
    best: int | None,
    direction: Direction,
    axis_range: Sequence[float],
) -> Plot | Unknown:
    given = [trial.parameters[name] for trial in having]
    spelled = {_spelled(value) for value in given}
    if len(spelled) == 1:
        return Unknown(f"it was {value_text(given[0])} in all trials")
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    if not numeric:
        return _choices(having, name, best, direction, axis_range)
    shown = evenly(len(having), MOST_SLICE_POINTS)
    values = [trial.value or 0.0 for trial in having]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "x": all_significant(given[place] for place in shown),
            "y": all_significant(values[place] for place in shown),
            "marker": {"color": BLUE, "size": 5, "opacity": 0.5},
            "hovertemplate": f"{label(name)} %{{x}}: %{{y}}<extra></extra>",
        }
    ]  # fmt: skip
    at = [trial for trial in having if trial.number == best]
    data.append(_star([trial.parameters[name] for trial in at], [trial.value for trial in at]))
    logarithmic = logarithmic and min(given) > 0
    text = f"From {brief(min(given))} to {brief(max(given))}"
    text += f"; the best at {brief(at[0].parameters[name])}." if at else "."
    note = "" if len(shown) == len(having) else f"{len(shown):,} of {len(having):,} trials are drawn, evenly chosen."
    scale = {"type": "log", "dtick": 1, "exponentformat": "e"} if logarithmic else {"nticks": 6}
    y = axis(range=all_significant(axis_range))
    return Plot(text, data, layout(axis(**scale), y, margin=_SMALL_MARGIN), note, "small")


def _choices(
    having: Sequence[Trial], name: str, best: int | None, direction: Direction, axis_range: Sequence[float]
) -> Plot | Unknown:
    """Horizontal boxes of the values of each choice: quartiles, minimum and maximum."""
    groups: dict[str, list[float]] = {}
    for trial in having:
        groups.setdefault(_spelled(trial.parameters[name]), []).append(trial.value or 0.0)
    if len(groups) > max(MOST_CHOICES, len(having) // 2):
        return Unknown("almost every trial has a different value, and they have no order")
    chosen = sorted(sorted(groups, key=lambda choice: -len(groups[choice]))[:MOST_CHOICES])
    ticks = _distinct([json.loads(choice) if choice.startswith('"') else choice for choice in chosen], limit=18)
    quartiles = [np.percentile(groups[choice], [0, 25, 50, 75, 100]).tolist() for choice in chosen]
    columns = {
        key: all_significant(each[place] for each in quartiles)
        for place, key in enumerate(("lowerfence", "q1", "median", "q3", "upperfence"))
    }
    boxes: dict[str, Any] = {
        "type": "box", "orientation": "h", "y": ticks, **columns, "line": {"color": BLUE, "width": 1.5},
        "fillcolor": "rgba(47,127,193,.22)", "hoverinfo": "x", "whiskerwidth": 0.4,
    }  # fmt: skip
    at = [trial for trial in having if trial.number == best and _spelled(trial.parameters[name]) in chosen]
    star = _star([trial.value for trial in at], [ticks[chosen.index(_spelled(trial.parameters[name]))] for trial in at])
    sign = -1.0 if direction == "minimize" else 1.0
    middle = max(chosen, key=lambda choice: sign * float(np.median(groups[choice])))
    text = f"Best median: {value_text(json.loads(middle))} ({count(len(groups[middle]), 'trial')})."
    note = "" if len(chosen) == len(groups) else f"The {len(chosen)} most tried of {len(groups)} choices."
    y = axis(type="category", categoryorder="array", categoryarray=ticks[::-1])
    x = axis(range=all_significant(axis_range), nticks=6)
    height = max(SMALL_HEIGHT, 60 + 22 * len(chosen))
    return Plot(text, [boxes, star], layout(x, y, margin=_SMALL_MARGIN, height=height), note, "own")


_SMALL_MARGIN = {"l": 40, "r": 10, "t": 8, "b": 30}


def _star(x: Sequence[Any], y: Sequence[Any]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "hoverinfo": "skip",
        "marker": {"color": ORANGE, "size": 11, "symbol": "star"},
    }  # fmt: skip


def _without_value(lost: Sequence[int], at: float) -> list[dict[str, Any]]:
    """A row of marks for the trials that failed or were cancelled."""
    if not lost:
        return []
    kept = [lost[place] for place in evenly(len(lost), MOST_FAILED)]
    mark = {"color": ORANGE, "size": 6, "symbol": "x-thin", "line": {"color": ORANGE, "width": 1}}
    return [
        {
            "type": "scatter", "mode": "markers", "name": "no value", "x": kept, "y": [significant(at)] * len(kept),
            "marker": mark, "hovertemplate": "trial %{x}: failed, infeasible or cancelled<extra></extra>",
        }
    ]  # fmt: skip


def _by_steps(bests: Sequence[float]) -> Plot:
    shown = extremes_kept(bests, MOST_POINTS)
    data = {
        "type": "scatter", "mode": "lines", "line": {"color": BLUE, "width": 2, "shape": "hv"},
        "x": [place + 1 for place in shown], "y": all_significant(bests[place] for place in shown),
        "hovertemplate": "after step %{x}: %{y}<extra></extra>",
    }  # fmt: skip
    finding = f"The best so far went from {number(bests[0])} to {number(bests[-1])} in "
    return Plot(
        f"{finding}{count(len(bests), 'step')}.",
        [data],
        layout(axis("step", tickformat=",d"), axis("best so far")),
        "The strategy reports the best after each step, but no trials.",
    )


def _valued(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state is TrialState.COMPLETED and trial.value is not None]


def _why_none(trials: Sequence[Trial]) -> str:
    return f"none of {count(len(trials), 'trial')} has a value" if trials else "the ledger has no trials"


def _improvements(values: Sequence[float], direction: Direction) -> list[int]:
    """The positions where the best so far improves, including the first."""
    places = [0]
    for place, value in enumerate(values):
        if is_better(value, values[places[-1]], direction):
            places.append(place)
    return places


def _range(values: Sequence[float], keep: Sequence[float]) -> tuple[list[float], int]:
    """The range of an axis that outliers do not stretch, and the number of values outside it."""
    series = np.asarray(values, dtype=np.float64)
    low, high = float(series.min()), float(series.max())
    inner_low, inner_high = (float(q) for q in np.quantile(series, [0.01, 0.99]))
    inner_low, inner_high = min([inner_low, *keep]), max([inner_high, *keep])
    if inner_high > inner_low and high - low > LEFT_OUT_FROM * (inner_high - inner_low):
        low, high = inner_low, inner_high
    around = range_around(low, high)
    return around, int(((series < around[0]) | (series > around[1])).sum())


def _distinct(names: Sequence[str], limit: int = 28) -> list[str]:
    """Labels without duplicates: names that are cut to the same text get a number."""
    labels: list[str] = []
    for name in names:
        text = label(str(name), limit)
        labels.append(text if text not in labels else f"{text} ({len(labels) + 1})")
    return labels


def _spelled(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _joined(notes: Sequence[str]) -> str:
    return " ".join(sentence(note) for note in notes)

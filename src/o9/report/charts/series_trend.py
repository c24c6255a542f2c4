"""The best of a recurring optimization from run to run, and the Sharpe ratios of the hold-outs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from o9.health.grades import Grade
from o9.health.series_runs import SeriesRun, oldest_first
from o9.health.unknown import Unknown
from o9.report.charts.downsample import all_significant
from o9.report.charts.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, Plot, axis, label, layout
from o9.text.format import count, number

_COLOURS = {
    Grade.CONFIRMED: GREEN,
    Grade.PLAUSIBLE: SKY,
    Grade.UNPROVEN: GREY,
    Grade.LOST: ORANGE,
    Grade.VOID: PURPLE,
}


def trend(runs: Sequence[SeriesRun]) -> Plot | Unknown:
    """The best values over time, coloured by their grades, with the Sharpe ratios of the hold-outs below."""
    valued = [(run, run.best) for run in oldest_first(runs) if run.best is not None]
    if len(valued) < 2:
        return Unknown("fewer than two of its runs have a best value")
    held_out = [(run, run.hold_out) for run, _ in valued if run.hold_out is not None]
    data = [_trace("best", valued, [_colour(run) for run, _ in valued])]
    more: dict[str, Any] = {}
    if held_out:
        data.append(_trace("hold-out", held_out, [ORANGE] * len(held_out)) | {"yaxis": "y2"})
        more = {"yaxis2": axis("hold-out", domain=[0, 0.36], nticks=4)}
    first, last = valued[0][1], valued[-1][1]
    x = axis(type="date", anchor="y2" if held_out else "y")
    return Plot(
        f"{count(len(valued), 'run')}: the best went from {number(first)} to {number(last)}.",
        data,
        layout(x, axis("best", domain=[0.46 if held_out else 0, 1]), **more),
        "Each mark has the colour of its verdict; the table below names it."
        + (" Below: the annual Sharpe ratio of the hold-out." if held_out else ""),
    )


def _trace(name: str, points: Sequence[tuple[SeriesRun, float]], colours: Sequence[str]) -> dict[str, Any]:
    grades = [run.verdict.grade.value if run.verdict else "not judged" for run, _ in points]
    words = [f"{label(run.state.optimization_id)}, {grade}" for (run, _), grade in zip(points, grades, strict=True)]
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": [run.at.isoformat() for run, _ in points],
        "y": all_significant(value for _, value in points), "text": words, "line": {"color": BLUE, "width": 1.5},
        "marker": {"color": list(colours), "size": 9}, "hovertemplate": f"{name} %{{y}}, %{{text}}<extra></extra>",
    }  # fmt: skip


def _colour(run: SeriesRun) -> str:
    return _COLOURS[run.verdict.grade] if run.verdict else BLUE

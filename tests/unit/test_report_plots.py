"""Plots from data: what they show, what they never leave out, and why a plot is missing."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.health.statistics.evidence import examine
from o9.health.statistics.overfitting import probability_of_backtest_overfitting
from o9.health.unknown import Unknown
from o9.model.search_space import SearchSpace
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.report.charts import search as search_plots
from o9.report.charts.downsample import evenly, extremes_kept, significant
from o9.report.charts.equity import MOST_POINTS, equity
from o9.report.charts.figure import Plot, label
from o9.report.charts.life import timeline, trend
from o9.report.charts.luck import rank_logits, sharpe_distribution
from o9.report.charts.search import history, importance_bars, slices
from o9.report.page import script_json
from o9.statistics.importance import importance

DRAWN_AS_SVG = {"scatter", "bar", "box"}


def drawn(found: Plot | Unknown) -> Plot:
    """The plot, of which Plotly knows every property, and JSON every value."""
    assert isinstance(found, Plot), found
    go.Figure(found.to_dict())
    script_json(found.to_dict())
    assert {trace["type"] for trace in found.data} <= DRAWN_AS_SVG
    assert found.finding[-1] == "."
    return found


def reason(found: Plot | Unknown) -> str:
    assert isinstance(found, Unknown), found
    return found.reason


def named(plot: Plot, name: str) -> dict[str, Any]:
    return dict(next(trace for trace in plot.data if trace.get("name", "").startswith(name)))


def trial(number: int, value: float | None, **parameters: Any) -> Trial:
    state = TrialState.FAILED if value is None else TrialState.COMPLETED
    return Trial(number, number // 10, state, parameters, value)


# Thinning


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(2, 50))
def test_thinned_points_keep_the_highest_the_lowest_and_the_ends(values: list[float], limit: int) -> None:
    kept = extremes_kept(values, limit)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(limit + 2, 2)
    assert {0, len(values) - 1} <= set(kept)
    assert max(values[place] for place in kept) == max(values)
    assert min(values[place] for place in kept) == min(values)


@given(st.integers(1, 500), st.integers(2, 60))
def test_evenly_chosen_points_have_the_ends(count: int, limit: int) -> None:
    kept = evenly(count, limit)
    assert len(kept) <= limit
    assert {kept[0], kept[-1]} == {0, count - 1}


def test_numbers_are_rounded_to_what_a_plot_can_show() -> None:
    assert [significant(value) for value in (1 / 3, 123456789.0, -2e-9 / 3, 0.0)] == [
        0.333333,
        123457000,
        -6.66667e-10,
        0,
    ]


# History, importance, slices


def test_no_step_of_the_best_so_far_is_ever_left_out() -> None:
    values = [math.log(1 + number) if number % 10 == 0 else -1.0 for number in range(50_000)]
    plot = drawn(history([trial(number, value) for number, value in enumerate(values)], "maximize"))
    best, points = named(plot, "best so far"), named(plot, "trial")
    assert best["x"][:-1] == list(range(0, 50_000, 10))
    assert best["y"] == sorted(best["y"])
    assert best["x"][-1] == 49_999
    assert len(points["x"]) <= search_plots.MOST_POINTS + 2
    assert f"{len(points['x']):,} of 50,000 values are drawn" in plot.note
    assert len(json.dumps(plot.to_dict())) < 1_000_000


def test_a_search_that_improved_at_every_trial_shows_every_trial() -> None:
    plot = drawn(history([trial(number, -float(number)) for number in range(10_000)], "minimize"))
    assert len(named(plot, "best so far")["x"]) == 10_001
    assert "lower is better" in plot.layout["yaxis"]["title"]["text"]


def test_the_history_marks_the_best_and_those_without_a_value() -> None:
    found = [trial(0, 1.0), trial(1, None), trial(2, 3.0), trial(3, 2.0), trial(4, 3.0)]
    plot = drawn(history(found, "maximize"))
    assert (named(plot, "best so far")["x"], named(plot, "best so far")["y"]) == ([0, 2, 4], [1, 3, 3])
    assert next(trace for trace in plot.data if trace["name"] == "best")["x"] == [2]  # the first of equals
    assert named(plot, "no value")["x"] == [1]
    assert "The best value, 3.0000, came with trial 2" in plot.finding
    assert "1 trial without a value" in plot.note
    down = drawn(history(found, "minimize"))
    assert next(trace for trace in down.data if trace["name"] == "best")["x"] == [0]


def test_one_wild_value_does_not_squeeze_the_others() -> None:
    found = [trial(number, math.sin(number)) for number in range(200)] + [trial(200, -1e12)]
    plot = drawn(history(found, "maximize"))
    low, high = plot.layout["yaxis"]["range"]
    assert -2 < low < -0.9 < 0.9 < high < 2
    assert "Outside the axis: 1 value" in plot.note


def test_a_history_of_one_of_none_and_of_steps_alone() -> None:
    assert "1 trial has a value, and none beat the first." in drawn(history([trial(0, 0.5)], "maximize")).finding
    assert reason(history([], "maximize")) == "the ledger has no trials"
    assert reason(history([trial(0, None), trial(1, None)], "maximize")) == "none of 2 trials has a value"
    steps = drawn(history([], "maximize", bests=[1.0, 1.0, 2.0]))
    assert steps.data[0]["y"] == [1, 1, 2]
    assert "no trials" in steps.note


def test_importance_is_drawn_or_its_reason_given() -> None:
    random = np.random.default_rng(3)
    found = [
        trial(number, float(fast) + random.normal(0, 0.1), **{"快线": int(fast), "idle": 1, "<b>": random.random()})
        for number, fast in enumerate(random.integers(0, 50, 80))
    ]
    plot = drawn(importance_bars(importance(found)))
    assert plot.finding.startswith("快线 explains 9")
    assert plot.data[0]["y"] == ["&lt;b&gt;", "快线"]  # the most important on top, which is last
    assert "idle (" in plot.note
    assert "30 are needed" in reason(importance_bars(importance(found[:5])))
    assert "same value" in reason(importance_bars(importance([trial(n, 1.0, x=n) for n in range(40)])))


SPACE = SearchSpace.parse(
    {
        "stop": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
        "fast": {"type": "int", "low": 2, "high": 60},
        "side": {"type": "categorical", "choices": ["long", 1, True, None]},
    }
)


def test_slices_have_the_axes_of_their_parameters() -> None:
    sides = ["long", 1, True, None]
    found = [
        trial(number, float(number % 7), stop=10 ** -(1 + number % 4), fast=2 + number % 50, side=sides[number % 4])
        for number in range(100)
    ]
    plots = dict(slices(found, SPACE, ["stop"], 6, "maximize"))
    assert list(plots) == ["stop", "fast", "side"]
    assert drawn(plots["stop"]).layout["xaxis"]["type"] == "log"
    assert "type" not in drawn(plots["fast"]).layout["xaxis"]
    side = drawn(plots["side"])
    assert sorted(side.data[0]["y"]) == ["1", "long", "null", "true"]
    lows, highs = side.data[0]["lowerfence"], side.data[0]["upperfence"]
    assert (set(lows), set(highs)) == ({0}, {6})
    ranges = [plots["stop"].layout["yaxis"], plots["fast"].layout["yaxis"], side.layout["xaxis"]]
    assert len({tuple(each["range"]) for each in ranges}) == 1
    assert side.data[1]["y"] == ["true"]  # of trial 6, the best


def test_a_slice_shows_the_best_also_where_it_is_an_outlier_of_value_zero() -> None:
    found = [trial(0, 0.0, fast=0), *(trial(number, -10.0 - number / 200, fast=number) for number in range(1, 200))]
    _, high = drawn(dict(slices(found, None, [], 0, "maximize"))["fast"]).layout["yaxis"]["range"]
    assert high > 0


def test_a_slice_that_shows_nothing_says_why() -> None:
    found = [trial(number, float(number), one=3, name=f"n{number}", late=number) for number in range(40)]
    found[0] = trial(0, 0.0, one=3, name="n0")  # without `late`, which another parameter may have switched off
    plots = dict(slices(found, None, [], 39, "maximize"))
    assert reason(plots["one"]) == "it was 3 in all trials"
    assert "no order" in reason(plots["name"])
    assert len(drawn(plots["late"]).data[0]["x"]) == 39
    assert slices([trial(0, None, x=1)], None, [], None, "maximize") == []


def test_many_parameters_trials_and_choices_stay_within_bounds() -> None:
    random = np.random.default_rng(1)
    found = [
        trial(number, random.random(), **{f"p{place:02}": random.random() for place in range(20)}, c=f"c{number % 30}")
        for number in range(3_000)
    ]
    plots = slices(found, None, ["c"], 5, "maximize")
    assert len(plots) == search_plots.MOST_SLICES
    assert len(drawn(plots[0][1]).data[0]["y"]) == search_plots.MOST_CHOICES
    assert "16 most tried of 30 choices" in drawn(plots[0][1]).note
    assert len(drawn(plots[1][1]).data[0]["x"]) == search_plots.MOST_SLICE_POINTS
    assert "1,200 of 3,000 trials are drawn" in drawn(plots[1][1]).note


def test_the_best_choice_follows_the_direction() -> None:
    found = [trial(number, float(number % 2), side=["low", "high"][number % 2]) for number in range(20)]
    assert "high" in drawn(slices(found, None, [], 1, "maximize")[0][1]).finding
    assert "low" in drawn(slices(found, None, [], 0, "minimize")[0][1]).finding


def test_text_of_others_is_no_markup_in_a_plot() -> None:
    assert label("<a href='https://x'>x</a>", 80) == "&lt;a href='https://x'&gt;x&lt;/a&gt;"
    assert label("a\u202eb") == "a\\u202eb"
    assert len(label("长" * 100)) == 28


# Equity


def test_an_equity_curve_is_compounded_and_its_falls_are_measured_from_the_last_high() -> None:
    plot = drawn(equity([0.1, -0.5, 0.2, 1.0], periods_per_year=2))
    level, fall = plot.data
    assert level["y"] == pytest.approx([1, 1.1, 0.55, 0.66, 1.32])
    assert fall["y"] == pytest.approx([0, 0, -0.5, -0.4, 0])
    assert level["x"] == [0, 0.5, 1, 1.5, 2]
    assert plot.finding == (
        "In sample, 2.0 years: the best turned 1 into 1.32 (+14.9% a year), its deepest drawdown was 50%, its longest "
        "time below a high 1.0 years."
    )
    assert "compounded" in plot.note
    assert "none of its returns are recorded" in plot.note


def test_a_ruin_is_added_up_and_said_to_be() -> None:
    plot = drawn(equity([0.5, -1.0, 0.25]))
    assert plot.data[0]["y"] == [0, 0.5, -0.5, -0.25]
    assert "summed" in plot.note
    assert "3 periods" in plot.finding
    assert drawn(equity([1e300, 1e300])).data[0]["y"][-1] == pytest.approx(2e300)
    assert "overflows" in reason(equity([1e308, 1e308]))


def test_returns_that_cannot_be_drawn_say_why() -> None:
    assert reason(equity(None)) == "the best trial has no returns"
    assert reason(equity([0.1, math.nan, math.inf])) == "2 of 3 returns are not finite, the first in period 1"
    flat = drawn(equity([0.0] * 100))
    assert "its deepest drawdown was 0%, its longest time below a high 0 periods" in flat.finding
    assert set(flat.data[0]["y"]) == {1}


def test_the_baseline_is_beside_it_where_it_has_the_same_periods() -> None:
    plot = drawn(equity([0.1, 0.1], baseline=[0.0, 0.2], hold_out=[0.1], baseline_hold_out=[-0.2]))
    assert [trace["name"] for trace in plot.data if trace.get("yaxis") != "y2"] == ["baseline", "best"]
    assert named(plot, "baseline")["y"] == pytest.approx([1, 1, 1.2, 0.96])
    assert "In the hold-out, 1 period: the best turned 1 into 1.10" in plot.finding
    assert plot.layout["shapes"][0]["x0"] == 2
    for baseline, later, why in (
        (None, None, "none of its returns are recorded"),
        ([0.1], None, "it has 1 returns, the best 2"),
        ([0.1, math.nan], None, "not finite"),
        ([0.1, 0.1], None, "in the hold-out"),
        ([0.1, 0.1], [0.1, 0.1], "2 returns in the hold-out, the best 1"),
    ):
        alone = drawn(equity([0.1, 0.1], baseline=baseline, hold_out=[0.1], baseline_hold_out=later))
        assert why in alone.note
        assert "baseline" not in alone.finding
    unusable = drawn(equity([0.1, 0.1], hold_out=[math.nan]))
    assert "1 of 1 returns are not finite" in unusable.note


def test_a_long_curve_keeps_its_peaks_and_falls() -> None:
    returns = np.random.default_rng(5).normal(0.0003, 0.01, 100_000)
    returns[77_777] = -0.3
    plot = drawn(equity(returns, periods_per_year=252))
    level = np.cumprod(np.append(1.0, 1 + returns))
    assert len(plot.data[0]["x"]) <= MOST_POINTS + 10
    assert max(plot.data[0]["y"]) == significant(level.max())
    assert min(plot.data[1]["y"]) == significant(float((level / np.maximum.accumulate(level) - 1).min()))
    assert "of 100,001 points are drawn" in plot.note
    assert plot.layout["yaxis"]["type"] == "log"


# Luck


def family(trials: int = 60, days: int = 500, edge: float = 0.0, seed: int = 4) -> np.ndarray:
    drawn_returns = np.random.default_rng(seed).normal(0.0, 0.01, (trials, days))
    drawn_returns[0] += edge
    return drawn_returns


@pytest.mark.parametrize("year", [252.0, None])
def test_the_best_and_luck_are_beside_all_sharpe_ratios(year: float | None) -> None:
    evidence = examine(list(family(edge=0.002)), counted=200, best=0, periods_per_year=year)
    plot = drawn(sharpe_distribution(evidence))
    assert sum(plot.data[0]["y"]) == 60
    assert [trace["name"].partition(":")[0] for trace in plot.data[1:]] == ["best", "what luck gives the best"]
    assert ("a year" if year else "a period") in plot.finding
    assert "140 trials more, which count" in plot.note


def test_what_is_unknown_of_luck_says_why() -> None:
    nothing = examine([[0.1, 0.2], [0.1, 0.2, 0.3]])
    assert "different lengths" in reason(sharpe_distribution(nothing))
    assert "different lengths" in reason(rank_logits(nothing.overfitting))
    constant = examine([[0.1] * 100] * 3)
    assert "never vary" in reason(sharpe_distribution(constant))
    one = examine([list(family(1)[0])])
    assert "at least two" in reason(rank_logits(one.overfitting))
    assert drawn(sharpe_distribution(one)).finding.startswith("Of 1 trial the best has")
    returns = list(family(4))
    alone = examine([returns[0], None, None], counted=9)
    assert "variance of their Sharpe ratios is unknown" in drawn(sharpe_distribution(alone)).finding


def test_no_bar_of_the_ranks_holds_both_sides_of_the_median() -> None:
    found = probability_of_backtest_overfitting(family().T)
    assert not isinstance(found, Unknown)
    plot = drawn(rank_logits(found))
    bars = plot.data[0]
    below = sum(y for x, y in zip(bars["x"], bars["y"], strict=True) if x < 0)
    assert below == (found.logits < 0).sum()
    assert sum(bars["y"]) == len(found.logits)
    colours = {colour for x, colour in zip(bars["x"], bars["marker"]["color"], strict=True) if x < 0}
    assert len(colours) == 1
    assert f"In {100 * found.pbo:.1f}% of 12,870 splits" in plot.finding


# Life


def move(status: str, second: float, attempt: int = 1, **more: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=second)
    return {
        "to_status": status,
        "at": at.isoformat(),
        "attempt": attempt,
        "cause": "hook",
        "node": "",
        "message": "",
    } | more


def test_a_timeline_has_a_lane_for_each_attempt_and_a_mark_for_the_end() -> None:
    rows = [
        move("created", 0, 0, cause="submission"), move("initializing", 1), move("running", 1), move("paused", 11),
        move("created", 20), move("initializing", 21, 2), move("running", 22, 2, message="<b>x</b>"),
        move("completed", 30, 2),
    ]  # fmt: skip
    plot = drawn(timeline(rows, datetime(2026, 2, 1, tzinfo=UTC)))
    assert plot.layout["yaxis"]["categoryarray"] == ["attempt 2", "attempt 1", "queue"]
    running = named(plot, "running")
    assert running["base"] == ["2026-01-31 00:00:01.000", "2026-01-31 00:00:22.000"]
    assert running["x"] == [10_000, 8_000]
    assert named(plot, "initializing")["x"] == [0, 1_000]
    assert "&lt;b&gt;x&lt;/b&gt;" in running["customdata"][1]
    assert (named(plot, "completed")["type"], named(plot, "completed")["x"]) == ("scatter", ["2026-01-31 00:00:30.000"])
    assert plot.finding == "8 transitions in 2 attempts, over 30 s; it is completed."


def test_a_timeline_that_has_not_ended_goes_on_until_now() -> None:
    now = datetime(2026, 1, 31, 0, 1, tzinfo=UTC)
    assert named(drawn(timeline([move("created", 0, 0), move("running", 30)], now)), "running")["x"] == [30_000]
    assert reason(timeline([], now)) == "no transition is recorded"
    many = [move(("paused", "created")[number % 2], number, number) for number in range(2_000)]
    plot = drawn(timeline(many, now))
    assert "the last 300 of 2,000 transitions" in plot.note
    assert len(plot.layout["yaxis"]["categoryarray"]) == 30


def test_trends() -> None:
    windows = [
        {"starts": f"2026-01-0{day}", "count": day, "success_rate": day / 10, "mean_duration_seconds": None,
         "mean_improvement": 0.1 * day, "is_over": day < 7}
        for day in range(1, 8)
    ]  # fmt: skip
    known = {"per": "day", "slope": 0.1, "low": 0.05, "high": 0.2, "direction": "rising"}
    unknown = {"per": "day", "slope": None, "reason": "5 are needed"}
    told = {
        "window": "day", "windows": windows,
        "trends": {
            "count": known, "success_rate": known, "mean_duration_seconds": unknown, "mean_improvement": unknown,
        },
    }  # fmt: skip
    assert drawn(trend("count", told)).note == "Rising. Slope +0.1 per day (95%: +0.05 to +0.2)."
    rate = drawn(trend("success_rate", told))
    assert "+10 points per day" in rate.note
    assert rate.finding == "2026-01-07, a day that is not over: 70% completed."
    assert drawn(trend("mean_improvement", told)).note == "Its slope is unknown: 5 are needed."
    assert reason(trend("mean_duration_seconds", told)) == "nothing that ended in this time has this figure"


def test_with_dates_the_curve_has_a_calendar() -> None:
    days = [86_400.0 * day for day in (1, 2, 5)]
    plot = drawn(equity([0.1, 0.1], periods_per_year=252, hold_out=[0.1], dates=days[:2], hold_out_dates=days[2:]))
    assert plot.data[0]["x"] == ["1969-12-31", "1970-01-02", "1970-01-03", "1970-01-06"]
    assert plot.layout["xaxis"]["type"] == "date"
    assert plot.layout["shapes"][0]["x0"] == "1970-01-03"
    assert "no dates" not in plot.note
    for dates, later in ((days[:2], None), (days[1:], days[:1]), (None, days[2:])):
        plain = drawn(equity([0.1, 0.1], hold_out=[0.1], dates=dates, hold_out_dates=later))
        assert (plain.data[0]["x"], plain.layout["shapes"][0]["x0"]) == ([0, 1, 2, 3], 2)

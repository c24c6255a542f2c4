"""Progress with its spread, effect, snapshots and metrics: each figure, or the reason why there is none."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from o9.lifecycle import trends
from o9.lifecycle.effect import target_share
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.monitor.figures import (
    convergence_rate,
    effect_of,
    improvement_rate,
    metrics_of,
    progress_of,
    snapshots,
    stability_score,
)
from o9.monitor.window import WINDOW_STEPS, WINDOW_TRIALS, Step, Window

START = datetime(2026, 1, 1, tzinfo=UTC)
S = OptimizationStatus


def state_of(**fields: Any) -> OptimizationState:
    state = OptimizationState(
        "id", "name", "", OptimizationType.PARAMETER_TUNING, S.RUNNING, OptimizationPriority.NORMAL, START, START
    )
    return dataclasses.replace(state, **fields)


def timed(times: Sequence[float], *, now: float = 0.0, **fields: Any) -> Window:
    """A commit at the start, and one after each of `times`; `now` seconds behind the last."""
    at, steps = START, [Step(0, START, {})]
    for number, seconds in enumerate(times, start=1):
        at += timedelta(seconds=seconds)
        steps.append(Step(number, at, {}))
    defaults = {"total_steps": 2 * len(steps), "completed_steps": len(steps)}
    return Window(state_of(**(defaults | fields)), at + timedelta(seconds=now), steps)


# Progress


def test_the_rest_takes_as_long_as_the_steps_did() -> None:
    told = progress_of(timed([2.0] * 9, now=0.5))
    assert told == {
        "share": 0.5, "completed_steps": 10, "total_steps": 20, "remaining_seconds": pytest.approx(19.5),
        "low_seconds": pytest.approx(19.5), "high_seconds": pytest.approx(19.5), "reason": "",
    }  # fmt: skip
    late = progress_of(timed([2.0] * 9, now=100.0))["remaining_seconds"]
    assert late == pytest.approx(18.0), "a step in flight can have had no more than a usual step takes"
    last = progress_of(timed([1.0, 2.0, 9.0, 10.0, 10.0], now=100.0, completed_steps=6, total_steps=7))
    assert (last["low_seconds"], last["remaining_seconds"]) == (0.0, 0.0)
    set_back = progress_of(timed([2.0] * 9, now=-100.0))["remaining_seconds"]
    assert set_back == pytest.approx(20.0), "a clock that is behind adds nothing"


def test_one_pause_of_a_day_moves_the_estimate_little() -> None:
    chance = random.Random(1)
    times = [1.0 + chance.random() / 5 for _ in range(40)]
    straight = progress_of(timed(times))
    paused = progress_of(timed([*times[:20], 86_400.0, *times[20:]], completed_steps=41, total_steps=82))
    assert straight["remaining_seconds"] is not None
    assert paused["remaining_seconds"] == pytest.approx(straight["remaining_seconds"], rel=0.05)


def test_nine_times_out_of_ten_the_rest_lies_within_the_spread() -> None:
    chance = random.Random(5)
    inside = 0
    for _ in range(400):
        times = [chance.gammavariate(4.0, 0.5) for _ in range(60)]
        told = progress_of(timed(times[:30], total_steps=61, completed_steps=31))
        assert told["low_seconds"] is not None
        assert told["high_seconds"] is not None
        inside += told["low_seconds"] <= sum(times[30:]) <= told["high_seconds"]
    assert 0.84 <= inside / 400 <= 0.95


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (timed([1.0] * 4), "4 step times are known; at least 5 are needed"),
        (timed([1.0] * 9, status=S.PAUSED), "it is not running: paused"),
        (timed([1.0] * 9, status=S.COMPLETED), "it has ended: completed"),
        (timed([1.0] * 9, total_steps=0), "its number of steps is unknown"),
        (Window(state_of(total_steps=3), START), "0 step times are known; at least 5 are needed"),
    ],
)
def test_no_estimate_without_a_reason(window: Window, reason: str) -> None:
    told = progress_of(window)
    assert (told["remaining_seconds"], told["low_seconds"], told["high_seconds"], told["reason"]) == (
        None,
        None,
        None,
        reason,
    )


def test_the_share_that_is_done() -> None:
    assert progress_of(timed([], total_steps=4, completed_steps=1))["share"] == 0.25
    assert progress_of(timed([], total_steps=4, completed_steps=9))["share"] == 1.0
    assert progress_of(timed([], total_steps=0, progress=0.3))["share"] == 0.3, "a coroutine's own"
    assert progress_of(timed([], total_steps=0))["share"] is None
    assert progress_of(timed([1.0] * 9, total_steps=10, completed_steps=10))["remaining_seconds"] == 0.0


@settings(max_examples=100, deadline=None)
@given(times=st.lists(st.floats(0.0, 1e5), min_size=5, max_size=80), now=st.floats(0.0, 1e5), left=st.integers(0, 1000))
def test_the_estimate_lies_in_its_spread_and_never_below_nothing(times: list[float], now: float, left: int) -> None:
    done = len(times) + 1
    told = progress_of(timed(times, now=now, completed_steps=done, total_steps=done + left))
    assert told["low_seconds"] is not None
    assert told["remaining_seconds"] is not None
    assert told["high_seconds"] is not None
    assert 0.0 <= told["low_seconds"] <= told["remaining_seconds"] <= told["high_seconds"]


# Effect


def window_of(values: Sequence[float], **fields: Any) -> Window:
    """One completed trial a step."""
    minimize = fields.get("metadata", {}).get("direction") == "minimize"
    steps, trials, best = [], [], None
    for n, value in enumerate(values):
        best = value if best is None else min(best, value) if minimize else max(best, value)
        at = START + timedelta(seconds=n)
        steps.append(Step(n, at, {"step_seconds": 0.5, "trials": 1.0, "best_value": best}))
        trials.append(Trial(n, n, TrialState.COMPLETED, {"x": n}, value))
    found = {"current_performance": best or 0.0, "completed_steps": len(values), "total_steps": 100}
    return Window(state_of(**(found | fields)), START + timedelta(seconds=len(values)), steps, trials)


def test_effect_against_baseline_and_target() -> None:
    told = effect_of(window_of([1.0, 1.5, 1.2], baseline_performance=1.0, target_performance=2.0))
    assert (told["current"], told["improvement"], told["target_share"]) == (1.5, 0.5, 0.5)
    turned = effect_of(
        window_of(
            [8.0, 4.0], baseline_performance=8.0, target_performance=6.0, metadata={"direction": "minimize"}
        )
    )  # fmt: skip
    assert (turned["current"], turned["improvement"], turned["target_share"]) == (4.0, 0.5, 2.0)


def test_what_is_not_known_has_its_reason() -> None:
    told = effect_of(window_of([], baseline_performance=1.0))
    assert (told["current"], told["improvement"], told["convergence_rate"], told["stability_score"]) == (
        None,
        None,
        None,
        None,
    )
    assert told["reasons"]["current"] == "no trial has succeeded yet"
    assert told["reasons"]["convergence_rate"] == "0 steps have a best value; at least 5 are needed"
    assert told["reasons"]["stability_score"] == "0 trials have succeeded; at least 10 are needed"
    one = effect_of(window_of([3.0]))
    assert (one["current"], one["improvement"]) == (3.0, 3.0)
    assert one["reasons"].keys() == {"target_share", "improvement_rate", "convergence_rate", "stability_score"}
    grid = effect_of(window_of([1.0, 2.0] * 20, metadata={"sampler": "grid"}))
    assert grid["stability_score"] is None


def test_a_target_that_is_not_better_than_the_baseline_is_none() -> None:
    assert target_share(1.0, 0.0, 0.0, "maximize") is None
    assert target_share(1.0, 2.0, 1.0, "maximize") is None
    assert target_share(1.0, 2.0, 1.0, "minimize") == 1.0


def test_improvement_a_step_and_convergence() -> None:
    steady = [float(n) for n in range(11)]
    assert (improvement_rate(steady), convergence_rate(steady)) == (1.0, 0.5)
    early, late = [0.0, 5.0, 9.0, 10.0, 10.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 10.0]
    assert (convergence_rate(early), convergence_rate(late)) == (1.0, 0.0)
    assert (improvement_rate([7.0] * 9), convergence_rate([7.0] * 9)) == (0.0, 1.0)
    assert (improvement_rate(steady[:4]), convergence_rate(steady[:4])) == (None, None)
    assert improvement_rate([0.0] * 100 + [float(n) for n in range(50)]) == 1.0, "of the window, not of all its life"


def test_stability_compares_the_scatter_of_the_halves() -> None:
    swinging, still = [-4.0, 4.0] * 10, [-1.0, 1.0] * 10
    assert stability_score(swinging + still) == pytest.approx(0.8)
    assert stability_score(still + swinging) == pytest.approx(0.2)
    assert stability_score(still + still) == pytest.approx(0.5)
    assert stability_score([3.0] * 20) == 1.0
    assert stability_score(still[:9]) is None


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(-100, 100), min_size=1, max_size=80),
    scale=st.sampled_from([0.25, 8.0]),
    shift=st.integers(-50, 50),
)
def test_rates_without_a_unit_do_not_mind_scale_shift_or_direction(values: list[int], scale: float, shift: int) -> None:
    plain = effect_of(window_of([float(value) for value in values]))
    moved = effect_of(window_of([scale * (value + shift) for value in values]))
    turned = effect_of(window_of([-float(value) for value in values], metadata={"direction": "minimize"}))
    for other in (moved, turned):
        assert (other["convergence_rate"], other["stability_score"]) == (
            plain["convergence_rate"],
            plain["stability_score"],
        )
    assert turned["improvement_rate"] == plain["improvement_rate"]
    if plain["improvement_rate"] is not None:
        assert plain["improvement_rate"] >= 0
        assert moved["improvement_rate"] == pytest.approx(scale * plain["improvement_rate"])


# Snapshots and metrics


def test_a_snapshot_is_what_was_known_then() -> None:
    chance = random.Random(1)
    whole = window_of([chance.random() for _ in range(60)])
    told = snapshots(whole, 20)
    assert [snap["step"] for snap in told] == list(range(40, 60))
    then = dataclasses.replace(
        window_of([trial.value for trial in whole.trials[:46] if trial.value is not None]), now=whole.steps[45].at
    )
    assert told[5] == snapshots(then, 1)[0]
    assert json.loads(json.dumps(told)) == told


def test_the_present_is_judged_by_a_window_however_many_are_shown() -> None:
    chance = random.Random(1)
    whole = window_of([chance.random() for _ in range(700)])
    assert snapshots(whole, 40)[-1] == snapshots(whole.newest(), 1)[0]
    assert (len(whole.newest().steps), len(whole.newest().trials)) == (WINDOW_STEPS, WINDOW_TRIALS)


def test_without_a_step_there_is_one_snapshot_of_now() -> None:
    (told,) = snapshots(Window(state_of(status=S.CREATED, total_steps=5), START), 10)
    assert (told["step"], told["status"], told["findings"]) == (None, "created", [])
    assert told["progress"]["share"] == 0.0
    assert told["resources"]["cpu_percent"] is None
    assert told["resources"]["reason"]


def test_metrics_have_what_was_measured_and_nothing_else() -> None:
    window = window_of([float(n) for n in range(12)])
    figures = {"cpu_percent": 90.0, "memory_mib": 50.0, "recall": 0.5}
    steps = [*window.steps[:-1], dataclasses.replace(window.steps[-1], figures=window.steps[-1].figures | figures)]
    trials = [dataclasses.replace(trial, metrics={"accuracy": trial.number / 100}) for trial in window.trials]
    first, *_, last = metrics_of(dataclasses.replace(window, steps=steps, trials=trials), steps)
    assert dataclasses.asdict(last) | {"timestamp": None} == {
        "optimization_id": "id", "timestamp": None, "execution_time": 0.5, "cpu_usage": 90.0, "memory_usage": 50.0,
        "throughput": 2.0, "convergence_rate": pytest.approx(5 / 11), "improvement_rate": 1.0,
        "stability_score": pytest.approx(0.5), "accuracy": 0.11, "precision": None, "recall": 0.5, "f1_score": None,
        "profit_improvement": None, "risk_reduction": None, "efficiency_gain": None,
    }  # fmt: skip
    assert (first.accuracy, first.cpu_usage, first.improvement_rate, first.stability_score) == (0.0, None, None, None)


# The statistics against others' code


@settings(max_examples=100, deadline=None)
@given(
    earlier=st.lists(st.integers(0, 9), min_size=2, max_size=30),
    later=st.lists(st.integers(0, 9), min_size=2, max_size=30),
)
def test_mann_whitney_as_scipy_has_it(earlier: list[int], later: list[int]) -> None:
    share, z = trends.larger_later(earlier, later)
    told = stats.mannwhitneyu(later, earlier, method="asymptotic", use_continuity=False)
    assert share == pytest.approx(told.statistic / (len(earlier) * len(later)))
    if len({*earlier, *later}) > 1:
        assert 2 * stats.norm.sf(abs(z)) == pytest.approx(told.pvalue)
    else:
        assert z == 0.0


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(-50, 50), min_size=3, max_size=40))
def test_slope_spread_and_ranks_as_scipy_has_them(values: list[int]) -> None:
    assert trends.slope(values) == pytest.approx(stats.theilslopes(values)[0])
    assert trends.spread(values) == pytest.approx(stats.iqr(values))
    assert list(trends.ranks(values)) == list(stats.rankdata(values))

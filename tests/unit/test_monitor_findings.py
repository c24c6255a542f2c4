"""Each problem that the monitor names: once in which it happens, once in which it nearly does."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.model.optimization import OptimizationState
from o9.model.search_space import SearchSpace
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.monitor.findings import (
    Finding,
    best_at_edge,
    diverging,
    failing_trials,
    find_problems,
    memory_growing,
    nan_values,
    plateaued,
    slower_than_before,
    stalled,
)
from o9.monitor.window import Step, Window
from o9.workers.answers import BadAnswer, plain_answer

START = datetime(2026, 1, 1, tzinfo=UTC)
S = OptimizationStatus


def window(
    values: Sequence[float | str] = (),
    *,
    times: Sequence[float] = (),
    memory: Sequence[float | None] = (),
    quiet: float = 0.0,
    status: OptimizationStatus = S.RUNNING,
    space: dict[str, Any] | None = None,
    best: dict[str, Any] | None = None,
    **metadata: Any,
) -> Window:
    """One trial a step; a text is the error of a failed one. `times` are the steps' seconds, 1.0 where left out."""
    count = max(len(values), len(times), len(memory))
    at, so_far, steps, trials = START, None, [], []
    minimize = metadata.get("direction") == "minimize"
    for n in range(count):
        seconds = times[n] if n < len(times) else 1.0
        at += timedelta(seconds=seconds)
        value = values[n] if n < len(values) else 1.0
        failed = isinstance(value, str)
        trials.append(
            Trial(
                n, n, TrialState.FAILED if failed else TrialState.COMPLETED, {"x": n},
                None if isinstance(value, str) else value, error=value if isinstance(value, str) else None,
            )
        )  # fmt: skip
        if not isinstance(value, str):
            so_far = value if so_far is None else min(so_far, value) if minimize else max(so_far, value)
        figures = {"step_seconds": seconds, "trials": 1.0}
        figures |= {} if so_far is None else {"best_value": so_far}
        figures |= {"memory_mib": taken} if n < len(memory) and (taken := memory[n]) is not None else {}
        steps.append(Step(n, at, figures))
    state = OptimizationState(
        "id", "name", "", OptimizationType.PARAMETER_TUNING, status, OptimizationPriority.NORMAL, START, at,
        completed_steps=count, total_steps=count * 2, optimized_parameters=best or {}, metadata=metadata,
        current_performance=so_far or 0.0,
    )  # fmt: skip
    return Window(state, at + timedelta(seconds=quiet), steps, trials, SearchSpace.parse(space) if space else None)


def noise(count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(0.0, 1.0) for _ in range(count)]


def named(finding: Finding | None) -> str | None:
    return None if finding is None else finding.name


# Plateaued


def rising_until(last: int, count: int) -> list[float]:
    return [float(min(n, last)) - (0.5 if n % 2 else 0.0) for n in range(count)]


def test_plateaued_is_three_quarters_without_gain() -> None:
    finding = plateaued(window(rising_until(20, 100)))
    assert finding is not None
    assert (finding.name, finding.evidence["trials"], finding.evidence["gain"]) == ("plateaued", 74, 0.0)
    assert plateaued(window(rising_until(30, 100))) is None, "it still gained in the newest three quarters"
    falling = [-value for value in rising_until(20, 100)]
    assert named(plateaued(window(falling, direction="minimize"))) == "plateaued"


def test_a_gain_of_less_than_a_hundredth_of_the_spread_is_none() -> None:
    values = [0.0, 10.0] * 20 + [10.0, 0.0] * 60
    assert plateaued(window([*values[:159], 10.09])) is not None
    assert plateaued(window([*values[:159], 10.2])) is None


def test_plateaued_needs_thirty_trials_in_which_nothing_came() -> None:
    assert plateaued(window(rising_until(2, 39))) is None
    assert plateaued(window(rising_until(2, 42))) is not None


# Diverging


def test_diverging_is_worse_and_worse() -> None:
    worse = [-0.1 * n + value for n, value in enumerate(noise(60))]
    finding = diverging(window(worse))
    assert finding is not None
    assert finding.evidence["better_share"] < 0.1
    assert named(diverging(window([-value for value in worse], direction="minimize"))) == "diverging"
    assert diverging(window(worse, direction="minimize")) is None, "getting better is no problem"
    nearly = [-0.01 * n + value for n, value in enumerate(noise(60))]
    assert diverging(window(nearly)) is None


def test_one_bad_turn_that_was_overcome_is_no_divergence() -> None:
    small = [value / 100 for value in noise(60)]
    recovering = [level + value for level, value in zip([10.0] * 25 + [0.0] * 15 + [3.0] * 20, small, strict=True)]
    assert diverging(window(recovering)) is None
    falling = [level + value for level, value in zip([10.0] * 25 + [3.0] * 15 + [0.0] * 20, small, strict=True)]
    assert diverging(window(falling)) is not None


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_what_has_an_order_of_its_own_does_not_diverge(sampler: str) -> None:
    falling = [-float(n) for n in range(60)]
    assert diverging(window(falling, sampler=sampler)) is None
    assert diverging(window(falling, sampler="random")) is not None


def test_noise_is_hardly_ever_taken_for_a_problem() -> None:
    found = [finding for seed in range(300) for finding in find_problems(window(noise(100, seed)))]
    assert sum(finding.name == "diverging" for finding in found) <= 2
    # Of random values, one time in four the best lies in the oldest quarter.
    assert 40 <= sum(finding.name == "plateaued" for finding in found) <= 115


# Failing trials and NaN


def test_failing_trials_are_a_fifth_or_more() -> None:
    finding = failing_trials(window([1.0] * 20 + ["ZeroDivisionError: x\ntrace"] * 4 + ["KeyError: 'y'"]))
    assert finding is not None
    assert finding.level is AlertLevel.WARNING
    assert finding.evidence == {
        "failed": 5, "trials": 25, "share": 0.2, "error": "ZeroDivisionError: x", "times": 4,
    }  # fmt: skip
    assert failing_trials(window([1.0] * 21 + ["E: x"] * 5)) is None, "a little less than a fifth"
    assert failing_trials(window(["E: x"] * 4)) is None, "four are not enough to say so"
    all_failed = failing_trials(window(["E: x"] * 5))
    assert all_failed is not None
    assert all_failed.level is AlertLevel.ERROR


def test_cancelled_trials_are_no_failures() -> None:
    seen = window([1.0] * 5 + ["E: x"] * 20)
    trials = [dataclasses.replace(t, state=TrialState.CANCELLED) if t.error else t for t in seen.trials]
    assert failing_trials(dataclasses.replace(seen, trials=trials)) is None
    seen = window([1.0] * 50 + ["E: x"] * 5)
    trials = [dataclasses.replace(t, state=TrialState.CANCELLED) if t.number < 30 else t for t in seen.trials]
    assert failing_trials(dataclasses.replace(seen, trials=trials)) is not None, "5 of the 25 that were evaluated"


def test_infeasible_trials_are_no_failures() -> None:
    seen = window([1.0] * 20 + ["E: x"] * 20)
    trials = [dataclasses.replace(t, state=TrialState.INFEASIBLE) if t.error else t for t in seen.trials]
    assert failing_trials(dataclasses.replace(seen, trials=trials)) is None


def said_of(answer: Any) -> str:
    with pytest.raises(BadAnswer) as refused:
        plain_answer(answer)
    return str(refused.value)


def test_nan_is_seen_wherever_an_objective_puts_it() -> None:
    from o9.model.trial import Evaluation

    for answer in (math.nan, Evaluation(1.0, returns=[0.1, math.nan]), Evaluation(1.0, metrics={"a": math.nan})):
        finding = nan_values(window([1.0] * 9 + [said_of(answer)]))
        assert finding is not None, said_of(answer)
        assert finding.evidence == {"trials": [9], "count": 1, "share": 0.1}
    for answer in (math.inf, Evaluation(1.0, returns=[-math.inf]), Evaluation(1.0, metrics={"nan": math.inf})):
        assert nan_values(window([1.0] * 9 + [said_of(answer)])) is None, "infinity is another thing"
    assert nan_values(window([1.0] * 9 + ["ValueError: nan\nthe objective returned nan"])) is None


# At the edge

RANGES: dict[str, Any] = {
    "fast": {"type": "int", "low": 2, "high": 60},
    "few": {"type": "int", "low": 0, "high": 8},
    "lots": {"type": "int", "low": 1, "high": 10_000, "log": True},
    "stop": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "band": {"type": "float", "low": 0.0, "high": 1.05, "step": 0.1},
    "x": {"type": "float", "low": -5.0, "high": 5.0},
    "side": {"type": "categorical", "choices": ["long", "short"]},
    "fixed": {"type": "float", "low": 1.0, "high": 1.0},
    "window": {"type": "categorical", "choices": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]},
}
INSIDE = {
    "fast": 20,
    "few": 4,
    "lots": 100,
    "stop": 0.01,
    "band": 0.5,
    "x": 0.0,
    "side": "long",
    "fixed": 1.0,
    "window": 20,
}


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("fast", 2, "low"),
        ("fast", 60, "high"),
        ("fast", 3, None),
        ("few", 8, None),
        ("lots", 1, "low"),
        ("lots", 9_500, "high"),
        ("lots", 9_000, None),
        ("stop", 1.09e-4, "low"),
        ("stop", 1.2e-4, None),
        ("stop", 0.009, None),
        ("band", 1.0, "high"),
        ("band", 0.9, None),
        ("x", 4.95, "high"),
        ("x", 4.85, None),
        ("x", -4.95, "low"),
        ("side", "short", None),
        ("fixed", 1.0, None),
        ("window", 1, None),
    ],
)
def test_the_edge_is_the_last_point_or_the_outer_hundredth_on_the_scale_of_the_search(
    name: str, value: Any, side: str | None
) -> None:
    finding = best_at_edge(window(noise(20), space=RANGES, best=INSIDE | {name: value}))
    assert (finding.evidence["edges"] if finding else {}) == ({name: side} if side else {})


def test_no_edge_without_a_space_a_best_or_trials_enough() -> None:
    at_edge = INSIDE | {"fast": 2}
    assert best_at_edge(window(noise(20), best=at_edge)) is None
    assert best_at_edge(window(noise(20), space=RANGES)) is None
    assert best_at_edge(window(noise(19), space=RANGES, best=at_edge)) is None
    assert best_at_edge(window(noise(20), space=RANGES, best={"other": 1, "fast": "2"})) is None


# All of them

ALL: list[Callable[[Window], Finding | None]] = [
    stalled, plateaued, diverging, failing_trials, nan_values, best_at_edge, memory_growing, slower_than_before,
]  # fmt: skip


@pytest.mark.parametrize("values", [[], [1.0], ["E: x"], [1.0] * 100, [0.0] * 100])
def test_nothing_one_trial_or_no_variance_is_no_problem(values: list[float | str]) -> None:
    assert [named(look(window(values, space=RANGES))) for look in ALL] == [None] * len(ALL)


def test_the_worst_comes_first() -> None:
    values: list[float | str] = [*["E: x"] * 60, 9.0, *noise(100)]
    found = find_problems(window(values, quiet=100.0))
    assert [finding.name for finding in found] == ["stalled", "failing_trials", "plateaued"]
    assert all(finding.remedy and finding.evidence for finding in found)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40), min_size=0, max_size=120),
    swing=st.integers(0, 200),
    trend=st.integers(-8, 2),
    scale=st.sampled_from([2.0**-6, 0.5, 4.0, 2.0**20]),
    shift=st.integers(-1000, 1000),
)
def test_scaling_or_shifting_all_values_changes_no_finding(
    values: list[int], swing: int, trend: int, scale: float, shift: int
) -> None:
    shaped = [float(value + swing * (n % 3) + trend * n) for n, value in enumerate(values)]
    moved = [scale * (value + shift) for value in shaped]
    for direction in ("maximize", "minimize"):
        before, after = (
            find_problems(window(series, direction=direction)) for series in (shaped, moved)
        )  # fmt: skip
        assert [finding.name for finding in before] == [finding.name for finding in after]


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), max_size=100))
def test_minimizing_is_maximizing_the_negative(values: list[float]) -> None:
    turned = find_problems(window([-value for value in values], direction="minimize"))
    assert [finding.name for finding in find_problems(window(values))] == [finding.name for finding in turned]

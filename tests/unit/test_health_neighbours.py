"""Spikes and plateaus, on every kind of scale."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.health.checks.neighbours import Neighbourhood, distance, neighbourhood
from o9.health.unknown import Unknown
from o9.model.search_space import SearchSpace
from o9.model.states import TrialState
from o9.model.trial import Trial

FLAT = SearchSpace.parse(
    {
        "fast": {"type": "int", "low": 2, "high": 102},
        "decay": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
        "side": {"type": "categorical", "choices": ["long", "both"]},
    }
)
LINE = SearchSpace.parse({"x": {"type": "float", "low": 0.0, "high": 1.0}})


def on_line(values: Mapping[float, float | None]) -> list[Trial]:
    """Trials at these x; None: it failed."""
    return [
        Trial(number, 0, TrialState.FAILED if value is None else TrialState.COMPLETED, {"x": x}, value)
        for number, (x, value) in enumerate(values.items())
    ]


def looked(trials: list[Trial], space: SearchSpace = LINE, *, maximize: bool = True) -> Neighbourhood:
    answer = neighbourhood(trials, space, maximize=maximize)
    assert isinstance(answer, Neighbourhood), answer
    return answer


def ledger(score: Any, trials: int = 400) -> list[Trial]:
    generator = random.Random(7)
    points = [{"fast": 50, "decay": 0.03, "side": "both"}]
    points += [
        {
            "fast": generator.randint(2, 102),
            "decay": 10 ** generator.uniform(-3, 0),
            "side": generator.choice(["long", "both"]),
        }
        for _ in range(trials)
    ]
    return [
        Trial(number, 0, TrialState.COMPLETED, point, score(point) + generator.gauss(0, 0.05))
        for number, point in enumerate(points)
    ]


def test_a_spike_is_a_peak() -> None:
    found = looked(ledger(lambda point: 2.0 if point["fast"] == 50 and point["decay"] == 0.03 else 0.0), FLAT)
    assert (found.is_plateau, found.best) == (False, 0)
    assert abs(found.kept) < 0.1
    assert "a small change of the parameters loses most of it" in found.words


def test_a_plateau_is_a_plateau() -> None:
    def hill(point: dict[str, Any]) -> float:
        """Wide in a number, wide in a logarithm, and only for one of the choices."""
        away = abs(point["fast"] - 50) / 100 + abs(math.log10(point["decay"] / 0.03)) / 3
        return 2.0 - away if point["side"] == "both" else 0.0

    found = looked(ledger(hill), FLAT)
    assert found.is_plateau
    assert found.kept > 0.7


def test_pure_noise_is_a_peak() -> None:
    found = looked(ledger(lambda point: 0.0), FLAT)
    assert not found.is_plateau


def test_minimizing_takes_the_lowest_value() -> None:
    values = {i / 50: float(abs(i - 20)) for i in range(51)}
    assert looked(on_line(values), maximize=False).best == 20
    assert looked(on_line(values), maximize=False).is_plateau
    # Upside down the best is the corner at 50, and its neighbours are nearly as high.
    assert looked(on_line(values)).best == 50


def test_copies_of_a_spike_do_not_make_it_a_plateau() -> None:
    """An adaptive sampler returns to where it was good."""
    crowd: dict[float, float | None] = {0.5 + i / 10_000: 1.0 - i / 10_000 for i in range(100)}
    found = looked(on_line(crowd | {i / 200 + 0.002: 0.0 for i in range(199)}))
    assert not found.is_plateau


def test_a_cliff_is_not_a_plateau() -> None:
    """Where the neighbours fail, or have no value, nothing is left."""
    values: dict[float, float | None] = {0.5: 2.0, **{i / 100: 1.9 for i in range(41)}}
    values |= {0.5 + i / 100: None for i in range(4, 15)} | {0.5 - i / 100: math.nan for i in range(4, 9)}
    found = looked(on_line(values))
    assert (found.is_plateau, found.kept) == (False, -math.inf)
    assert "failed" in found.words


def test_cancelled_trials_are_left_out() -> None:
    trials = on_line({0.5: 2.0} | {i / 100: 1.0 for i in range(30)} | {0.55 + i / 100: 1.9 for i in range(9)})
    cancelled = [Trial(900 + i, 0, TrialState.CANCELLED, {"x": 0.45 - i / 1000}) for i in range(50)]
    assert looked(trials + cancelled) == looked(trials)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.floats(0.1, 100), st.floats(-50, 50))
def test_the_result_does_not_depend_on_scale_and_offset(seed: int, unit: float, zero: float) -> None:
    generator = random.Random(seed)
    trials = on_line({generator.random(): generator.gauss(0, 1) for _ in range(80)})
    moved = [replace(trial, value=(trial.value or 0.0) * unit + zero) for trial in trials]
    one, other = (neighbourhood(some, LINE, maximize=True) for some in (trials, moved))
    if isinstance(one, Unknown):
        assert one == other
    else:
        assert isinstance(other, Neighbourhood)
        assert (other.best, other.neighbours) == (one.best, one.neighbours)
        assert other.kept == pytest.approx(one.kept, abs=1e-6)


def test_distances() -> None:
    here = {"fast": 52, "decay": 0.01, "side": "long"}

    def away(**there: Any) -> float:
        return distance(FLAT.parameters, here, here | there)

    assert away() == 0
    assert away(fast=62) == pytest.approx(0.1 / 3)
    assert away(decay=0.1) == pytest.approx(1 / 9)  # one decade of three
    assert away(side="both") == pytest.approx(1 / 3)
    low, high = {"fast": 2, "decay": 0.001, "side": "long"}, {"fast": 102, "decay": 1.0, "side": "both"}
    assert distance(FLAT.parameters, low, high) == 1


def test_a_parameter_with_one_value_is_left_out() -> None:
    fixed = SearchSpace.parse(
        {"x": {"type": "float", "low": 0.0, "high": 1.0}, "one": {"type": "int", "low": 3, "high": 3}}
    )
    trials = on_line({i / 50: float(abs(i - 20)) for i in range(51)})
    also_fixed = [replace(trial, parameters=trial.parameters | {"one": 3}) for trial in trials]
    assert looked(also_fixed, fixed) == looked(trials)


def test_an_unknown_neighbourhood_has_a_reason() -> None:
    def reason(trials: list[Trial], space: SearchSpace = LINE) -> str:
        answer = neighbourhood(trials, space, maximize=True)
        assert isinstance(answer, Unknown)
        return answer.reason

    assert "no trial completed" in reason([])
    assert "no trial completed" in reason(on_line({0.1: None, 0.2: math.nan}))
    assert "same value" in reason(on_line({0.5: 1.0}))
    assert "same value" in reason(on_line({i / 20: 1.0 for i in range(20)}))
    assert "only 4 trials near the best" in reason(on_line({0.5: 2.0} | {0.55 + i / 100: 1.0 for i in range(4)}))
    fixed = SearchSpace.parse({"x": {"type": "int", "low": 1, "high": 1}})
    twice = [Trial(n, 0, TrialState.COMPLETED, {"x": 1}, float(n)) for n in range(9)]
    assert "no parameter" in reason(twice, fixed)
    assert "no trial completed" in reason([replace(trial, parameters={"y": 1}) for trial in twice], fixed)

"""Importance and interactions: of known functions, against a brute-force computation, and when it is unknown."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.statistics.importance import FEWEST_FOR_PAIRS, FEWEST_TRIALS, importance


def tried(count: int, value: Callable[[Mapping[str, Any]], float], seed: int = 1, **spaces: Any) -> list[Trial]:
    chance = random.Random(seed)
    trials = []
    for number in range(count):
        chosen = {name: space(chance) for name, space in spaces.items()}
        trials.append(Trial(number, number, TrialState.COMPLETED, chosen, value(chosen)))
    return trials


def unit(chance: random.Random) -> float:
    return chance.random()


def test_importance_is_the_share_explained() -> None:
    """y = 3a + b with a, b uniform: the Sobol indices are 0.9 and 0.1; c does nothing."""
    result = importance(tried(2_000, lambda p: 3 * p["a"] + p["b"], a=unit, b=unit, c=unit))
    assert list(result["parameters"]) == ["a", "b", "c"]
    shares = {name: each["importance"] for name, each in result["parameters"].items()}
    assert shares["a"] == pytest.approx(0.9, abs=0.05)
    assert shares["b"] == pytest.approx(0.1, abs=0.04)
    assert shares["c"] < 0.01
    assert result["parameters"]["a"]["p_value"] < 1e-6 < result["parameters"]["c"]["p_value"]


def test_it_is_epsilon_squared_of_the_cells() -> None:
    """Compare with the formula, spelled out for choices."""
    trials = tried(60, lambda p: p["k"] + 0.1 * p["x"], k=lambda c: c.choice([0, 1, 2]), x=unit)
    by_value = sorted(range(60), key=lambda n: trials[n].value or 0.0)
    ranks = {number: float(place) for place, number in enumerate(by_value)}
    mean = sum(ranks.values()) / 60
    whole = sum((rank - mean) ** 2 for rank in ranks.values())
    within = 0.0
    for choice in (0, 1, 2):
        cell = [ranks[n] for n in range(60) if trials[n].parameters["k"] == choice]
        within += sum((rank - sum(cell) / len(cell)) ** 2 for rank in cell)
    expected = 1 - (within / (60 - 3)) / (whole / 59)
    assert importance(trials)["parameters"]["k"]["importance"] == pytest.approx(expected, abs=1e-12)


def test_an_interaction_is_found_as_a_pair() -> None:
    result = importance(tried(1_000, lambda p: (p["a"] - 0.5) * (p["b"] - 0.5), a=unit, b=unit, c=unit))
    assert all(each["importance"] < 0.05 for each in result["parameters"].values())
    assert result["pairs"][0]["parameters"] == ["a", "b"]
    assert result["pairs"][0]["interaction"] > 0.4
    assert all(abs(pair["interaction"]) < 0.05 for pair in result["pairs"][1:])


def test_noise_has_no_importance() -> None:
    chance = random.Random(3)
    names = {f"p{n}": unit for n in range(10)}
    found = [importance(tried(100, lambda _: chance.gauss(0, 1), seed, **names)) for seed in range(20)]
    shares = [each["importance"] for result in found for each in result["parameters"].values()]
    p_values = [each["p_value"] for result in found for each in result["parameters"].values()]
    assert sum(shares) / len(shares) < 0.03
    assert sum(p < 0.05 for p in p_values) / len(p_values) < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_same_ledger_gives_the_same_answer_whatever_the_direction() -> None:
    trials = tried(100, lambda p: p["a"] ** 3, a=unit, b=unit)
    turned = [Trial(t.number, t.step, t.state, t.parameters, -(t.value or 0.0) * 1e9) for t in trials]
    one, other = importance(trials), importance(turned)
    assert importance(trials) == one
    assert one["parameters"]["a"]["importance"] == pytest.approx(other["parameters"]["a"]["importance"])


def test_choices_flags_lists_and_absent_parameters_are_cells() -> None:
    trials = tried(200, lambda p: {"x": 0, "y": 1}[p["kind"]] + p["flag"] * 0.01, kind=lambda c: c.choice("xy"),
                   flag=lambda c: c.random() < 0.5, shape=lambda c: c.choice([[1, 2], [3]]))  # fmt: skip
    for trial in trials:
        if trial.parameters["kind"] == "x":
            trial.parameters["only_of_x"] = 0.1 * (trial.number % 50)
    result = importance(trials)["parameters"]
    assert result["kind"]["importance"] > 0.7
    assert result["only_of_x"]["importance"] > 0.5  # whether it is there tells which kind it was


@pytest.mark.parametrize("count", [0, 1, FEWEST_TRIALS - 1])
def test_too_few_trials_give_none_and_the_reason(count: int) -> None:
    result = importance(tried(count, lambda p: p["a"], a=unit))
    assert result["parameters"] is result["pairs"] is None
    assert result["reason"].startswith(f"{count} ")


def test_failed_trials_do_not_count() -> None:
    trials = tried(FEWEST_TRIALS, lambda p: p["a"], a=unit)
    trials += [Trial(900, 9, TrialState.FAILED, {"a": 0.5}), Trial(901, 9, TrialState.CANCELLED, {"a": 0.5}, 1.0)]
    result = importance(trials)
    assert result["trials"] == FEWEST_TRIALS
    assert result["pairs"] is None
    assert str(FEWEST_FOR_PAIRS) in result["pairs_reason"]


def test_unknown_importance_has_a_reason() -> None:
    trials = tried(50, lambda p: p["a"], a=unit, fixed=lambda _: 1.0, name=lambda c: str(c.random()))
    result = importance(trials)["parameters"]
    assert (result["fixed"]["importance"], result["name"]["importance"]) == (None, None)
    assert "same value" in result["fixed"]["reason"]
    assert "same value" in importance(tried(50, lambda _: 1.0, a=unit))["reason"]

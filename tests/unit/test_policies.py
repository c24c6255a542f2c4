"""Limits and defaults of policies: which of them apply, and what is valid."""

import math
from typing import Any

import pytest

from o9.model.errors import OptimizationValidationError
from o9.store.queue.policies import ALL, LIMIT, has_room, validate_policy, with_defaults

TUNING, RISK = "parameter_tuning", "risk_optimization"


@pytest.mark.parametrize(
    ("policies", "held", "expected"),
    [
        # Whether one more may start of: tuning by x, tuning by y, risk by x, risk by y.
        ({}, {}, (True, True, True, True)),
        ({}, {(TUNING, "x"): 3, (RISK, "y"): 1}, (False, False, False, False)),
        ({ALL: 2}, {(TUNING, "x"): 1, (RISK, "y"): 1}, (False, False, False, False)),
        ({ALL: 9}, {(TUNING, "x"): 3}, (True, True, True, True)),
        ({TUNING: 1}, {(TUNING, "y"): 1}, (False, False, True, True)),
        ({"x": 1}, {(RISK, "x"): 1}, (False, True, False, True)),
        ({TUNING: 2, "x": 2}, {(TUNING, "x"): 1, (TUNING, "y"): 1, (RISK, "x"): 1}, (False, False, False, True)),
        ({TUNING: 1, "x": 1}, {}, (True, True, True, True)),
        ({"nobody's": 1}, {(TUNING, "x"): 1}, (True, True, True, True)),
    ],
)
def test_each_limit_that_applies_holds(
    policies: dict[str, int], held: dict[tuple[str, str], int], expected: tuple[bool, ...]
) -> None:
    limit = 4 if held else 1
    limits = {name: {LIMIT: most} for name, most in policies.items()}
    pairs = [(kind, strategy) for kind in (TUNING, RISK) for strategy in "xy"]
    assert tuple(has_room(limits, held, limit, *pair) for pair in pairs) == expected


def test_nothing_starts_above_a_limit() -> None:
    assert not has_room({"x": {LIMIT: 1}}, {(TUNING, "x"): 5}, 9, TUNING, "x")
    assert not has_room({}, {(TUNING, "x"): 5}, 3, RISK, "y")


def test_the_most_specific_default_applies() -> None:
    policies: dict[str, dict[str, Any]] = {
        ALL: {"timeout_seconds": 1.0, "max_attempts": 1, LIMIT: 9},
        TUNING: {"timeout_seconds": 2.0},
        "x": {"timeout_seconds": 3.0, LIMIT: 1},
    }
    metadata = {"objective": "branin"}
    for kind, strategy, seconds in [(TUNING, "x", 3.0), (TUNING, "y", 2.0), (RISK, "x", 3.0), (RISK, "y", 1.0)]:
        filled = with_defaults(policies, kind, strategy, metadata)
        assert filled == {"objective": "branin", "timeout_seconds": seconds, "max_attempts": 1}
    assert metadata == {"objective": "branin"}
    own = with_defaults(policies, TUNING, "x", {"timeout_seconds": 9.0, "max_attempts": None})
    assert own == {"timeout_seconds": 9.0, "max_attempts": None}
    assert with_defaults({}, TUNING, "x", metadata) == metadata


@pytest.mark.parametrize("key", [LIMIT, "max_attempts", "timeout_seconds"])
@pytest.mark.parametrize("value", [0, -1, True, False, "3", "", math.nan, math.inf, -math.inf, [1], {}])
def test_an_invalid_limit_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(OptimizationValidationError) as refusal:
        validate_policy({LIMIT: 1, key: value})
    assert refusal.value.field == f"config.{key}"
    assert repr(value) in refusal.value.problem


def test_only_seconds_may_be_fractions() -> None:
    assert validate_policy({"timeout_seconds": 0.5, LIMIT: 1, "max_attempts": None}) == {
        "timeout_seconds": 0.5,
        LIMIT: 1,
    }
    for key in (LIMIT, "max_attempts"):
        with pytest.raises(OptimizationValidationError, match="whole number of 1 or more"):
            validate_policy({key: 2.0})


@pytest.mark.parametrize("config", [None, [], "max_attempts", 3])
def test_a_config_must_be_a_mapping(config: Any) -> None:
    with pytest.raises(OptimizationValidationError, match="expected keys and values"):
        validate_policy(config)


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(OptimizationValidationError, match=f"max_concurrent: not one of {LIMIT}"):
        validate_policy({"max_concurrent": 3})

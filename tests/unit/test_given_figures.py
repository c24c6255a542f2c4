"""A baseline or target of 0 counts as given; baseline returns get the objective's own score."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationState, baseline_of, target_of
from o9.model.specification import new_optimization
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.model.validation import validate_new
from o9.report.headline import gain_text
from o9.strategies.baseline import baseline_value
from o9.text.format import NOTHING, number
from o9.workers.scores import calmar, sharpe, sortino

BRANIN = {"metadata": {"objective": "branin"}}


@pytest.mark.parametrize(
    ("fields", "baseline", "target"),
    [
        ({}, None, None),
        ({"baseline_performance": 0}, 0.0, None),
        ({"baseline_performance": 0.0, "target_performance": 0}, 0.0, 0.0),
        ({"baseline_performance": 0.4, "target_performance": 0}, 0.4, 0.0),
        ({"metadata": {"objective": "branin", "given": ["target_performance"]}}, None, 0.0),
    ],
)
def test_what_was_typed_is_given_also_where_it_is_0(
    fields: dict[str, Any], baseline: float | None, target: float | None
) -> None:
    state = new_optimization(BRANIN | fields)
    validate_new(state)
    assert (baseline_of(state), target_of(state)) == (baseline, target)
    again = new_optimization(state.to_dict())  # a state that was read says the same
    assert (baseline_of(again), target_of(again)) == (baseline, target)


def test_in_python_the_default_of_a_field_is_nothing_that_was_given() -> None:
    now = datetime.now(UTC)
    state = OptimizationState(
        "a",
        "a",
        "",
        OptimizationType.PARAMETER_TUNING,
        OptimizationStatus.CREATED,
        OptimizationPriority.NORMAL,
        now,
        now,
    )
    assert (baseline_of(state), number(baseline_of(state))) == (None, NOTHING)
    state.metadata = {"objective": "branin"}
    assert baseline_of(new_optimization(state.to_dict())) is None
    with pytest.raises(OptimizationValidationError, match=r"metadata\.given"):
        validate_new(new_optimization({"metadata": {"objective": "branin", "given": ["seed"]}}))


def test_an_improvement_on_0_is_no_share() -> None:
    state = new_optimization(BRANIN | {"baseline_performance": 0})
    state.optimized_parameters, state.current_performance, state.performance_improvement = {"x": 1}, 0.65, 0.65
    assert (number(baseline_of(state)), gain_text(state)) == (number(0.0), "+0.6500")


def test_baseline_returns_are_scored_as_the_value_was() -> None:
    generator = np.random.default_rng(3)
    own, market = (generator.normal(0.001, 0.01, 500).tolist() for _ in range(2))
    for score in (sharpe, sortino, calmar):
        assert baseline_value(score(own, 252), own, market, 252) == pytest.approx(score(market, 252))
        assert baseline_value(-score(own, 252), own, market, 252) == pytest.approx(-score(market, 252))
    over_n = float(np.mean(own) / np.std(own) * 252**0.5)
    assert baseline_value(over_n, own, market, 252) == pytest.approx(float(np.mean(market) / np.std(market) * 252**0.5))
    assert baseline_value(sharpe(own, 252) + 0.01, own, market, 252) is None
    assert baseline_value(1.0, [0.1], [0.1], 252) is None

"""The demonstration: states that can be submitted as they are, and a table that says what the figures say."""

from __future__ import annotations

from datetime import UTC, datetime

from o9.demo.catalogue import BUILTIN
from o9.demo.demonstration import demo_optimizations
from o9.demo.market.judge import baseline_figures
from o9.demo.market.prices import sp500
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus, OptimizationType
from o9.model.trial import Evaluation
from o9.strategies.registry import resolve_objective


def test_four_optimizations_that_can_be_submitted() -> None:
    moment = datetime(2026, 11, 24, 15, 3, tzinfo=UTC)
    states = demo_optimizations(7, now=moment)
    assert {state.optimization_type for state in states} == {
        OptimizationType.PARAMETER_TUNING,
        OptimizationType.STRATEGY_OPTIMIZATION,
        OptimizationType.PORTFOLIO_OPTIMIZATION,
        OptimizationType.RISK_OPTIMIZATION,
    }
    equal_weight = baseline_figures(sp500())["equal_weight"]
    for state in states:
        assert state.optimization_id.startswith("demo-")
        assert "20261124-1503-" in state.optimization_id
        assert state.status is OptimizationStatus.CREATED
        assert BUILTIN[state.metadata["objective"]].optimization_type is state.optimization_type
        assert state.baseline_performance in (equal_weight["sharpe"], equal_weight["calmar"])
        assert state.target_performance > state.baseline_performance
        assert state.total_steps > 0
        assert state.created_at == state.updated_at == moment
        assert OptimizationState.from_dict(state.to_dict()) == state
    assert len({state.metadata["seed"] for state in states}) == len(states)


def test_ids_are_unique_across_calls_and_the_rest_follows_from_the_seed() -> None:
    one, other = demo_optimizations(7, small=True), demo_optimizations(7, small=True)
    assert len({state.optimization_id for state in (*one, *other)}) == len(one) + len(other)
    assert [state.metadata for state in one] == [state.metadata for state in other]
    full = demo_optimizations(7)
    assert all(few.total_steps < many.total_steps for few, many in zip(one, full, strict=True))


def test_what_the_search_never_saw_and_the_baseline_go_with_every_trial() -> None:
    found = resolve_objective("sp500_trend").function({"fast": 20})
    assert isinstance(found, Evaluation)
    for series in (found.returns, found.baseline_returns, found.hold_out_returns, found.baseline_hold_out_returns):
        assert series is not None
    assert len(found.returns or ()) == len(found.baseline_returns or ())
    assert len(found.hold_out_returns or ()) == len(found.baseline_hold_out_returns or ())

"""The demonstration: states that can be submitted as they are, and a table that says what the figures say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from o9.demo.catalogue import BUILTIN
from o9.demo.demonstration import demo_optimizations, demo_table
from o9.demo.market.baselines import baseline_figures
from o9.demo.market.prices import sp500
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Evaluation, Trial
from o9.strategies.registry import resolve_objective


def ledger(state: OptimizationState, *points: dict[str, Any]) -> list[Trial]:
    """Real trials of an optimization's objective."""
    trials = []
    for number, point in enumerate(points):
        found = resolve_objective(state.metadata["objective"]).function(point)
        assert isinstance(found, Evaluation)
        assert found.returns is not None
        trials.append(
            Trial(
                number=number,
                step=number,
                state=TrialState.COMPLETED,
                parameters=point,
                value=found.value,
                metrics=dict(found.metrics),
                returns=tuple(found.returns),
            )
        )
    return trials


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


def test_a_row_tells_what_the_trials_measured() -> None:
    state = next(s for s in demo_optimizations(7, small=True) if s.metadata["objective"] == "sp500_trend")
    trials = ledger(state, {"fast": 20}, {"fast": 50, "slow": 300}, {"fast": 10, "side": "both"})
    best = max(trials, key=lambda trial: trial.value or 0.0)
    (row,) = demo_table([state], {state.optimization_id: best}, {state.optimization_id: len(trials)})
    assert row.trials == 3
    assert row.strategy == state.name
    assert row.in_sample_sharpe == best.value
    assert row.held_out_sharpe == best.metrics["out_of_sample_sharpe"]
    assert row.equal_weight_sharpe == state.baseline_performance


def test_what_the_search_never_saw_and_the_baseline_go_with_every_trial() -> None:
    found = resolve_objective("sp500_trend").function({"fast": 20})
    assert isinstance(found, Evaluation)
    for series in (found.returns, found.baseline_returns, found.hold_out_returns, found.baseline_hold_out_returns):
        assert series is not None
    assert len(found.returns or ()) == len(found.baseline_returns or ())
    assert len(found.hold_out_returns or ()) == len(found.baseline_hold_out_returns or ())


def test_a_row_without_a_best_trial() -> None:
    state = demo_optimizations(7, small=True)[0]
    (row,) = demo_table([state], {}, {})
    assert (row.trials, row.in_sample_sharpe, row.held_out_sharpe) == (0, None, None)

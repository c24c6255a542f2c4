"""O9 in ten pages, part one: something to optimize.

Each test is a page. It can be read from top to bottom, and every claim on it is asserted. `new` fills in the fields
that a page does not talk about; keywords that are no fields of an optimization go into its `metadata`, where O9
looks for what to optimize and how.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from o9_testing import ended, new

from o9.store import queries
from OptimizationStateAggregator import (
    Evaluation,
    OptimizationPriority,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    OptimizationType,
    objective,
)


async def test_submit_an_optimization_and_wait_for_its_end() -> None:
    """The aggregator runs optimizations as Prefect flows. Nothing has to be set up: entering it starts all it needs."""
    async with OptimizationStateAggregator() as aggregator:
        optimization_id = await aggregator.submit_optimization(
            OptimizationState(
                optimization_id="my-first",
                name="My first optimization",
                description="It says nothing of what to optimize, so a demonstration runs, and says so.",
                optimization_type=OptimizationType.PARAMETER_TUNING,
                status=OptimizationStatus.CREATED,
                priority=OptimizationPriority.NORMAL,
                created_at=datetime.now(),
                updated_at=datetime.now(),
                total_steps=5,
            )
        )
        assert optimization_id == "my-first"

        while True:
            state = await aggregator.get_optimization_status(optimization_id)
            assert state is not None
            if state.completed_at is not None:
                break
            await asyncio.sleep(0.05)

        assert state.status is OptimizationStatus.COMPLETED
        assert state.progress == 1.0
        assert state.completed_steps == state.total_steps == 5
        # A real function was searched, the one that the warning names.
        assert "branin" in state.warnings[0]
        assert set(state.optimized_parameters) == {"x", "y"}
        assert state.results["best_value"] == state.current_performance


async def test_an_objective_of_your_own() -> None:
    """A function from parameters to a number, and the space to search. Higher is better unless you say otherwise."""

    @objective("parabola", search_space={"x": {"type": "float", "low": -10.0, "high": 10.0}}, direction="minimize")
    def parabola(parameters: dict[str, float]) -> float:
        return (parameters["x"] - 3.0) ** 2

    async with OptimizationStateAggregator() as aggregator:
        state = await ended(
            aggregator, await aggregator.submit_optimization(new(objective="parabola", total_steps=40, seed=1))
        )

    assert state.status is OptimizationStatus.COMPLETED
    assert abs(state.optimized_parameters["x"] - 3.0) < 0.5
    assert state.current_performance == (state.optimized_parameters["x"] - 3.0) ** 2
    assert not state.warnings


async def test_a_baseline_tells_how_much_was_gained() -> None:
    """`performance_improvement` is a share of the baseline, positive when better, whichever direction is better."""

    @objective("costs", direction="minimize")
    def costs(parameters: dict[str, float]) -> float:
        return 50.0 + parameters["x"]

    space = {"x": {"type": "int", "low": 0, "high": 9}}
    async with OptimizationStateAggregator() as aggregator:
        state = await ended(
            aggregator,
            await aggregator.submit_optimization(
                new(objective="costs", search_space=space, sampler="grid", baseline_performance=100.0)
            ),
        )

    assert state.completed_steps == 10, "a grid ends when it is exhausted"
    assert state.optimized_parameters == {"x": 0}
    assert state.performance_improvement == 0.5


async def test_an_evaluation_with_returns() -> None:
    """An objective may answer more than a number: the returns behind a Sharpe ratio, and other figures to keep."""

    @objective("carry", search_space={"weight": {"type": "float", "low": 0.1, "high": 1.0}})
    def carry(parameters: dict[str, float]) -> Evaluation:
        returns = [parameters["weight"] * daily for daily in (0.01, -0.005, 0.02)]
        return Evaluation(sum(returns), returns=returns, periods_per_year=252, metrics={"turnover": 3.1})

    async with OptimizationStateAggregator() as aggregator:
        optimization_id = await aggregator.submit_optimization(new(objective="carry", total_steps=2))
        await ended(aggregator, optimization_id)

        first = aggregator.store.read(queries.trial, optimization_id, 0)
        assert first is not None
        assert first.returns is not None
        assert sum(first.returns) == first.value
        assert first.periods_per_year == 252
        assert first.metrics == {"turnover": 3.1}


async def test_an_async_objective() -> None:
    """One that waits more than it computes: its trials of one step wait side by side."""
    together, most = 0, 0

    @objective("quotes", search_space={"spread": {"type": "float", "low": 0.0, "high": 1.0}})
    async def quotes(parameters: dict[str, float]) -> float:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return -parameters["spread"]

    async with OptimizationStateAggregator() as aggregator:
        state = await ended(
            aggregator,
            await aggregator.submit_optimization(new(objective="quotes", total_steps=2, trials_per_step=4)),
        )

    assert state.results["trials"] == {"completed": 8}
    assert most == 4


async def test_reading_the_trials() -> None:
    """The ledger holds every trial ever evaluated. One that fails is kept with its error, and ends nothing."""

    @objective("fragile", search_space={"x": {"type": "int", "low": 0, "high": 5}})
    def fragile(parameters: dict[str, int]) -> float:
        return 1.0 / (parameters["x"] - 2)

    async with OptimizationStateAggregator() as aggregator:
        optimization_id = await aggregator.submit_optimization(new(objective="fragile", sampler="grid"))
        state = await ended(aggregator, optimization_id)
        trials = aggregator.store.read(queries.trials, optimization_id)

    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4, 5]
    [failed] = [trial for trial in trials if trial.value is None]
    assert failed.parameters == {"x": 2}
    assert failed.error is not None
    assert "ZeroDivisionError" in failed.error
    assert state.status is OptimizationStatus.COMPLETED
    assert state.results["trials"] == {"completed": 5, "failed": 1}
    assert state.optimized_parameters == {"x": 3}

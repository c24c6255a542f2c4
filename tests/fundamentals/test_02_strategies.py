"""O9 in ten pages, part two: other ways to search than the built-in one."""

from __future__ import annotations

import asyncio
from typing import Any

from o9_testing import ended, new, reached, until

from o9.model.states import TrialState
from OptimizationStateAggregator import (
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    StepResult,
    Trial,
    register_strategy,
)


async def test_a_class_with_a_step() -> None:
    """Asked for one step at a time. What it needs for the next one it puts into the checkpoint."""

    class Halving:
        total_steps = 8

        def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
            low, high = (checkpoint or {"interval": [0.0, 2.0]})["interval"]
            middle = (low + high) / 2
            trial = Trial(step, step, TrialState.COMPLETED, {"x": middle}, value=-abs(middle * middle - 2.0))
            interval = [middle, high] if middle * middle < 2.0 else [low, middle]
            return StepResult(trials=[trial], checkpoint={"interval": interval})

    register_strategy("halving", Halving)
    async with OptimizationStateAggregator() as aggregator:
        state = await ended(aggregator, await aggregator.submit_optimization(new(strategy="halving")))

    assert state.status is OptimizationStatus.COMPLETED
    assert state.completed_steps == 8
    assert abs(state.optimized_parameters["x"] - 2**0.5) < 0.01


async def test_a_coroutine_that_changes_the_optimization() -> None:
    """As the specification shows it. What it assigns reaches the record while it runs."""
    go_on = asyncio.Event()

    async def custom_optimization_strategy(optimization: OptimizationState) -> None:
        for step in range(optimization.total_steps):
            optimization.progress = (step + 1) / optimization.total_steps
            optimization.current_performance = 0.1 * (step + 1)
            if step == 1:
                await go_on.wait()

    async with OptimizationStateAggregator(monitoring_interval=0.1) as aggregator:
        await aggregator.coordinator.register_strategy("custom", custom_optimization_strategy)
        optimization_id = await aggregator.submit_optimization(
            new(strategy="custom", total_steps=4, baseline_performance=0.2)
        )
        seen = await until(aggregator, optimization_id, lambda state: state.progress == 0.5)
        assert seen.status is OptimizationStatus.RUNNING
        assert seen.current_performance == 0.2

        go_on.set()
        state = await ended(aggregator, optimization_id)

    assert state.status is OptimizationStatus.COMPLETED
    assert state.current_performance == 0.4
    assert state.performance_improvement == 1.0


async def test_a_coroutine_that_pauses_itself_goes_on_from_what_it_left() -> None:
    """It asks for a pause by its status. A resume runs it again, on the state as it left it."""
    began_with: list[tuple[float, dict[str, Any]]] = []

    async def until_noon(optimization: OptimizationState) -> None:
        began_with.append((optimization.progress, dict(optimization.metadata.get("notes", {}))))
        first = round(optimization.progress * optimization.total_steps)
        for step in range(first, optimization.total_steps):
            await asyncio.sleep(0)
            optimization.progress = (step + 1) / optimization.total_steps
            optimization.metadata["notes"] = {"last step": step}
            if step == 2:
                optimization.status = OptimizationStatus.PAUSED
                break

    register_strategy("until-noon", until_noon)
    async with OptimizationStateAggregator() as aggregator:
        optimization_id = await aggregator.submit_optimization(new(strategy="until-noon", total_steps=5))
        state = await reached(aggregator, optimization_id, "paused")
        assert state.progress == 0.6

        await aggregator.resume_optimization(optimization_id)
        state = await ended(aggregator, optimization_id)

    assert state.status is OptimizationStatus.COMPLETED
    assert began_with == [(0.0, {}), (0.6, {"last step": 2})]
    assert state.metadata["notes"] == {"last step": 4}

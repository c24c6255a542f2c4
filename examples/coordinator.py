"""Coordination: your own strategies and policies, several optimizations at once, and callbacks."""

from __future__ import annotations

import asyncio
from typing import Any

from OptimizationStateAggregator import (
    OptimizationState,
    OptimizationStateAggregator,
    StepResult,
    Trial,
    TrialState,
    new_optimization,
)


async def descent(optimization: OptimizationState) -> None:
    """A coroutine that changes the optimization; each step that it reports is a task in Prefect."""
    x = optimization.optimized_parameters.get("x", 4.0)
    for step in range(optimization.completed_steps, optimization.total_steps):
        await asyncio.sleep(0)  # put your step here
        x -= 0.3 * (x - 1.2)
        optimization.optimized_parameters = {"x": x}
        optimization.current_performance = -((x - 1.2) ** 2)
        optimization.progress = (step + 1) / optimization.total_steps


class Halving:
    """A class with `step()`; the checkpoint has what the next step needs."""

    total_steps = 12

    def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        low, high = (checkpoint or {"interval": [0.0, 4.0]})["interval"]
        middle = (low + high) / 2
        trial = Trial(step, step, TrialState.COMPLETED, {"x": middle}, value=-abs(middle - 1.2))
        return StepResult([trial], checkpoint={"interval": [low, middle] if middle > 1.2 else [middle, high]})


async def main() -> None:
    aggregator = OptimizationStateAggregator(
        max_concurrent_optimizations=4, storage_path="examples.db", monitoring_interval=0.2
    )
    async with aggregator:
        coordinator = aggregator.coordinator
        coordinator.register_strategy("descent", descent)
        coordinator.register_strategy("halving", Halving)
        coordinator.set_optimization_policy("halving", {"max_concurrent_optimizations": 1, "timeout_seconds": 60})
        coordinator.register_callback("optimization_completed", lambda state: print(f"completed: {state.name}"))

        names = {}
        for strategy in ("descent", "halving", "halving"):
            state = new_optimization(
                {"name": strategy, "total_steps": 12, "priority": "high", "metadata": {"strategy": strategy}}
            )
            names[await coordinator.submit_optimization(state)] = strategy
        while True:
            states = [state for state in await coordinator.get_all_optimizations() if state.optimization_id in names]
            if all(state.completed_at is not None for state in states):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)  # callbacks are called within the monitoring interval
        for state in states:
            x = state.optimized_parameters["x"]
            print(f"{state.name}: {state.status.value}, {state.completed_steps} steps, x = {x:.2f}")


asyncio.run(main())

"""The life of an optimization: created, started, paused, resumed, completed; with hooks, and its history."""

from __future__ import annotations

import asyncio

from o9.lifecycle.submission import new_optimization
from OptimizationStateAggregator import OptimizationStateAggregator, OptimizationStatus, objective


@objective("carry", search_space={"weight": {"type": "float", "low": 0.0, "high": 1.0}})
async def carry(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)  # put your backtest here
    return parameters["weight"] * (1.0 - parameters["weight"])


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        manager = aggregator.lifecycle_manager
        first_try = True

        async def market_is_open(optimization_id: str) -> None:
            nonlocal first_try
            if first_try:
                first_try = False
                raise RuntimeError("the exchange is closed")  # it is paused, and says so

        manager.register_lifecycle_hook("before_running", market_is_open)
        manager.register_lifecycle_hook("on_create", lambda state: print(f"created: {state.name}"))

        async def reach(*statuses: OptimizationStatus) -> OptimizationStatus:
            while (status := await manager.get_lifecycle_state(optimization_id)) not in statuses:
                await asyncio.sleep(0.05)
            assert status is not None
            print(status.value)
            return status

        state = new_optimization({"name": "carry", "total_steps": 20, "metadata": {"objective": "carry", "seed": 7}})
        optimization_id = await manager.create_optimization(state)  # recorded, and held back
        await aggregator.start_optimization(optimization_id)
        await reach(OptimizationStatus.PAUSED)  # by the hook
        stopped = await aggregator.get_optimization_status(optimization_id)
        print(f"because: {stopped.issues[-1]}")

        await aggregator.resume_optimization(optimization_id)
        await reach(OptimizationStatus.RUNNING)
        await asyncio.sleep(0.3)
        await aggregator.pause_optimization(optimization_id)  # the step in flight is committed first
        await reach(OptimizationStatus.PAUSED)
        await aggregator.resume_optimization(optimization_id)
        await reach(OptimizationStatus.COMPLETED)

        for move in await manager.get_lifecycle_history(optimization_id):
            before = move["from_state"].value if move["from_state"] else "-"
            print(f"{before} -> {move['to_state'].value} ({move['cause']}, attempt {move['attempt']})")
        trials = aggregator.store.trials(optimization_id)
        print(f"{len(trials)} trials, each once: {[trial.number for trial in trials] == list(range(20))}")


asyncio.run(main())

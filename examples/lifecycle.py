"""The lifecycle of an optimization: created, started, paused, resumed, completed; with hooks, and its history.

Then O9 itself suspends another one for a broken risk limit, until the limit is changed.
"""

from __future__ import annotations

import asyncio

from o9.store import queries
from OptimizationStateAggregator import (
    Evaluation,
    OptimizationStateAggregator,
    OptimizationStatus,
    new_optimization,
    objective,
)


@objective("carry", search_space={"weight": {"type": "float", "low": 0.0, "high": 1.0}})
async def carry(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)  # put your backtest here
    return parameters["weight"] * (1.0 - parameters["weight"])


@objective("levered carry", search_space={"weight": {"type": "float", "low": 0.0, "high": 1.0}})
async def levered_carry(parameters: dict[str, float]) -> Evaluation:
    await asyncio.sleep(0.15)
    return Evaluation(value=parameters["weight"], metrics={"drawdown": -0.3})


async def suspended_and_resumed(aggregator: OptimizationStateAggregator) -> None:
    metadata = {"objective": "levered carry", "seed": 7, "risk_limits": {"drawdown": 0.2}}
    optimization_id = await aggregator.submit_optimization(
        new_optimization({"name": "levered carry", "total_steps": 15, "metadata": metadata})
    )
    while (
        state := await aggregator.get_optimization_status(optimization_id)
    ).status is not OptimizationStatus.SUSPENDED:
        await asyncio.sleep(0.05)
    print(state.issues[-1])
    # Over HTTP it is the same `PUT /optimizations/{id}`. Metadata are one field, so send all of them.
    changed = {"metadata": state.metadata | {"risk_limits": {"drawdown": 0.5}}}
    answer = await aggregator.handle_api_request(f"/optimizations/{optimization_id}", "PUT", changed)
    print(f"the limit is now {answer['data']['metadata']['risk_limits']['drawdown']}")
    while (state := await aggregator.get_optimization_status(optimization_id)).completed_at is None:
        await asyncio.sleep(0.05)
    print(f"it went on by itself, and has {state.status.value} with {state.completed_steps} steps")


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:
        manager = aggregator.lifecycle_manager
        first_try = True

        async def market_is_open(optimization_id: str) -> None:
            nonlocal first_try
            if first_try:
                first_try = False
                raise RuntimeError("the exchange is closed")  # it is paused, with this reason

        manager.register_lifecycle_hook("before_running", market_is_open)
        manager.register_lifecycle_hook("on_create", lambda state: print(f"created: {state.name}"))

        async def reach(*statuses: OptimizationStatus) -> OptimizationStatus:
            while (status := await manager.get_lifecycle_state(optimization_id)) not in statuses:
                await asyncio.sleep(0.05)
            assert status is not None
            print(status.value)
            return status

        state = new_optimization({"name": "carry", "total_steps": 12, "metadata": {"objective": "carry", "seed": 7}})
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
        trials = aggregator.store.read(queries.trials, optimization_id)
        print(f"{len(trials)} trials, each once: {[trial.number for trial in trials] == list(range(12))}")

        await suspended_and_resumed(aggregator)


asyncio.run(main())

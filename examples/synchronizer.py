"""Several nodes on one record: they exchange updates, and one continues the work of another."""

from __future__ import annotations

import asyncio
from typing import Any

from o9.store import queries
from OptimizationStateAggregator import OptimizationStateAggregator, OptimizationStatus, new_optimization, objective


@objective("carry", search_space={"weight": {"type": "float", "low": 0.0, "high": 1.0}})
async def carry(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.25)  # put your backtest here
    return parameters["weight"] * (1.0 - parameters["weight"])


def node() -> OptimizationStateAggregator:
    """Usually each node is a process on its own machine, and the record is in PostgreSQL."""
    return OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2, sync_interval=1.5)


async def main() -> None:
    async with node() as one:
        optimization_id = await one.submit_optimization(
            new_optimization({"name": "carry", "total_steps": 40, "metadata": {"objective": "carry", "seed": 7}})
        )
        while (await one.get_optimization_status(optimization_id)).completed_steps < 3:
            await asyncio.sleep(0.05)

        heard: list[Any] = []
        other = node()
        other.synchronizer.register_callback("synced", heard.append)
        async with other:
            nodes = await other.synchronizer.get_nodes()
            print(f"{len(nodes)} nodes on the record")
            read = await one.sync_optimization_state(optimization_id)
            print(f"every node has read the state: {read}")
            for leverage in (1.5, 1.0):
                await one.synchronizer.broadcast_optimization_update(optimization_id, {"leverage": leverage})
            while len(heard) < 3:
                await asyncio.sleep(0.05)
            print(f"the other node heard, in order: {[change['update'] for change in heard]}")
            statistics = await one.synchronizer.get_sync_statistics()
            print(f"active nodes: {statistics['active_nodes']}, changes to publish: {statistics['queue_size']}")

            state = await other.get_optimization_status(optimization_id)
            print(f"the other node sees it: {state.status.value}, {state.completed_steps} steps")

            await one.stop()  # the optimization commits its step, and waits for another node
            while (state := await other.get_optimization_status(optimization_id)).completed_at is None:
                await asyncio.sleep(0.1)
            assert state.status is OptimizationStatus.COMPLETED
            ran_on = {
                move["attempt"]: move["node"]
                for move in await other.lifecycle_manager.get_lifecycle_history(optimization_id)
                if move["to_state"] is OptimizationStatus.RUNNING
            }
            print(f"completed by attempt {max(ran_on)}, on {len(set(ran_on.values()))} nodes")
            numbers = [trial.number for trial in other.store.read(queries.trials, optimization_id)]
            print(f"{len(numbers)} trials, each once: {numbers == list(range(40))}")


asyncio.run(main())

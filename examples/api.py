"""The API: the same routes and answers as over HTTP, asked from Python."""

from __future__ import annotations

import asyncio
from typing import Any

from OptimizationStateAggregator import OptimizationStateAggregator


async def main() -> None:
    async with OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2) as aggregator:

        async def ask(method: str, endpoint: str, data: Any = None) -> Any:
            answer = await aggregator.handle_api_request(endpoint, method, data, client_id="example")
            if not answer["success"]:
                print(f"{method} {endpoint}: {answer['code']}: {answer['error']}")
                return None
            print(f"{method} {endpoint}: done, API {answer['api_version']}")
            return answer["data"]

        new = await ask(
            "POST",
            "/optimizations",
            {"name": "branin", "total_steps": 40, "metadata": {"objective": "branin", "seed": 7, "trials_per_step": 1}},
        )
        one = f"/optimizations/{new['optimization_id']}"
        await ask("POST", f"{one}/pause")
        while (state := await ask("GET", one))["status"] != "paused":
            await asyncio.sleep(0.1)
        await ask("POST", f"{one}/resume")
        while (state := await ask("GET", one))["completed_at"] is None:
            await asyncio.sleep(0.5)
        print(f"{state['status']}: {state['optimized_parameters']} gives {state['current_performance']:.3f}")

        trials = await ask("GET", f"{one}/trials", {"limit": 3})
        print(f"the first {len(trials)} trials: {[round(trial['value'], 3) for trial in trials]}")
        health = await ask("GET", f"/health/{new['optimization_id']}")
        print(f"completeness: {health['completeness_status']}")
        rankings = await ask("GET", "/statistics/rankings", {"metric_name": "current_performance", "limit": 1})
        print(f"the best of all: {rankings[0]['value']:.3f}")

        # What is wrong is an answer too, with the HTTP status.
        await ask("GET", "/optimizations/nothing")
        await ask("POST", "/optimizations", {"total_steps": -3})
        await ask("GET", "/weather")


asyncio.run(main())

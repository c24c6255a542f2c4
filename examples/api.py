"""The API: the same requests over HTTP and in process, with the same responses."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any

import httpx

from o9.api.server import HttpServer, listen, url_of
from OptimizationStateAggregator import OptimizationStateAggregator

os.environ.setdefault("O9_API_RATE_LIMIT", "1000/minute")  # the loops below send more than 100 requests a minute


class Client:
    """Sends requests over HTTP if it has an HTTP client, else in process."""

    def __init__(self, aggregator: OptimizationStateAggregator, http: httpx.AsyncClient | None = None) -> None:
        self.aggregator, self.http = aggregator, http
        self.name = "in-process" if http is None else "over-http"

    async def ask(self, method: str, endpoint: str, data: Any = None) -> Any:
        """Return the data of the response. An error is printed, and None returned."""
        if self.http is None:
            answer = await self.aggregator.handle_api_request(endpoint, method, data, client_id="example")
        elif method == "GET":
            answer = (await self.http.get(f"/api/v1{endpoint}", params=data)).json()
        else:
            answer = (await self.http.request(method, f"/api/v1{endpoint}", json=data)).json()
        if answer["success"]:
            return answer["data"]
        print(f"{method} {endpoint}: {answer['code']}: {answer['error']}")
        return None


async def life(client: Client) -> dict[str, Any]:
    """Submit, change, pause and resume an optimization, and read its results."""
    metadata = {"objective": "branin", "seed": 7, "trials_per_step": 1}
    fields = {"optimization_id": f"{client.name}-{uuid.uuid4().hex[:6]}", "total_steps": 12, "metadata": metadata}
    one = f"/optimizations/{(await client.ask('POST', '/optimizations', fields))['optimization_id']}"
    await client.ask("POST", f"{one}/pause")
    while (await client.ask("GET", one))["status"] != "paused":
        await asyncio.sleep(0.2)
    await client.ask("PUT", one, {"name": "branin once more", "priority": "high"})
    await client.ask("POST", f"{one}/resume")
    while (state := await client.ask("GET", one))["completed_at"] is None:
        await asyncio.sleep(0.5)
    print(f"{client.name}: {state['name']}: {state['status']}, the best is {state['current_performance']:.3f}")

    trials = await client.ask("GET", f"{one}/trials", {"limit": 3})
    print(f"the first {len(trials['items'])} trials: {[round(trial['value'], 3) for trial in trials['items']]}")
    health = await client.ask("GET", f"/health/{state['optimization_id']}")
    print(f"completeness: {health['completeness_status']}")
    rankings = await client.ask("GET", "/statistics/rankings", {"metric_name": "current_performance", "limit": 1})
    print(f"the best of all: {rankings['items'][0]['value']:.3f}")
    await client.ask("GET", "/optimizations/nothing")
    await client.ask("POST", "/optimizations", {"total_steps": -3})
    await client.ask("GET", "/weather")
    return {name: state[name] for name in ("current_performance", "optimized_parameters", "completed_steps")}


async def main() -> None:
    aggregator = OptimizationStateAggregator(storage_path="examples.db", monitoring_interval=0.2)
    # `o9 serve` does the same in its own process, at O9_API_HOST and O9_API_PORT; port 0 is any free port.
    listener = listen("127.0.0.1", 0)
    async with aggregator, HttpServer(aggregator.api, listener):
        async with httpx.AsyncClient(base_url=url_of(listener), timeout=60) as http:
            found = [await life(Client(aggregator, http)), await life(Client(aggregator))]
        print(f"both found the same: {found[0] == found[1]}")
        stats = aggregator.api.get_api_stats()
        print(f"answered: {stats['by_code'][200]} requests, refused: {stats['by_code'][404]} with 404")


asyncio.run(main())

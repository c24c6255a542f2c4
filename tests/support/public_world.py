"""The public surface by name, and the aggregator and HTTP server on which `test_public_surface.py` calls it."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import o9_testing
from o9_testing import LINE

from o9.store.store import Store
from OptimizationStateAggregator import (
    Evaluation,
    OptimizationStateAggregator,
    objective,
)

LIFE = "initialize start stop cleanup"
COMPONENT = f"{LIFE} register_callback"
SURFACE = {
    "OptimizationStateAggregator": f"""{LIFE} __aenter__ __aexit__ submit_optimization cancel_optimization
        pause_optimization resume_optimization get_optimization_status get_all_optimizations get_optimization_metrics
        get_optimization_health get_global_statistics get_performance_trends get_optimization_rankings send_alert
        get_alerts handle_api_request register_node sync_optimization_state""",
    "OptimizationMonitor": f"""{COMPONENT} start_monitoring stop_monitoring get_optimization_status get_monitoring_data
        get_alerts""",
    "OptimizationCoordinator": f"""{COMPONENT} submit_optimization cancel_optimization pause_optimization
        resume_optimization get_optimization_status get_all_optimizations register_strategy set_optimization_policy""",
    "OptimizationLifecycleManager": f"""{COMPONENT} create_optimization start_optimization initialize_optimization
        pause_optimization resume_optimization complete_optimization fail_optimization cancel_optimization
        timeout_optimization get_lifecycle_state get_lifecycle_history register_lifecycle_hook""",
    "OptimizationStatistics": f"""{COMPONENT} record_optimization_metric get_optimization_statistics
        get_global_statistics get_optimization_history get_performance_trends get_optimization_rankings""",
    "OptimizationHealthChecker": f"""{COMPONENT} check_optimization_health get_health_report get_all_health_reports
        set_health_threshold register_health_rule""",
    "AsyncStateSynchronizer": f"""{COMPONENT} register_node unregister_node sync_optimization_state
        broadcast_optimization_update get_sync_statistics""",
    "AlertNotificationSystem": f"""{COMPONENT} send_alert register_notification_channel register_alert_rule
        suppress_alert get_notification_history get_alert_statistics""",
    "OptimizationAPI": f"{COMPONENT} handle_api_request register_api_handler get_api_stats",
}
NAMES = [f"{owner}.{name}" for owner, names in SURFACE.items() for name in names.split()]
IN_PROCESS, HTTP = DOORS = ("in-process", "http")


@objective("surface", search_space=LINE)
async def measured(parameters: dict[str, float]) -> Evaluation:
    await asyncio.sleep(0.01)
    return Evaluation(value=parameters["x"], metrics={"turnover": 2.0})


@objective("surface troubled", search_space=LINE)
async def troubled(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)
    raise ValueError("no prices")


@dataclasses.dataclass
class World:
    aggregator: OptimizationStateAggregator
    http: httpx.AsyncClient
    folder: Path

    @property
    def store(self) -> Store:
        return self.aggregator.store

    def new_store(self, name: str) -> str:
        path = str(self.folder / f"{name}.db")
        shutil.copyfile(o9_testing.empty_store(), path)
        return path

    async def asked(self, door: str, method: str, path: str, data: Any = None) -> Any:
        """The whole answer to a request by one of the doors."""
        if door == IN_PROCESS:
            return await self.aggregator.handle_api_request(path, method, data, client_id="surface")
        reads = method in ("GET", "DELETE")
        answer = await self.http.request(
            method, f"/api/v1{path}", params=data if reads else None, json=None if reads else data
        )
        told = answer.json()
        assert answer.status_code == told.get("code", 200)
        return told

    async def read(self, path: str, query: Any = None) -> Any:
        """What GET answers, the same by both doors."""
        answers = [await self.asked(door, "GET", path, query) for door in DOORS]
        for answer in answers:
            assert (answer["success"], answer["api_version"], bool(answer["timestamp"])) == (True, "v1", True), answer
        assert answers[0]["data"] == answers[1]["data"]
        return answers[0]["data"]

    async def code(self, method: str, path: str, data: Any = None) -> int:
        """Why it is refused, the same by both doors."""
        answers = [await self.asked(door, method, path, data) for door in DOORS]
        assert answers[0] == answers[1]
        assert answers[0]["success"] is False
        return int(answers[0]["code"])

    async def steer(self, door: str, verb: str, name: str) -> None:
        if door == "python":
            assert await getattr(self.aggregator, f"{verb}_optimization")(name) is True
        else:
            assert (await self.asked(door, "POST", f"/optimizations/{name}/{verb}"))["success"]


async def soon(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(o9_testing.PATIENCE * seconds):
        while True:
            answer = condition()
            if await answer if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.02)

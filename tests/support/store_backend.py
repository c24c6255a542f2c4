"""A backend for the API's routes with only a store: without Prefect, and nothing runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import httpx

from o9.alerts.service.system import AlertNotificationSystem
from o9.api.api import PREFIX, OptimizationAPI
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.statistics.statistics import OptimizationStatistics
from o9.store.store import Store

T = TypeVar("T")


class StoreBackend:
    """The attributes of an aggregator that the routes need."""

    is_running = True
    prefect_url = "http://127.0.0.1:4200/api"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.alert_system = AlertNotificationSystem(store=store)
        self.prefect_answers = True
        self.lifecycle_manager = OptimizationLifecycleManager(store=store)
        self.control = self.lifecycle_manager.control
        self.statistics = OptimizationStatistics(store=store)
        self.health_checker = OptimizationHealthChecker(store=store)

    async def prefect_alive(self) -> bool:
        return self.prefect_answers


class Requests:
    """Sends requests to one application, in one event loop; a body goes as it is."""

    def __init__(self, store: Store, runner: asyncio.Runner, rate_limit: str = "1000000/second") -> None:
        self.backend = StoreBackend(store)
        self.api = OptimizationAPI(backend=self.backend, rate_limit=rate_limit)
        self._runner = runner

    def send(
        self,
        path: str,
        method: str = "GET",
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of the answer to a request below the prefix."""
        answer = self.ask(f"{PREFIX}{path}", method, params=query, content=body, headers=headers)
        return answer.status_code, answer.json()

    def ask(self, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        """The whole answer, also outside of the prefix."""
        return self._runner.run(self._ask(path, method, request))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the event loop of this application."""
        return self._runner.run(work)

    async def _ask(self, path: str, method: str, request: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.api)
        request["headers"] = {"content-type": "application/json"} | dict(request.pop("headers", None) or {})
        async with httpx.AsyncClient(transport=transport, base_url="http://o9.invalid") as client:
            return await client.request(method, path, **request)

"""One Prefect server for the whole test run, and a web server for what channels send, where a test asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import o9_testing
import pytest
from alert_servers import HookServer
from alert_worlds import MadeTime, World, open_world
from quick_alerts import QUICK


@pytest.fixture
async def open_aggregator(store_url: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """`await open_aggregator(**arguments)` gives a running one on the test's store; all are cleaned up in the end."""
    from OptimizationStateAggregator import OptimizationStateAggregator

    o9_testing.session_server()
    async with AsyncExitStack() as opened:

        async def open_one(**arguments: Any) -> OptimizationStateAggregator:
            # Nothing on a schedule, but where a test asks for it: `schedules=None` gives what there is by default.
            usual: dict[str, Any] = {"storage_path": store_url, "monitoring_interval": 0.25, "schedules": ()}
            made = OptimizationStateAggregator(**usual | arguments)
            return await opened.enter_async_context(made)

        yield open_one


@pytest.fixture
async def aggregator(open_aggregator: Callable[..., Awaitable[Any]]) -> Any:
    return await open_aggregator()


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_o9: Callable[..., None]) -> Path:
    """O9_ALERTS_FILE, with a configuration that waits for nobody; a lease of a second."""
    path = tmp_path / "alerts.yaml"
    path.write_text(QUICK, encoding="utf-8")
    set_o9(alerts_file=path, lease_seconds=1)
    monkeypatch.setattr("o9.alerts.service.delivery.FIRST_PAUSE", timedelta(milliseconds=20))
    return path


@pytest.fixture
def hooks() -> Iterator[HookServer]:
    server = HookServer()
    yield server
    server.close()


@pytest.fixture
def made_time(monkeypatch: pytest.MonkeyPatch) -> MadeTime:
    return MadeTime().patch(monkeypatch)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, made_time: MadeTime) -> Iterator[World]:
    """By the CONFIGURATION of the test's module."""
    made = open_world(tmp_path, made_time, request.module.CONFIGURATION)
    yield made
    made.store.close()

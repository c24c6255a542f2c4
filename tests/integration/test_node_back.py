"""A node that was killed and is started again under its name: it is back, and only what it ran is told of."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import psutil
import pytest

from o9.model.settings import settings
from o9.store.contract_steps import at_work
from o9.store.leases import Heartbeat
from o9.store.store import Store


async def test_a_node_that_is_back_under_its_name_is_not_lost(
    open_aggregator: Callable[..., Awaitable[Any]],
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    with Store(store_url) as store:
        process = psutil.Popen(["sleep", "600"])
        store.write(Heartbeat("node-1", socket.gethostname(), process.pid, process.create_time(), 600.0))
        at_work(store, "a")
        process.kill()
        process.wait()
        monkeypatch.setenv("O9_NODE_ID", "node-1")
        monkeypatch.setattr("o9.aggregator.node._names", count(1))  # as in a process of its own
        settings.cache_clear()
        aggregator = await open_aggregator()

        async def told() -> list[tuple[str, str]]:
            return [(each.title, each.optimization_id) for each in await aggregator.get_alerts()]

        await async_wait_until(told)
        passes = aggregator._rules._judge._last_pass
        await async_wait_until(lambda: aggregator._rules._judge._last_pass > passes)
        assert ("Attempt crashed", "a") in await told()
        assert "Node lost" not in {title for title, _ in await told()}
    settings.cache_clear()

"""A node that was killed and is started again under its name: it is back, and only what it ran is told of."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import psutil
import pytest
from contract_steps import at_work

from o9.alerts.config.rules import BUILT_IN
from o9.alerts.rules.rules import SubjectFacts, alert_of
from o9.alerts.service.system import AlertNotificationSystem
from o9.lifecycle.processes import PROCESS, identity
from o9.model.optimization import utc_now
from o9.store.queue.claims import Heartbeat, Leave
from o9.store.store import Store


async def test_a_node_that_is_back_under_its_name_is_not_lost(
    open_aggregator: Callable[..., Awaitable[Any]],
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    with Store(store_url) as store:
        process = announced(store)
        at_work(store, "a")
        kill(process)
        set_o9(node_id="node-1")
        monkeypatch.setattr("o9.aggregator.node._names", count(1))  # as in a process of its own
        aggregator = await open_aggregator()

        async def told() -> list[tuple[str, str]]:
            return [(each.title, each.optimization_id) for each in await aggregator.get_alerts()]

        await async_wait_until(told)
        passes = aggregator._rules._evaluator._last_pass
        await async_wait_until(lambda: aggregator._rules._evaluator._last_pass > passes)
        assert ("Attempt crashed", "a") in await told()
        assert "Node lost" not in {title for title, _ in await told()}


def announced(store: Store) -> psutil.Popen:
    """A process that has announced itself as node-1, and takes no leave."""
    process = psutil.Popen(["sleep", "600"])
    about = {PROCESS: identity(process.pid)}
    store.write(Heartbeat("node-1", socket.gethostname(), process.pid, process.create_time(), 600.0, about))
    return process


def kill(process: psutil.Popen) -> None:
    process.kill()
    process.wait()


async def test_a_node_that_was_found_dead_is_so_until_it_is_back(
    open_aggregator: Callable[..., Awaitable[Any]],
    store_url: str,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    aggregator = await open_aggregator()

    async def lost() -> list[bool]:
        return [each.resolved for each in await aggregator.get_alerts() if each.title == "Node lost"]

    async def is_lost() -> bool:
        return (await lost())[:1] == [False]

    async def is_back() -> bool:
        return (await lost())[:1] == [True]

    with Store(store_url) as store:
        process = announced(store)
        for times in (1, 2):  # and that of the second time is told as well
            kill(process)
            await async_wait_until(is_lost)
            process = announced(store)
            await async_wait_until(is_back)
            assert len(await lost()) == times
        watch = aggregator._rules
        watch.node_died(["node-1"])  # was found dead, and is back before the watch has looked
        await async_wait_until(lambda: not watch._dead)
        assert await lost() == [True, True]
        store.write(Leave("node-1"))
        kill(process)


async def test_what_others_said_of_its_death_is_over_as_a_node_takes_its_name(
    open_aggregator: Callable[..., Awaitable[Any]],
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
) -> None:
    (rule,) = (each for each in BUILT_IN if each.name == "node_died")
    words = {"host": socket.gethostname()}
    said = [SubjectFacts(name, {"died": 1.0}, {"node": name}, details=words) for name in ("node-1", "another")]
    system = AlertNotificationSystem(storage_path=store_url)
    await system.initialize()
    for facts in said:
        await system.send_alert(alert_of(rule, facts, utc_now()))
    known: list[dict[str, bool]] = []

    async def start(self: AlertNotificationSystem) -> None:
        known.append({each.metadata["labels"]["node"]: each.resolved for each in await system.get_alerts()})
        await begin(self)

    begin = AlertNotificationSystem.start
    monkeypatch.setattr(AlertNotificationSystem, "start", start)
    set_o9(node_id="node-1")
    monkeypatch.setattr("o9.aggregator.node._names", count(1))
    await open_aggregator()
    assert known == [{"node-1": True, "another": False}], "before it tells anybody anything"
    await system.cleanup()

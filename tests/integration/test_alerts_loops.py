"""Alerts from several threads and event loops, also from some that end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import OptimizationStoreError
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store.store import Store

SENDERS = 6
QUICK = "route: {receiver: all, group_by: ['...'], group_wait: 0s}\nreceivers: [{name: all, channels: [told]}]\n"


@pytest.fixture
def system(store_url: str, tmp_path: Any, set_o9: Callable[..., None]) -> AlertNotificationSystem:
    (tmp_path / "alerts.yaml").write_text(QUICK, encoding="utf-8")
    set_o9(lease_seconds=1)
    return AlertNotificationSystem(storage_path=store_url, alerts_file=str(tmp_path / "alerts.yaml"))


def alert(name: str) -> OptimizationAlert:
    return OptimizationAlert(name, "", AlertLevel.ERROR, f"Title {name}", "words")


def each_in_a_loop_of_its_own(makes: list[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
    """All at once, each in a thread of its own."""
    together = threading.Barrier(len(makes))

    def run(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def begun() -> Any:
            await asyncio.to_thread(together.wait)
            return await make()

        return asyncio.run(asyncio.wait_for(begun(), 30))

    with ThreadPoolExecutor(len(makes)) as threads:
        return [each.result() for each in [threads.submit(run, make) for make in makes]]


def sends(system: AlertNotificationSystem) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    return [lambda name=f"a{n}": system.send_alert(alert(name)) for n in range(SENDERS)]  # type: ignore[misc]


async def test_who_sends_in_another_event_loop_gets_his_answer(
    system: AlertNotificationSystem, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    told, where, over = set(), set(), set()

    async def tell(alert: OptimizationAlert) -> None:
        told.add(alert.alert_id)
        where.add(asyncio.get_running_loop())

    async def began(_: OptimizationAlert) -> None:
        where.add(asyncio.get_running_loop())

    async def rule(alert: OptimizationAlert) -> bool:
        await asyncio.sleep(0.05)
        return alert.alert_id != "a0"

    system.register_notification_channel("told", tell)
    system.register_callback("alert", began)
    system.register_callback("resolved", lambda alert: over.add((alert.alert_id, threading.get_ident())))
    system.register_alert_rule(rule)
    await system.start()
    names = {f"a{n}" for n in range(1, SENDERS)}
    assert await asyncio.to_thread(each_in_a_loop_of_its_own, sends(system)) == [None, *sorted(names)]
    await async_wait_until(lambda: told == names)
    assert where == {asyncio.get_running_loop()}

    asked: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: system.resolve_alert("a1"),
        lambda: system.acknowledge_alert("a2"),
        lambda: system.suppress_alert("Title a3", timedelta(hours=1)),
        system.get_silences,
        system.get_alerts,
        system.get_alert_statistics,
        system.get_notification_history,
        lambda: system.send_alerts([alert("b0"), alert("b1")]),
        system.deliver_once,
    ]
    resolved, acknowledged, *_, many, _ = await asyncio.to_thread(each_in_a_loop_of_its_own, asked)
    assert (resolved, acknowledged, many) == (True, True, ["b0", "b1"])
    await async_wait_until(lambda: over == {("a1", threading.get_ident())})
    await system.cleanup()
    assert not {task.get_name() for task in asyncio.all_tasks()} & {"o9-alerts-decide", "o9-alerts-send"}


def test_a_loop_that_opened_it_and_ended_holds_up_nobody(system: AlertNotificationSystem) -> None:
    began: list[str] = []
    asyncio.run(system.initialize())
    system.register_callback("alert", lambda alert: began.append(alert.alert_id))
    loop = asyncio.new_event_loop()  # one that is closed amid its writing
    loop.run_until_complete(system.send_alert(alert("first")))
    sending = loop.create_task(system.send_alert(alert("second")))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert each_in_a_loop_of_its_own(sends(system)) == [f"a{n}" for n in range(SENDERS)]
    assert len(asyncio.run(system.get_alerts())) == SENDERS + 1 + 1
    assert "first" in began
    asyncio.run(system.cleanup())
    del sending


def test_a_loop_that_started_it_and_ended_holds_up_nobody(
    system: AlertNotificationSystem,
    caplog: pytest.LogCaptureFixture,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    told: list[str] = []
    system.register_notification_channel("told", lambda alert: told.append(alert.alert_id))
    asyncio.run(system.start())
    assert each_in_a_loop_of_its_own(sends(system)) == [f"a{n}" for n in range(SENDERS)]
    with caplog.at_level(logging.WARNING):
        asyncio.run(system.stop())
    assert "ended before they were stopped" in caplog.text

    async def again() -> None:
        await system.start()
        await async_wait_until(lambda: len(told) == SENDERS)
        await system.cleanup()

    asyncio.run(again())
    assert sorted(told) == [f"a{n}" for n in range(SENDERS)]


async def test_who_sent_while_it_was_closed_holds_up_nobody_after_it(
    system: AlertNotificationSystem, store_url: str
) -> None:
    with Store(store_url) as before:
        system.use(before)
        await system.initialize()
        await system.cleanup()
    with pytest.raises(OptimizationStoreError):
        await system.send_alert(alert("between"))
    with Store(store_url) as after:
        system.use(after)
        await system.initialize()
        assert await system.send_alert(alert("after")) == "after"
        await system.cleanup()

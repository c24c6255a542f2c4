"""An alert system belongs to the event loop that opened or started it; one that has ended holds up nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import OptimizationError, OptimizationStoreError
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store.store import Store

QUICK = "route: {receiver: all, group_by: ['...'], group_wait: 0s}\nreceivers: [{name: all, channels: [told]}]\n"


@pytest.fixture
def system(store_url: str, tmp_path: Any, set_o9: Callable[..., None]) -> AlertNotificationSystem:
    (tmp_path / "alerts.yaml").write_text(QUICK, encoding="utf-8")
    set_o9(lease_seconds=1)
    return AlertNotificationSystem(storage_path=store_url, alerts_file=str(tmp_path / "alerts.yaml"))


def alert(name: str) -> OptimizationAlert:
    return OptimizationAlert(name, "", AlertLevel.ERROR, f"Title {name}", "words")


async def test_another_event_loop_is_refused_while_the_owner_lives(system: AlertNotificationSystem) -> None:
    await system.start()
    await system.send_alert(alert("a"))
    changes: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: system.send_alert(alert("b")),
        lambda: system.send_alerts([alert("b")]),
        lambda: system.resolve_alert("a"),
        lambda: system.acknowledge_alert("a"),
        lambda: system.suppress_alert("Title a", timedelta(hours=1)),
    ]
    for change in changes:
        with pytest.raises(OptimizationError, match=r"asyncio\.run_coroutine_threadsafe"):
            await asyncio.to_thread(lambda change=change: asyncio.run(change()))  # type: ignore[misc]
    assert [each.alert_id for each in await asyncio.to_thread(lambda: asyncio.run(system.get_alerts()))] == ["a"]
    assert await system.resolve_alert("a")
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
    assert asyncio.run(system.send_alert(alert("third"))) == "third"
    assert len(asyncio.run(system.get_alerts())) == 3
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
    asyncio.run(system.send_alert(alert("a")))
    with caplog.at_level(logging.WARNING):
        asyncio.run(system.stop())
    assert "ended before they were stopped" in caplog.text

    async def again() -> None:
        await system.start()
        await async_wait_until(lambda: told == ["a"])
        await system.cleanup()

    asyncio.run(again())


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

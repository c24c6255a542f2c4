"""Alerts on PostgreSQL, those that a flow delivers, and those of an aggregator's own monitor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import o9_testing
import pytest
from contract_steps import at_work
from quick_alerts import alert, leader

from o9.aggregator.prefect_server import prefect_client_settings
from o9.alerts.rules.evaluator import RULES, RuleEvaluator
from o9.alerts.service.system import AlertNotificationSystem
from o9.flows.deliver_alerts import deliver_alerts
from o9.model.states import AlertLevel
from o9.model.states import OptimizationStatus as S
from o9.monitor.findings import Finding
from o9.monitor.monitor import alert_of
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store

Wait = Callable[..., Awaitable[Any]]


async def test_the_same_on_postgresql(postgres_url: str, quick: Path, async_wait_until: Wait) -> None:
    told: list[tuple[str, bool]] = []
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(2):
            system = AlertNotificationSystem(
                {"mine": lambda each: told.append((each.alert_id, each.resolved))}, storage_path=postgres_url
            )
            stack.push_async_callback(system.cleanup)
            await system.start()
            nodes.append(system)
        alerts = [alert(f"a{n}", title=f"t{n % 3}", optimization_id=f"opt-{n}") for n in range(30)]
        await asyncio.gather(*(nodes[n % 2].send_alert(each) for n, each in enumerate(alerts)))
        await async_wait_until(lambda: set(told) == {(f"a{n}", False) for n in range(30)})
        await asyncio.gather(*(nodes[n % 2].resolve_alert(f"a{n}") for n in range(30)))
        await async_wait_until(lambda: {name for name, over in told if over} == {f"a{n}" for n in range(30)})
        figures = await nodes[0].get_alert_statistics()
    assert (figures["received"], figures["resolved"], figures["firing"]) == ({"warning": 30}, {"warning": 30}, {})
    assert figures["possible_doubles"] == {}


async def unfit(*_: Any) -> bool:
    raise ZeroDivisionError


async def test_the_flow_delivers_where_nobody_runs(
    store_url: str,
    quick: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_o9(store_url=store_url)
    source = AlertNotificationSystem(storage_path=store_url)
    await source.initialize()
    await source.send_alert(alert("a"))
    nothing = {"judged": True, "led": True, "notices": 0, "sent": 0, "pending": 0, "failed": 0}
    one = nothing | {"notices": 1, "sent": 3}  # to the log, the console and the file
    with prefect_client_settings(o9_testing.session_server()), caplog.at_level(logging.INFO):
        assert await deliver_alerts() == one
        assert await deliver_alerts() == nothing
        assert "[WARNING] Drawdown: opt-1" in caplog.text
        claimed = at_work(source.store, "opt-2")
        source.store.write(Transition("opt-2", S.FAILED, Cause.HOOK, fence=claimed.fence, issue="OSError: no prices"))
        assert await deliver_alerts() == one
        assert "OSError: no prices" in caplog.text
        assert await deliver_alerts() == nothing
        source.store.write(AcquireLeadership(RULES, "an aggregator", 60.0))
        assert await deliver_alerts() == nothing | {"judged": False}
        await source.send_alert(alert("b", title="Stalled"))
        monkeypatch.setattr(RuleEvaluator, "evaluate", unfit)
        with pytest.raises(ZeroDivisionError):
            await deliver_alerts()
        assert "[WARNING] Stalled: opt-1" in caplog.text
    assert await leader(source) is None
    await source.cleanup()


async def test_an_aggregator_tells_what_its_monitor_finds(
    open_aggregator: Callable[..., Awaitable[Any]], quick: Path, async_wait_until: Wait
) -> None:
    aggregator = await open_aggregator()
    told: list[tuple[str, bool]] = []
    aggregator.alert_system.register_notification_channel("mine", lambda each: told.append((each.title, each.resolved)))
    await aggregator.send_alert(alert("by hand", title="by hand"))
    await async_wait_until(lambda: told == [("by hand", False)])
    assert [each.alert_id for each in await aggregator.get_alerts()] == ["by hand"]

    finding = Finding("stalled", AlertLevel.ERROR, "no step for 9 s", "look at its log", {"quiet_seconds": 9.0})
    found = alert_of(o9_testing.new("opt-9"), finding)
    await aggregator.monitor.emit("alert", found)
    await async_wait_until(lambda: ("stalled", False) in told)
    (kept,) = await aggregator.get_alerts("opt-9")
    assert (kept.alert_id, kept.metadata) == (found.alert_id, found.metadata | {"rule": "stalled"})
    await aggregator.monitor.emit("resolved", found)
    await async_wait_until(lambda: ("stalled", True) in told)
    await aggregator.cleanup()


async def test_the_monitor_says_when_a_finding_is_gone(store_url: str) -> None:
    from o9.monitor.monitor import OptimizationMonitor

    with Store(store_url) as store:
        at_work(store, "a")
        monitor = OptimizationMonitor(store=store)
        heard: list[tuple[str, bool]] = []
        for event in monitor.events:
            monitor.register_callback(event, lambda about, event=event: heard.append((event, about.resolved)))
        await monitor.start_monitoring("a")
        watch = monitor._watches["a"]
        watch.firing["stalled"] = alert_of(o9_testing.new("a"), Finding("stalled", AlertLevel.ERROR, "", ""))
        await monitor.stop_monitoring("a")
        assert heard == [("resolved", True)]

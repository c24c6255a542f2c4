"""The monitor over a real store: steps committed by an attempt, or by a real aggregator's flows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from child_objectives import use_a_core
from contract_steps import at_work, put, trial
from o9_testing import LINE, ended, new
from sqlalchemy import event

from o9.model.states import TrialState
from o9.monitor import findings
from o9.monitor.window import WINDOW_STEPS, WINDOW_TRIALS
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store
from OptimizationStateAggregator import (
    AlertLevel,
    OptimizationAlert,
    OptimizationError,
    OptimizationMonitor,
    OptimizationStateAggregator,
    OptimizationStatus,
    OptimizationValidationError,
    objective,
)

Waiting = Callable[..., Awaitable[Any]]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


@pytest.fixture
async def monitor(store: Store) -> Any:
    monitor = OptimizationMonitor(0.05, store=store)
    await monitor.initialize()
    yield monitor
    await monitor.cleanup()


def commit(store: Store, name: str, fence: int, step: int, *, failed: bool = False, **figures: float) -> None:
    outcome: dict[str, Any] = {"state": TrialState.FAILED, "value": None, "error": "E: x"} if failed else {}
    known = {"step_seconds": 0.5, "trials": 1.0, "best_value": float(step)} | figures
    effect: dict[str, Any] = {"performance": float(step), "optimized_parameters": {"x": 1}}
    store.write(CommitStep(name, fence, step, [trial(step, step=step, **outcome)], {}, known, **effect))


# Questions


async def test_an_optimization_without_steps_has_one_snapshot_and_no_metrics(
    monitor: OptimizationMonitor, store: Store
) -> None:
    put(store, "a", total_steps=4)
    (told,) = await monitor.get_monitoring_data("a")
    assert (told["status"], told["step"], told["progress"]["share"]) == ("created", None, 0.0)
    assert told["progress"]["reason"] == "it is not running: created"
    assert told["effect"]["reasons"]["current"] == "no trial has succeeded yet"
    assert await monitor.get_optimization_metrics("a") == []
    assert await monitor.get_alerts("a") == []
    state = await monitor.get_optimization_status("a")
    assert state is not None
    assert state.optimization_id == "a"


async def test_snapshots_and_metrics_of_steps(monitor: OptimizationMonitor, store: Store) -> None:
    fence = at_work(store, "a", total_steps=20, target_performance=10.0).fence
    for step in range(8):
        commit(store, "a", fence, step, cpu_percent=50.0 + step, memory_mib=100.0)
    told = await monitor.get_monitoring_data("a", limit=3)
    assert [one["step"] for one in told] == [5, 6, 7]
    assert [one["progress"]["share"] for one in told] == [0.3, 0.35, 0.4]
    assert [one["effect"]["target_share"] for one in told] == [0.5, 0.6, 0.7]
    assert [one["resources"]["cpu_percent"] for one in told] == [55.0, 56.0, 57.0]
    assert told[-1]["progress"]["remaining_seconds"] is not None
    metrics = await monitor.get_optimization_metrics("a")
    assert [(one.execution_time, one.throughput, one.memory_usage) for one in metrics] == [(0.5, 2.0, 100.0)] * 8
    assert [one.improvement_rate for one in metrics] == [None] * 4 + [1.0] * 4
    assert (metrics[-1].accuracy, metrics[-1].f1_score) == (None, None)
    assert len(await monitor.get_optimization_metrics("a", limit=2)) == 2
    assert len(await monitor.get_monitoring_data("a", limit=1)) == 1


async def test_bad_questions_are_named(monitor: OptimizationMonitor, store: Store) -> None:
    put(store, "a")
    for ask in (
        monitor.start_monitoring, monitor.get_monitoring_data, monitor.get_optimization_metrics, monitor.get_alerts,
    ):  # fmt: skip
        with pytest.raises(OptimizationError, match="no optimization 'ghost'"):
            await ask("ghost")
    assert await monitor.get_optimization_status("ghost") is None
    assert await monitor.stop_monitoring("ghost") is False
    for limit in (0, -1, 1_000_000, True, 2.5, "3"):
        for ask_for in (monitor.get_monitoring_data, monitor.get_optimization_metrics):
            with pytest.raises(OptimizationValidationError, match="limit"):
                await ask_for("a", limit)  # type: ignore[arg-type]
    with pytest.raises(OptimizationValidationError, match="level: 'loud' is not one of info"):
        await monitor.get_alerts(level="loud")
    for interval in (0, -1.0, float("inf"), float("nan"), True, "1"):
        with pytest.raises(OptimizationValidationError, match="check_interval"):
            OptimizationMonitor(interval)  # type: ignore[arg-type]
    with pytest.raises(OptimizationError, match=r"call initialize\(\) first"):
        await OptimizationMonitor().get_monitoring_data("a")


# Watching


async def test_what_runs_is_watched_by_itself_and_alerts_are_told_once(
    monitor: OptimizationMonitor, store: Store, async_wait_until: Waiting
) -> None:
    told: list[OptimizationAlert] = []
    monitor.register_callback("alert", lambda alert: told.append(alert) if alert.title == "failing trials" else None)
    fence = at_work(store, "a", total_steps=100).fence
    for step in range(4):
        commit(store, "a", fence, step, failed=True)
    await monitor.start()
    await async_wait_until(lambda: "a" in monitor._watches)
    assert told == []
    commit(store, "a", fence, 4, failed=True)
    await async_wait_until(lambda: told)
    (alert,) = [one for one in await monitor.get_alerts("a", "error") if one.title == "failing trials"]
    assert (alert.level, alert.resolved) == (AlertLevel.ERROR, False)
    assert alert.metadata["evidence"]["failed"] == 5
    for step in range(5, 16):
        commit(store, "a", fence, step)
    await async_wait_until(lambda: len(told) == 2)
    newest, oldest = [one for one in await monitor.get_alerts() if one.title == "failing trials"]
    assert (newest.level, newest.resolved, oldest.resolved) == (AlertLevel.WARNING, False, True)
    assert newest.alert_id == told[1].alert_id
    assert await monitor.get_alerts(level=AlertLevel.CRITICAL) == []
    for step in range(16, 40):
        commit(store, "a", fence, step)
    await async_wait_until(lambda: all(one.resolved for one in monitor._alerts if one.title == "failing trials"))
    assert len(told) == 2


async def test_a_stall_is_found_while_nothing_happens_and_ends_with_the_run(
    monitor: OptimizationMonitor, store: Store, async_wait_until: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "STALL_SECONDS", 0.1)
    fence = at_work(store, "a", total_steps=100).fence
    for step in range(10):
        commit(store, "a", fence, step)
        await asyncio.sleep(0.02)
    await monitor.start()
    await async_wait_until(lambda: [alert.title for alert in monitor._alerts] == ["stalled"])
    assert not monitor._alerts[0].resolved
    told = await monitor.get_monitoring_data("a", limit=2)
    assert [[found["name"] for found in one["findings"]] for one in told] == [[], ["stalled"]]
    store.write(Transition("a", OptimizationStatus.COMPLETED, Cause.HOOK, fence=fence))
    await async_wait_until(lambda: monitor._alerts[0].resolved)
    assert monitor._watches == {}


async def test_one_alert_for_one_finding_and_the_end_resolves_it(monitor: OptimizationMonitor, store: Store) -> None:
    fence = at_work(store, "a", total_steps=100).fence
    for step in range(5):
        commit(store, "a", fence, step, failed=True)
    for step in range(5, 8):
        await monitor.check()
        commit(store, "a", fence, step, failed=True)
    assert [(alert.title, alert.resolved) for alert in await monitor.get_alerts()] == [("failing trials", False)]
    store.write(Transition("a", OptimizationStatus.PAUSED, Cause.PERSON, fence=fence))
    await monitor.check()
    assert [alert.resolved for alert in await monitor.get_alerts()] == [True]
    assert monitor._watches == {}


async def test_a_stall_is_told_when_it_is_seen_again(
    monitor: OptimizationMonitor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "STALL_SECONDS", 0.1)
    fence = at_work(store, "a", total_steps=100).fence
    for step in range(8):
        commit(store, "a", fence, step)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    await monitor.check()
    assert [finding.name for finding in monitor._watches["a"].findings] == ["stalled"]
    assert await monitor.get_alerts() == []
    await monitor.check()
    assert [alert.title for alert in await monitor.get_alerts()] == ["stalled"]
    commit(store, "a", fence, 8)
    await monitor.check()
    assert [alert.resolved for alert in await monitor.get_alerts()] == [True]


async def test_stopping_and_starting_to_monitor_one(
    monitor: OptimizationMonitor, store: Store, async_wait_until: Waiting
) -> None:
    fence = at_work(store, "a", total_steps=100).fence
    for step in range(5):
        commit(store, "a", fence, step, failed=True)
    assert await monitor.start_monitoring("a"), "looked at at once, without start()"
    assert [alert.title for alert in await monitor.get_alerts("a")] == ["failing trials"]
    assert await monitor.stop_monitoring("a")
    assert not await monitor.stop_monitoring("a")
    assert (await monitor.get_alerts("a"))[0].resolved
    await monitor.check()
    assert monitor._watches == {}
    await monitor.start_monitoring("a")
    assert [alert.resolved for alert in await monitor.get_alerts("a")] == [False, True]
    await monitor.start()
    await monitor.start()
    await monitor.stop()
    assert await monitor.get_monitoring_data("a")


async def test_a_callback_that_raises_stops_nothing(monitor: OptimizationMonitor, store: Store) -> None:
    def breaks(alert: OptimizationAlert) -> None:
        raise RuntimeError(alert.title)

    monitor.register_callback("alert", breaks)
    for name in ("a", "b"):
        fence = at_work(store, name, total_steps=100).fence
        for step in range(5):
            commit(store, name, fence, step, failed=True)
    await monitor.check()
    assert len(await monitor.get_alerts()) == 2


async def test_a_look_reads_only_what_is_new(monitor: OptimizationMonitor, store: Store) -> None:
    """However long the history: rows are counted, not seconds."""
    fence = at_work(store, "a", total_steps=10_000).fence
    for step in range(WINDOW_STEPS + 300):
        commit(store, "a", fence, step)
    fetched = [0]

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        rows = connection.connection.driver_connection.execute(*(statement, _[0])).fetchall()
        fetched[0] += len(rows) if "trial" in statement or "metric" in statement else 0

    event.listen(store._engine, "after_cursor_execute", count)
    await monitor.check()
    first, fetched[0] = fetched[0], 0
    assert 3 * WINDOW_STEPS < first <= 3 * WINDOW_STEPS + 2 * WINDOW_TRIALS
    await monitor.check()
    assert fetched[0] <= 1, "nothing is new"
    fetched[0] = 0
    commit(store, "a", fence, WINDOW_STEPS + 300)
    await monitor.check()
    assert fetched[0] <= 6
    assert len(monitor._watches["a"].window.steps) == WINDOW_STEPS
    assert len(monitor._watches["a"].window.trials) <= WINDOW_TRIALS
    event.remove(store._engine, "after_cursor_execute", count)


async def test_the_same_on_postgresql(postgres_url: str) -> None:
    with Store(postgres_url) as store:
        monitor = OptimizationMonitor(store=store)
        await monitor.initialize()
        fence = at_work(store, "a", total_steps=100).fence
        for step in range(6):
            commit(store, "a", fence, step, failed=True, memory_mib=10.0)
        await monitor.check()
        commit(store, "a", fence, 6, failed=True)
        await monitor.check()
        assert [step.number for step in monitor._watches["a"].window.steps] == list(range(7))
        assert [alert.title for alert in await monitor.get_alerts("a")] == ["failing trials"]
        assert [one["step"] for one in await monitor.get_monitoring_data("a", 2)] == [5, 6]
        assert len(await monitor.get_optimization_metrics("a")) == 7
        await monitor.cleanup()


# With real flows


objective("monitored-sync", search_space=LINE)(use_a_core)


@objective("monitored-async", search_space=LINE)
async def monitored_async(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.3)
    return parameters["x"]


async def test_cpu_and_memory_of_children_are_measured_and_those_of_the_event_loop_are_not(
    aggregator: OptimizationStateAggregator,
) -> None:
    await aggregator.submit_optimization(new("sync", objective="monitored-sync", total_steps=4))
    await aggregator.submit_optimization(new("async", objective="monitored-async", total_steps=4))
    sync_state, async_state = await ended(aggregator, "sync"), await ended(aggregator, "async")
    measured = await aggregator.get_optimization_metrics("sync")
    cpu = [one.cpu_usage for one in measured if one.cpu_usage is not None]
    memory = [one.memory_usage for one in measured if one.memory_usage is not None]
    assert cpu
    assert all(0 < one < 130 for one in cpu), cpu  # how much it gets is the machine's
    assert sync_state.cpu_usage == cpu[-1]
    assert sync_state.memory_usage == memory[-1] > 10
    shared = await aggregator.get_optimization_metrics("async")
    assert [(one.cpu_usage, one.memory_usage) for one in shared] == [(None, None)] * 4
    assert (async_state.cpu_usage, async_state.memory_usage) == (0.0, 0.0)
    told = (await aggregator.monitor.get_monitoring_data("async"))[-1]
    assert told["resources"]["cpu_percent"] is None
    assert "node's" in told["resources"]["reason"]
    answer = await aggregator.handle_api_request("/optimizations/sync/metrics", "GET")
    assert answer["data"]["items"] == [one.to_dict() for one in measured]
    missing = await aggregator.handle_api_request("/optimizations/ghost/metrics", "GET")
    assert (missing["success"], missing["code"]) == (False, 404)

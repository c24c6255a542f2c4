"""Callbacks of statistics and of the health checker: they follow the record, whichever process wrote it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from contract_steps import at_work
from o9_testing import new

from o9.health.checker import OptimizationHealthChecker
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus
from o9.model.states import OptimizationStatus as S
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

Wait = Callable[..., Awaitable[Any]]
HEALTHY, UNKNOWN, WARNING, CRITICAL = (
    HealthStatus.HEALTHY, HealthStatus.UNKNOWN, HealthStatus.WARNING, HealthStatus.CRITICAL,
)  # fmt: skip


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


def end(store: Store, name: str, status: S) -> datetime:
    at_work(store, name)
    store.write(Transition(name, status, Cause.HOOK))
    completed_at = store.read(queries.get, name).completed_at
    assert completed_at is not None
    return completed_at


async def test_each_hour_is_told_once_it_is_over(store: Store, async_wait_until: Wait) -> None:
    ends = [end(store, name, status) for name, status in (("a", S.COMPLETED), ("b", S.FAILED))]
    first = ends[0].replace(minute=0, second=0, microsecond=0)
    now, looks = first, 0

    def clock() -> datetime:
        nonlocal looks
        looks += 1
        return now

    async def look_twice() -> None:
        before = looks
        await async_wait_until(lambda: looks >= before + 2)

    statistics, heard = OptimizationStatistics(store=store, clock=clock), list[dict[str, Any]]()
    statistics.register_callback("window", heard.append)
    await statistics.start()
    try:
        now = first + timedelta(hours=1, seconds=9)  # somebody may still write to it
        await look_twice()
        assert heard == []
        now = first + timedelta(hours=3, seconds=11)
        await async_wait_until(lambda: len(heard) == 3)
        assert [window["starts"] for window in heard] == [
            (first + timedelta(hours=n)).strftime("%Y-%m-%dT%H") for n in range(3)
        ]
        trends = await statistics.get_performance_trends(timedelta(hours=2))
        shown = {window["starts"]: window for window in trends["windows"]}[heard[0]["starts"]]
        assert heard[0] == {"window": "hour", **{name: shown[name] for name in shown.keys() - {"is_over"}}}
        assert (sum(window["count"] for window in heard), heard[2]["count"]) == (2, 0)
        now -= timedelta(hours=1)  # a clock that is set back repeats nothing
        await look_twice()
        assert len(heard) == 3
    finally:
        await statistics.cleanup()


async def test_reports_and_what_got_worse_are_told_of_whoever_checked(store: Store, async_wait_until: Wait) -> None:
    end(store, "a", S.COMPLETED)
    verdict = [HEALTHY]

    def rule(optimization_id: str, report: OptimizationHealthReport) -> None:
        report.overall_status = verdict[0]

    judge, listener = (OptimizationHealthChecker(0.05, store=store) for _ in range(2))
    await judge.register_health_rule(rule)
    await judge.initialize()
    await judge.check_optimization_health("a")  # before anybody listens
    reports, worse = list[HealthStatus](), list[tuple[HealthStatus, HealthStatus | None]]()
    listener.register_callback("report", lambda report: reports.append(report.overall_status))
    listener.register_callback(
        "degraded",
        lambda report, before: worse.append((report.overall_status, before and before.overall_status)),
    )
    await listener.start()
    try:
        told = [WARNING, WARNING, CRITICAL, WARNING, HEALTHY, UNKNOWN, CRITICAL]
        for status in told:
            verdict[0] = status
            await judge.check_optimization_health("a")
        end(store, "b", S.FAILED)
        await judge.check_optimization_health("b")
        new = [WARNING, CRITICAL, WARNING, HEALTHY, UNKNOWN, CRITICAL, CRITICAL]  # one said the same again
        await async_wait_until(lambda: len(reports) == len(new))
        assert reports == new
        assert worse == [(WARNING, HEALTHY), (CRITICAL, WARNING), (CRITICAL, UNKNOWN), (CRITICAL, None)]
    finally:
        await listener.cleanup()
        await judge.cleanup()


async def test_an_aggregator_starts_what_tells(aggregator: Any, async_wait_until: Wait) -> None:
    heard: list[str] = []
    aggregator.health_checker.register_callback("report", lambda report: heard.append(report.optimization_id))
    await aggregator.lifecycle_manager.create_optimization(new("a", objective="branin"))
    await aggregator.get_optimization_health("a")
    await async_wait_until(lambda: "a" in heard)
    parts = (
        aggregator.statistics, aggregator.health_checker, aggregator.synchronizer, aggregator.coordinator,
        aggregator.monitor, aggregator.api,
    )  # fmt: skip
    assert all(part.is_running for part in parts)
    stopped = list[str]()

    async def stop(row: Any) -> None:
        await aggregator.stop()
        stopped.append(row["to_status"])

    aggregator.coordinator.register_callback("transition", stop)
    await aggregator.cancel_optimization("a")
    await async_wait_until(lambda: stopped)
    assert not any(part.is_running for part in parts)

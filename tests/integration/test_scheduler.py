"""Schedules that nodes keep, on a real Prefect server: at their intervals, one at a time, by one node, seen there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import o9_testing
import pytest
import scheduled_flows
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from scheduled_flows import AT_ONCE, RAN

from o9.aggregator import scheduler
from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.scheduler import store_tag
from o9.aggregator.schedules import Schedule

OFTEN, SELDOM = timedelta(milliseconds=50), timedelta(days=1)


def schedule(name: str, every: timedelta = OFTEN, **parameters: Any) -> Schedule:
    return Schedule(f"scheduled_flows.{name}", every, parameters)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    AT_ONCE[:] = [0, 0]
    monkeypatch.setattr(scheduled_flows, "GATE", asyncio.Event())
    monkeypatch.setattr(scheduler, "LOOK", timedelta(milliseconds=200))


async def runs(store: Any) -> list[FlowRun]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            mine = FlowRunFilter(tags=FlowRunFilterTags(all_=["o9", store_tag(store)]))
            return await client.read_flow_runs(flow_run_filter=mine)


async def test_each_runs_at_its_interval_and_a_failure_stops_no_other(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "o9.aggregator.scheduler")
    kept = [schedule("tick", word="tock"), schedule("broken"), schedule("unhurried")]
    aggregator = await open_aggregator(schedules=kept)
    await async_wait_until(lambda: RAN.count("tock") >= 3 and RAN.count("broken") >= 3, 30)
    assert RAN.count("unhurried") == 1
    scheduled_flows.GATE.set()
    await async_wait_until(lambda: RAN.count("unhurried: done") >= 3, 30)
    assert AT_ONCE[1] == 1
    states = {(run.flow_id, run.state_name) for run in await runs(aggregator.store)}
    assert len({flow_id for flow_id, _ in states}) == 3
    assert {name for _, name in states} >= {"Completed", "Failed"}
    assert "broken: failed after 0." in caplog.text
    assert "ValueError: no data today; next at" in caplog.text
    assert "tick: completed after 0." in caplog.text


async def test_one_node_runs_it_and_the_next_follows_when_it_leaves_without_running_early(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "o9.aggregator.scheduler")
    kept = [schedule("tick"), schedule("unhurried", SELDOM)]
    scheduled_flows.GATE.set()
    nodes = [await open_aggregator(schedules=kept) for _ in range(2)]
    first, second = sorted(nodes, key=lambda node: node._node.name)
    await async_wait_until(lambda: f"tick: node {first._node.name} runs it" in caplog.text, 30)
    await async_wait_until(lambda: RAN.count("tick") >= 3, 30)
    assert f"node {second._node.name} runs it" not in caplog.text.partition(f"node {first._node.name} runs it")[2]
    await first.stop()
    before = RAN.count("tick")
    await async_wait_until(lambda: RAN.count("tick") >= before + 3, 30)
    assert RAN.count("unhurried") == 1
    await async_wait_until(lambda: "unhurried: next at" in caplog.text, 30)


async def test_another_store_on_the_same_prefect_server_has_runs_of_its_own(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], store_url: str
) -> None:
    await open_aggregator(schedules=[schedule("tick", SELDOM)])
    await async_wait_until(lambda: RAN == ["tick"], 30)
    other = await open_aggregator(schedules=[schedule("tick", SELDOM)], storage_path=f"{store_url}-other")
    await async_wait_until(lambda: RAN == ["tick", "tick"], 30)
    await async_wait_until(lambda: runs_completed(other.store), 30)


async def runs_completed(store: Any) -> bool:
    return [run.state_name for run in await runs(store)] == ["Completed"]


async def test_a_stop_lets_what_runs_end_and_cuts_off_what_takes_too_long(
    open_aggregator: Callable[..., Any],
    async_wait_until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aggregator = await open_aggregator(schedules=[schedule("unhurried", SELDOM)])
    await async_wait_until(lambda: RAN == ["unhurried"], 30)
    stopping = asyncio.create_task(aggregator.stop())
    await asyncio.sleep(0)
    scheduled_flows.GATE.set()
    await stopping
    assert RAN == ["unhurried", "unhurried: done"]
    assert await runs_completed(aggregator.store)

    monkeypatch.setattr(scheduler, "STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(scheduled_flows, "GATE", asyncio.Event())
    again = await open_aggregator(schedules=[schedule("unhurried")])
    await async_wait_until(lambda: RAN[2:] == ["unhurried"], 30)
    await again.stop()
    assert RAN[2:] == ["unhurried"]
    assert AT_ONCE[0] == 0
    assert "o9-run-unhurried is cut off" in caplog.text


async def test_what_runs_is_not_begun_twice_where_prefect_s_server_is_replaced(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any]
) -> None:
    aggregator = await open_aggregator(schedules=[schedule("tick"), schedule("unhurried")])
    await async_wait_until(lambda: "unhurried" in RAN, 30)
    with prefect_client_settings(o9_testing.session_server()):
        aggregator._node._scheduler.start()
    before = RAN.count("tick")
    await async_wait_until(lambda: RAN.count("tick") >= before + 2, 30)
    assert RAN.count("unhurried") == 1
    scheduled_flows.GATE.set()
    await async_wait_until(lambda: RAN.count("unhurried") >= 2, 30)
    assert AT_ONCE[1] == 1

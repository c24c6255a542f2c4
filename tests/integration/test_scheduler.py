"""Schedules that nodes keep, on a real Prefect server: at their intervals, one at a time, by one node, seen there."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import o9_testing
import pytest
import scheduled_flows
from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.sorting import FlowRunSort
from scheduled_flows import AT_ONCE, RAN

from o9.aggregator import scheduler
from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.schedules import Schedule
from o9.model.settings import settings

OFTEN, SELDOM = timedelta(milliseconds=50), timedelta(days=1)


def schedule(name: str, every: timedelta = OFTEN, **parameters: Any) -> Schedule:
    return Schedule(f"scheduled_flows.{name}", every, parameters)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    AT_ONCE[:] = [0, 0]
    monkeypatch.setattr(scheduled_flows, "GATE", asyncio.Event())
    monkeypatch.setattr(scheduler, "LOOK", timedelta(milliseconds=200))


async def states_of(flow_name: str) -> list[str | None]:
    """Of its runs, as Prefect has them, the newest first."""
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            found = await client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
                flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["o9"])),
                sort=FlowRunSort.START_TIME_DESC,
            )
    return [run.state_name for run in found]


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
    await aggregator.stop()
    assert set(await states_of("tick")) == set(await states_of("unhurried")) == {"Completed"}
    assert set(await states_of("broken")) == {"Failed"}
    assert re.search(r"broken: failed after \d+\.\d s: ", caplog.text)
    assert "ValueError: no data today; next at" in caplog.text
    assert re.search(r"tick: completed after \d+\.\d s; ", caplog.text)


async def test_a_run_is_claimed_by_one_node_and_neither_a_restart_nor_another_node_makes_it_early(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "o9.aggregator.scheduler")
    scheduled_flows.GATE.set()
    kept = [schedule("tick"), schedule("unhurried", SELDOM)]
    first = await open_aggregator(schedules=kept)
    await async_wait_until(lambda: "unhurried: completed" in caplog.text, 30)
    second = await open_aggregator(schedules=kept)
    await async_wait_until(lambda: f"(node {first._node.name} ran it last)" in caplog.text, 30)
    await first.stop()
    before = RAN.count("tick")
    await async_wait_until(lambda: RAN.count("tick") >= before + 3, 30)
    await second.stop()
    await first.start()
    before = RAN.count("tick")
    await async_wait_until(lambda: RAN.count("tick") >= before + 3, 30)
    assert RAN.count("unhurried") == 1


async def test_while_it_takes_longer_than_its_interval_no_other_node_begins_it(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any]
) -> None:
    short = timedelta(milliseconds=500)
    unhurried = schedule("unhurried", short)
    first = await open_aggregator(schedules=[unhurried])
    await async_wait_until(lambda: RAN == ["unhurried"], 30)
    # However short the interval: a node that has no time to renew its claim for a while still has it.
    assert first.store.alerts.leader(unhurried.lease)["expires_at"] - time.time() > settings().lease_seconds / 3
    await open_aggregator(schedules=[schedule("unhurried", short), schedule("tick", short)])
    await async_wait_until(lambda: RAN.count("tick") >= 4, 30)
    assert RAN.count("unhurried") == 1
    scheduled_flows.GATE.set()
    await async_wait_until(lambda: RAN.count("unhurried: done") >= 3, 30)
    assert AT_ONCE[1] == 1
    assert first.is_running


async def test_a_run_that_took_long_puts_the_next_one_off_no_further(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], set_o9: Callable[..., None]
) -> None:
    set_o9(lease_seconds=1)  # less than the interval
    unhurried = schedule("unhurried", timedelta(seconds=6))
    aggregator = await open_aggregator(schedules=[unhurried])

    def claimed_for() -> tuple[str, float]:
        held = aggregator.store.alerts.leader(unhurried.lease)
        if held is None:
            return "", 0.0
        return held["node"], held["expires_at"] - datetime.fromisoformat(held["node"].rpartition(" ")[2]).timestamp()

    claim, _ = await async_wait_until(lambda: claimed_for() if claimed_for()[1] > 7 else None, 30)  # kept once more
    scheduled_flows.GATE.set()
    await async_wait_until(lambda: "unhurried: done" in RAN and claimed_for()[1] < 6.5, 30)
    assert claimed_for()[0] == claim
    assert claimed_for()[1] > 5.9


async def test_what_prefect_would_not_start_is_given_back_and_tried_again(
    open_aggregator: Callable[..., Any],
    async_wait_until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = scheduler.run_flow_async, []  # type: ignore[attr-defined]

    async def away(*arguments: Any, **more: Any) -> Any:
        asked.append(more)
        if len(asked) == 1:
            raise ConnectionError("Prefect's server is away")
        return await real(*arguments, **more)

    monkeypatch.setattr(scheduler, "run_flow_async", away)
    await open_aggregator(schedules=[schedule("tick", SELDOM)])
    await async_wait_until(lambda: RAN == ["tick"], 30)
    assert "tick could not be run; trying again in 0:00:00.2" in caplog.text


async def test_a_stop_lets_what_runs_end_and_cuts_off_what_takes_too_long(
    open_aggregator: Callable[..., Any],
    async_wait_until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    store_url: str,
) -> None:
    aggregator = await open_aggregator(schedules=[schedule("unhurried", SELDOM)])
    await async_wait_until(lambda: RAN == ["unhurried"], 30)
    stopping = asyncio.create_task(aggregator.stop())
    await asyncio.sleep(0)
    scheduled_flows.GATE.set()
    await stopping
    assert RAN == ["unhurried", "unhurried: done"]
    assert (await states_of("unhurried"))[0] == "Completed"

    monkeypatch.setattr(scheduler, "STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(scheduled_flows, "GATE", asyncio.Event())
    again = await open_aggregator(schedules=[schedule("unhurried", SELDOM)], storage_path=f"{store_url}-other")
    await async_wait_until(lambda: RAN[2:] == ["unhurried"], 30)
    await again.stop()
    assert RAN[2:] == ["unhurried"]
    assert AT_ONCE[0] == 0
    assert "o9-run-unhurried is cut off" in caplog.text
    await again.start()  # it begins anew, long before the interval is over
    await async_wait_until(lambda: RAN[2:] == ["unhurried", "unhurried"], 30)


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

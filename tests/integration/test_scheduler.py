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
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Completed, Running
from scheduled_flows import AT_ONCE, RAN

from o9.aggregator import scheduler, schedules
from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.schedules import IN_NODES, Schedule
from o9.mirror.removal import SCHEDULED_KEPT, SCHEDULED_TAG, UNENDED_KEPT, remove_scheduled_runs
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.store import queries

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
    flows = ("broken", "exits", "cancelled_within", "unhurried")
    aggregator = await open_aggregator(schedules=[schedule("tick", word="tock"), *map(schedule, flows)])
    often = ("tock", "broken", "exits", "cancelled within")
    await async_wait_until(lambda: all(RAN.count(word) >= 3 for word in often), 30)
    assert RAN.count("unhurried") == 1
    scheduled_flows.GATE.set()
    await async_wait_until(lambda: RAN.count("unhurried: done") >= 3, 30)
    assert AT_ONCE[1] == 1
    await aggregator.stop()
    assert set(await states_of("tick")) == set(await states_of("unhurried")) == {"Completed"}
    assert set(await states_of("broken")) == {"Failed"}
    assert set(await states_of("exits")) == set(await states_of("cancelled-within")) == {"Crashed"}
    assert re.search(r"broken: failed after \d+\.\d s: ", caplog.text)
    assert re.search(r"exits: crashed after \d+\.\d s: SystemExit\(3\); next at", caplog.text)
    assert "ValueError: no data today; next at" in caplog.text
    assert re.search(r"tick word='tock': completed after \d+\.\d s; ", caplog.text)


async def test_two_schedules_of_one_flow_run_each_at_its_own_interval(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any]
) -> None:
    await open_aggregator(schedules=[schedule("tick", SELDOM, word="seldom"), schedule("tick", word="often")])
    await async_wait_until(lambda: RAN.count("often") >= 3 and "seldom" in RAN, 30)
    assert RAN.count("seldom") == 1


async def test_each_of_two_stores_of_one_process_is_kept_by_its_own_aggregator(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], store_url: str
) -> None:
    first = await open_aggregator(schedules=[schedule("where")])
    second = await open_aggregator(schedules=[schedule("where")], storage_path=f"{store_url}-other")
    urls = {first.store.url, second.store.url}
    RAN.clear()
    await async_wait_until(lambda: len(RAN) >= 6 and set(RAN) == urls, 30)


async def test_a_run_is_claimed_by_one_node_and_neither_a_restart_nor_another_node_makes_it_early(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "o9.aggregator.scheduler")
    scheduled_flows.GATE.set()
    kept = [schedule("tick"), schedule("unhurried", SELDOM)]
    first = await open_aggregator(schedules=kept)
    await async_wait_until(lambda: "unhurried: completed" in caplog.text, 30)
    second = await open_aggregator(schedules=kept)
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
    assert first.store.read(queries.leader, unhurried.lease)["expires_at"] - time.time() > settings().lease_seconds / 3
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
        held = aggregator.store.read(queries.leader, unhurried.lease)
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
    assert [record.args for record in caplog.records].count(("o9-run-unhurried", 0.1)) == 1
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


# What runs by default


ARTIFACTS = {"o9-health", "o9-health-summary", "o9-statistics", "o9-statistics-summary"}


async def shown_in_prefect(since: datetime) -> tuple[dict[str, set[str | None]], set[str]]:
    """Of the scheduled runs that began since then: the states by flow, and the artifacts' keys."""
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            found = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[SCHEDULED_TAG]), start_time=FlowRunFilterStartTime(after_=since)
                )
            )
            of_these = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in found]))
            artifacts = await client.read_artifacts(artifact_filter=of_these) if found else []
            names = {flow_id: (await client.read_flow(flow_id)).name for flow_id in {run.flow_id for run in found}}
    states: dict[str, set[str | None]] = {}
    for run in found:
        states.setdefault(names[run.flow_id], set()).add(run.state_name)
    return states, {artifact.key for artifact in artifacts if artifact.key}


async def test_a_started_aggregator_runs_what_keeps_the_record(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "FIRST_AFTER", timedelta(0))
    monkeypatch.setattr(schedules, "APART", timedelta(0))
    began = utc_now()
    aggregator = await open_aggregator(schedules=None)
    await aggregator.submit_optimization(o9_testing.new("a", objective="branin", seed=7, total_steps=2))
    all_completed = {each.name: {"Completed"} for each in IN_NODES}

    async def all_are_shown() -> bool:
        states, artifacts = await shown_in_prefect(began)
        return states == all_completed and artifacts >= ARTIFACTS

    await async_wait_until(all_are_shown, 60)


async def test_without_schedules_nothing_is_run(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "FIRST_AFTER", timedelta(0))
    began = utc_now()
    aggregator = await open_aggregator(schedules=())
    await aggregator.submit_optimization(o9_testing.new("a", objective="branin", seed=7, total_steps=2))
    await o9_testing.ended(aggregator, "a")
    assert await shown_in_prefect(began) == ({}, set())


@pytest.mark.long
async def test_one_that_is_left_alone_for_two_minutes(
    open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any]
) -> None:
    began = utc_now()
    await open_aggregator(schedules=None, health_check_interval=30.0)
    await asyncio.sleep(120)
    states, artifacts = await shown_in_prefect(began)
    assert states.keys() == {each.name for each in IN_NODES}
    assert all(names <= {"Completed", "Running"} for names in states.values())
    assert artifacts >= ARTIFACTS


async def test_runs_of_schedules_are_deleted_after_a_day_and_no_others() -> None:
    """By `prune_history`, with their artifacts; and after a week those whose node was killed."""
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            runs: list[tuple[list[str], State[Any]]] = [
                (["o9", SCHEDULED_TAG], Completed()),
                (["o9", SCHEDULED_TAG], Running()),
                (["o9"], Completed()),
                ([SCHEDULED_TAG], Completed()),
            ]
            made = [
                (await client.create_flow_run(scheduled_flows.tick, tags=tags, state=state)).id for tags, state in runs
            ]
            for run_id in made:
                told = ArtifactCreate(key="it-ran", type="markdown", data="# It ran", flow_run_id=run_id)
                await client.create_artifact(told)

            async def left() -> tuple[set[Any], set[Any]]:
                runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=made)))
                theirs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=made))
                artifacts = await client.read_artifacts(artifact_filter=theirs)
                return {run.id for run in runs}, {artifact.flow_run_id for artifact in artifacts}

            await remove_scheduled_runs(utc_now())
            assert await left() == (set(made), set(made))
            assert await remove_scheduled_runs(utc_now() + SCHEDULED_KEPT) >= 1
            assert await left() == (set(made[1:]), set(made[1:]))
            assert await remove_scheduled_runs(utc_now() + UNENDED_KEPT) >= 1
            assert await left() == (set(made[2:]), set(made[2:]))

"""With a deployment: a pause ends the process and Prefect shows Suspended; the same flow run comes back.

A real runner serves the flow, as a worker would; an aggregator on the same store sees to the queue.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import o9_testing
import pytest
import zygote
from o9_testing import LINE, ledger, new, path_of
from prefect import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Suspended

from o9.aggregator.prefect_server import prefect_client_settings
from o9.store import queries

pytestmark = pytest.mark.slow
DESK = """
import os, time

def slow(parameters):
    time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
    return parameters["x"]

def endless(parameters):
    time.sleep(10_000)
"""
SERVE = """
from prefect.deployments.runner import EntrypointType
from o9.flows.lifecycle import optimization_lifecycle

optimization_lifecycle.serve("desk", print_starting_message=False, entrypoint_type=EntrypointType.MODULE_PATH)
"""


@pytest.fixture
def runner(tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A process that serves the flow; gives its mark, by which the processes that it starts are found."""
    (tmp_path / "served_desk.py").write_text(DESK)
    monkeypatch.syspath_prepend(str(tmp_path))
    with o9_testing.no_process_left() as environment:
        environment |= {
            **o9_testing.prefect_environment(),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "O9_STORE_URL": store_url,
            "O9_ALLOWED_IMPORTS": "served_desk",
            "O9_LEASE_SECONDS": "6",
            "SLOW_SECONDS": "0.3",  # in the runner's processes, where there must be time to interrupt
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        with (tmp_path / "runner.log").open("w") as log:
            process = zygote.start(["-c", SERVE], env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        yield environment[zygote.MARK]
        process.terminate()
        process.wait(30)
        sys.stdout.write((tmp_path / "runner.log").read_text())


@pytest.fixture
async def prefect(runner: str) -> AsyncIterator[Any]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client


@pytest.fixture
async def start(prefect: Any, async_wait_until: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`await start(spec)` has Prefect start a run of the deployment; gives the flow run."""

    async def deployment() -> Any:
        try:
            return await prefect.read_deployment_by_name("optimization-lifecycle/desk")
        except ObjectNotFound:
            return None

    found = await async_wait_until(deployment, 60)

    async def start_one(spec: dict[str, Any]) -> Any:
        return await prefect.create_flow_run_from_deployment(found.id, parameters={"spec": spec})

    return start_one


def spec(optimization_id: str, objective: str, steps: int) -> dict[str, Any]:
    space = [{"name": name, **parameter} for name, parameter in LINE.items()]  # as the form has it
    metadata = {"objective": f"served_desk:{objective}", "search_space": space, "seed": 1}
    return {"optimization_id": optimization_id, "total_steps": steps, "metadata": metadata}


async def test_paused_is_suspended_and_the_same_run_comes_back(
    open_aggregator: Callable[..., Awaitable[Any]],
    prefect: Any,
    runner: str,
    start: Callable[..., Awaitable[Any]],
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    aggregator = await open_aggregator(monitoring_interval=0.2)
    store = aggregator.store

    def is_at(status: str, steps: int = 0) -> Callable[[], bool]:
        def look() -> bool:
            state = store.read(queries.get, "a")
            return state is not None and state.status.value == status and state.completed_steps >= steps

        return look

    async def in_prefect() -> str:
        return str((await prefect.read_flow_run(run.id)).state.name)

    async def suspended() -> bool:
        return await in_prefect() == "Suspended"

    run = await start(spec("a", "slow", 9))
    await async_wait_until(is_at("running", 2), 60)
    # Through O9.
    assert await aggregator.pause_optimization("a")
    await async_wait_until(is_at("paused"), 20)
    await async_wait_until(suspended, 20)
    assert store.read(queries.holding, "a").lease_node is None
    await async_wait_until(lambda: len(o9_testing.marked(runner)) <= 2, 20)  # the runner, and its resource tracker
    steps = store.read(queries.get, "a").completed_steps
    assert 2 <= steps < 9
    assert await aggregator.resume_optimization("a")
    await async_wait_until(is_at("running", steps + 1), 60)
    # By Prefect's own buttons.
    await prefect.set_flow_run_state(run.id, Suspended())
    await async_wait_until(is_at("paused"), 20)
    assert store.read(queries.holding, "a").intent_by == "prefect"
    await async_wait_until(suspended, 20)
    await async_wait_until(lambda: len(o9_testing.marked(runner)) <= 2, 20)
    await prefect.resume_flow_run(run.id)
    await async_wait_until(lambda: store.read(queries.get, "a").status.value != "paused", 10)
    await async_wait_until(is_at("completed"), 60)
    assert store.read(queries.get, "a").completed_steps == 9
    assert {row["prefect_run_id"] for row in store.read(queries.transitions, "a") if row["prefect_run_id"]} == {
        str(run.id)
    }
    assert path_of(store, "a").count("paused") == 2
    # As one that nobody touched.
    await aggregator.submit_optimization(new("b", total_steps=9, **spec("b", "slow", 9)["metadata"]))
    await o9_testing.ended(aggregator, "b")
    assert ledger(store, "a") == ledger(store, "b")
    ours = [row["state_id"] for row in store.read(queries.prefect_states, "a") if row["run_kind"] == "flow"]

    async def all_known() -> bool:
        theirs = [str(state.id) for state in await prefect.read_flow_run_states(run.id)]
        return {row["state_id"] for row in store.read(queries.prefect_states, "a")} >= set(theirs)

    await async_wait_until(all_known, 20)
    assert len(ours) == len(set(ours))


@pytest.mark.long
async def test_one_that_prefect_starts_waits_its_turn_without_a_process(
    open_aggregator: Callable[..., Awaitable[Any]],
    prefect: Any,
    runner: str,
    start: Callable[..., Awaitable[Any]],
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    aggregator = await open_aggregator(monitoring_interval=0.2, max_concurrent_optimizations=1)
    store = aggregator.store
    metadata = spec("first", "endless", 3)["metadata"]
    await aggregator.submit_optimization(new("first", total_steps=3, **metadata))
    await o9_testing.reached(aggregator, "first", "running")
    run = await start(spec("second", "slow", 3))

    async def suspended() -> bool:
        return bool((await prefect.read_flow_run(run.id)).state.name == "Suspended")

    await async_wait_until(suspended, 60)
    state = store.read(queries.get, "second")
    assert state is not None
    assert state.status.value == "created"
    assert store.read(queries.holding, "second").suspended_run_id == str(run.id)
    await async_wait_until(lambda: len(o9_testing.marked(runner)) <= 2, 20)
    await aggregator.cancel_optimization("first")
    await o9_testing.reached(aggregator, "second", "completed")
    assert store.read(queries.transitions, "second")[-1]["prefect_run_id"] == str(run.id)
    assert (
        await prefect.read_flow_run(UUID(store.read(queries.transitions, "second")[-1]["prefect_run_id"]))
    ).state.is_completed()


@pytest.mark.long  # `test_lifecycle_by_prefect.py` cancels in Prefect what runs in an aggregator
async def test_cancelled_in_prefect_the_work_stops(
    open_aggregator: Callable[..., Awaitable[Any]],
    prefect: Any,
    runner: str,
    start: Callable[..., Awaitable[Any]],
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    aggregator = await open_aggregator(monitoring_interval=0.2)
    store = aggregator.store
    run = await start(spec("c", "endless", 3))
    await async_wait_until(lambda: (state := store.read(queries.get, "c")) and state.status.value == "running", 60)
    await prefect.set_flow_run_state(run.id, State(type=StateType.CANCELLING))
    await async_wait_until(lambda: store.read(queries.holding, "c").intent == "cancel", 10)
    await async_wait_until(lambda: store.read(queries.get, "c").status.value == "cancelled", 20)
    await async_wait_until(lambda: len(o9_testing.marked(runner)) <= 2, 20)
    assert store.read(queries.holding, "c").lease_node is None

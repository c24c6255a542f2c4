"""Other people's flows under `mirror_states`: what O9 recorded is what Prefect's own histories say, state by state."""

from __future__ import annotations

import asyncio
import os
import subprocess
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import o9_testing
import pytest
import zygote
from o9_testing import path_of
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
from prefect.states import Cancelling

from o9.aggregator.prefect_server import prefect_client_settings
from o9.lifecycle.control import control_of
from o9.lifecycle.heartbeat import dead_on_this_host
from o9.mirror.events import EventListener
from o9.mirror.reconciler import Report, reconcile
from o9.store import queries
from o9.store.optimizations.prefect_runs import RecordLostRun
from o9.store.queue.claims import Sweep
from o9.store.store import Store

DESK = """
import asyncio, os, signal, sys, time
from prefect import flow, get_run_logger, task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner
from o9.flows.mirror import mirror_states

def say(kind):
    print(kind, FlowRunContext.get().flow_run.id, flush=True)

@task
def double(x):
    return 2 * x

@task
async def adouble(x):
    return 2 * x

@task(retries=1, retry_delay_seconds=0)
def fragile():
    from prefect.context import TaskRunContext
    if TaskRunContext.get().task_run.run_count == 1:
        raise ValueError("the first time")
    return 1

@mirror_states(optimization_type="risk_optimization", priority="high", metadata={"desk": "rates"})
@flow(retries=1, retry_delay_seconds=0, log_prints=False)
def retried(amount=3):
    if FlowRunContext.get().flow_run.run_count == 1:
        say("retried")
        raise ValueError("not yet")
    return fragile() + amount

@mirror_states
@flow(retries=1, retry_delay_seconds=0)
async def aretried():
    if FlowRunContext.get().flow_run.run_count == 1:
        say("aretried")
        raise ValueError("not yet")
    return await adouble(2)

@flow
def inner(fail):
    double(1)
    if fail:
        raise RuntimeError("the inner one")

@flow
def outer():
    say("outer")
    inner(False)
    return inner(True, return_state=True).name

@flow
async def ainner():
    raise RuntimeError("the inner one")

@mirror_states(name="with a failing subflow")
@flow
async def aouter():
    say("aouter")
    await adouble(1)
    await ainner()

@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def mapped():
    say("mapped")
    return sum(future.result() for future in double.map(list(range(12))))

@mirror_states
@flow
async def amapped():
    say("amapped")
    return sum([await adouble(x) for x in range(3)]) + sum(future.result() for future in adouble.map([1, 2, 3]))

@mirror_states
@flow
def killed():
    say("killed")
    double(1)
    os.kill(os.getpid(), signal.SIGKILL)

@mirror_states
@flow
async def asleep():
    say("asleep")
    await asyncio.sleep(600)

@mirror_states
@flow(timeout_seconds=0.5)
async def late():
    say("late")
    await asyncio.sleep(600)

@mirror_states
@flow
async def within():
    say("within")
    return await inner_mirrored()

@mirror_states
@flow
async def inner_mirrored():
    say("inner_mirrored")
    return await adouble(4)
"""


@pytest.fixture
def desk(tmp_path: Path, store_url: str) -> Iterator[Callable[..., zygote.Process]]:
    """Starts scripts that import the flows above, as their owners would."""
    (tmp_path / "desk.py").write_text(DESK)
    with o9_testing.no_process_left() as environment:
        environment |= {
            **o9_testing.prefect_environment(),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "O9_STORE_URL": store_url,
            "O9_SPOOL_FOLDER": str(tmp_path / "spool"),
            "O9_LEASE_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        started: list[zygote.Process] = []

        def start(source: str, **more: str) -> zygote.Process:
            script = "import asyncio\nfrom desk import *\n" + textwrap.dedent(source)
            started.append(
                zygote.start(
                    ["-c", script],
                    env=environment | more, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
            return started[-1]

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def run_ids(out: str) -> dict[str, str]:
    said = [line.split() for line in out.splitlines() if line.count("-") == 4]
    return {line[0]: line[1] for line in said}


@pytest.fixture
async def client() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as opened:
            yield opened


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


Histories = dict[str, list[tuple[str, str, str]]]


async def prefect_s(client: PrefectClient, run_id: str, store: Store) -> Histories:
    """Prefect's own histories of a flow run and of all that it started, unless that is an optimization of its own."""
    flow_run_id = UUID(run_id)
    found: Histories = {run_id: told(await client.read_flow_run_states(flow_run_id))}
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    for task_run in await client.read_task_runs(flow_run_filter=mine):
        found[str(task_run.id)] = told(await client.read_task_run_states(task_run.id))
    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    for subflow in await client.read_flow_runs(flow_run_filter=children):
        if store.read(queries.prefect_run, str(subflow.id)) is None:
            found |= await prefect_s(client, str(subflow.id), store)
    return found


def told(states: list[Any]) -> list[tuple[str, str, str]]:
    in_order = sorted(states, key=lambda state: state.timestamp)
    return [(str(state.id), state.type.value, state.name) for state in in_order]


def ours(store: Store, run_id: str) -> Histories:
    found: Histories = {}
    for row in store.read(queries.prefect_states, f"run-{run_id}"):
        found.setdefault(row["run_id"], []).append((row["state_id"], row["state_type"], row["state_name"]))
    return found


async def reconciled(store: Store, client: PrefectClient, **seconds: float) -> Report:
    at_once = {"settle_seconds": 0.0, "quiet_seconds": 0.0}
    return await reconcile(store, "test", request=control_of(store).request, client=client, **at_once | seconds)


async def all_written(client: PrefectClient, run_id: str) -> None:
    """Prefect's server writes task runs some time after the events that tell of them."""
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id)]))
    before = None
    for _ in range(100):
        now = [(run.id, run.state_id) for run in await client.read_task_runs(flow_run_filter=mine)]
        if now == before:
            return
        before = now
        await asyncio.sleep(0.5)


async def test_the_record_is_prefect_s_own(
    desk: Callable[..., zygote.Process], store: Store, client: PrefectClient
) -> None:
    """Retries, subflows that fail, mapped tasks, task runners, timeouts; sync and async; without an aggregator."""
    process = desk(
        """
        mirror_states(outer)
        mirror_states(mapped, description="wrapped later")
        print(retried(amount=4), retried.name, retried.retries)
        print(outer())
        print(mapped())

        async def main():
            print(await aretried())
            print((await aouter(return_state=True)).name)
            print(await amapped())
            print((await late(return_state=True)).name)
            print(await within())

        asyncio.run(main())
        """
    )
    out, error = process.communicate(timeout=90)
    assert process.returncode == 0, error
    answers = [line for line in out.splitlines() if line.count("-") < 4]
    assert answers == ["5 retried 1", "Failed", "132", "4", "Failed", "18", "TimedOut", "8"], error
    runs = run_ids(out)
    assert len(runs) == 9

    # The flows' own states are there already.
    ends = {"outer": "completed", "aouter": "failed", "late": "timeout"}
    for kind, run_id in runs.items():
        state = store.read(queries.get, f"run-{run_id}")
        assert state is not None, kind
        assert state.status.value == ends.get(kind, "completed")
        assert path_of(store, f"run-{run_id}") == ["created", "initializing", "running", state.status.value]
    first = store.read(queries.get, f"run-{runs['retried']}")
    assert first is not None
    assert (first.optimization_type.value, first.priority.name) == ("risk_optimization", "HIGH")
    assert first.metadata == {"desk": "rates", "strategy": "mirrored"}
    assert first.name.startswith("retried / ")
    failed = store.read(queries.get, f"run-{runs['aouter']}")
    assert failed is not None
    assert failed.name == "with a failing subflow"
    assert "the inner one" in failed.issues[0]

    await asyncio.gather(*(all_written(client, run_id) for run_id in runs.values()))
    report = await reconciled(store, client)
    assert (report.runs, report.closed, report.errors) == (9, 9, 0)
    for kind, run_id in runs.items():
        assert ours(store, run_id) == await prefect_s(client, run_id, store), kind
    names = [name for _, _, name in ours(store, runs["aretried"])[runs["aretried"]]]
    assert names == ["Pending", "Running", "AwaitingRetry", "Running", "Completed"]
    assert len(ours(store, runs["mapped"])) == 13
    assert (await reconciled(store, client)).runs == 0, "and that was all"


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
async def test_a_run_whose_name_postgresql_cannot_hold_is_one_like_any_other(
    desk: Callable[..., zygote.Process], request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(database)
    process = desk("mirror_states(mapped.with_options(flow_run_name='a\\0b'))()", O9_STORE_URL=url)
    out, error = await asyncio.to_thread(process.communicate, timeout=90)
    with Store(url) as store:
        (state,) = store.read(queries.page).items
        assert state.optimization_id == f"run-{run_ids(out)['mapped']}", error
        assert (state.status.value, state.name) == ("completed", "mapped / a\ufffdb")
        (states,) = ours(store, run_ids(out)["mapped"]).values()
        assert [name for _, _, name in states] == ["Pending", "Running", "Completed"]


async def test_a_run_that_just_ended_stays_open_for_its_tasks(
    desk: Callable[..., zygote.Process], store: Store, client: PrefectClient
) -> None:
    desk("asyncio.run(amapped())").communicate(timeout=90)
    report = await reconciled(store, client, settle_seconds=3600.0)
    assert (report.runs, report.closed) == (1, 0)


async def test_one_that_is_killed_has_failed_and_is_dead_in_prefect_too(
    desk: Callable[..., zygote.Process], store: Store, client: PrefectClient
) -> None:
    out, _ = desk("killed()").communicate(timeout=90)
    run_id = run_ids(out)["killed"]
    name = f"run-{run_id}"
    assert store.read(queries.get, name).status.value == "running"

    assert store.write(Sweep("test", dead_on_this_host(store))) == [name]
    state = store.read(queries.get, name)
    assert state is not None
    assert state.status.value == "failed"
    assert "its process is gone" in state.issues[0]

    report = await reconciled(store, client, quiet_seconds=3600.0)
    assert report.crashed == 0, "it may be about to say so itself"
    report = await reconciled(store, client)
    assert report.crashed == 1
    flow_run = await client.read_flow_run(UUID(run_id))
    assert flow_run.state is not None
    assert flow_run.state.name == "Crashed"
    assert "O9" in (flow_run.state.message or "")
    await all_written(client, run_id)
    assert (await reconciled(store, client)).closed == 1
    assert ours(store, run_id) == await prefect_s(client, run_id, store)
    assert path_of(store, name) == ["created", "initializing", "running", "failed"]


async def test_one_that_lost_its_lease_and_lives_is_left_alone(
    desk: Callable[..., zygote.Process],
    store: Store,
    client: PrefectClient,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    process = desk("asyncio.run(asleep())")
    await async_wait_until(lambda: store.read(queries.page).items, 60)
    name = store.read(queries.page).items[0].optimization_id
    run_id = name.removeprefix("run-")
    await async_wait_until(lambda: store.read(queries.get, name).status.value == "running")
    assert store.write(RecordLostRun(run_id, name, 1, "test", "nothing was heard of it"))
    assert store.read(queries.get, name).issues == ["nothing was heard of it"]
    assert (await reconciled(store, client)).crashed == 0
    process.kill()
    process.wait()
    store.write(Sweep("test", dead_on_this_host(store)))
    assert (await reconciled(store, client)).crashed == 1
    flow_run = await client.read_flow_run(UUID(run_id))
    assert flow_run.state is not None
    assert flow_run.state.name == "Crashed"


async def test_one_that_is_cancelled_in_prefect(
    desk: Callable[..., zygote.Process],
    store: Store,
    client: PrefectClient,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    """By Prefect's own runner, which ends the process, on a deployment."""
    listener = EventListener(store, "test", request=control_of(store).request)
    await listener.start()
    await listener.connected()
    try:
        desk("""
        from pathlib import Path
        from prefect import flow as load
        asleep = load.from_source(str(Path.cwd()), "desk.py:asleep")
        asleep.serve("night", pause_on_shutdown=False, print_starting_message=False)
        """)

        async def deployment() -> Any:
            return next((found for found in await client.read_deployments() if found.name == "night"), None)

        found = await async_wait_until(deployment, 60)
        run_id = str((await client.create_flow_run_from_deployment(found.id)).id)
        name = f"run-{run_id}"
        await async_wait_until(lambda: (state := store.read(queries.get, name)) and state.status.value == "running", 60)
        await client.set_flow_run_state(UUID(run_id), Cancelling())
        await async_wait_until(lambda: store.read(queries.get, name).status.value == "cancelled", 40)
        await all_written(client, run_id)
        assert (await reconciled(store, client)).closed == 1
        assert ours(store, run_id) == await prefect_s(client, run_id, store)
        shown = [name for _, _, name in ours(store, run_id)[run_id]]
        assert shown[0] == "Scheduled"
        assert shown[-3:] == ["Running", "Cancelling", "Cancelled"]
    finally:
        await listener.stop()


async def test_the_listener_records_what_tasks_do(
    desk: Callable[..., zygote.Process],
    store: Store,
    client: PrefectClient,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    listener = EventListener(store, "test", request=control_of(store).request)
    await listener.start()
    await listener.connected()
    try:
        process = desk("mirror_states(mapped)()")
        out, _ = await asyncio.to_thread(process.communicate, timeout=90)
        run_id = run_ids(out)["mapped"]
        await all_written(client, run_id)
        expected = await prefect_s(client, run_id, store)
        await async_wait_until(lambda: ours(store, run_id) == expected, 10)
    finally:
        await listener.stop()

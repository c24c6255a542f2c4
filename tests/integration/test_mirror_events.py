"""What people do in Prefect, heard from its event stream by whoever listens, or by the reconciler afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import o9_testing
import pytest
from o9_testing import new, path_of
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Paused, Pending, Running, Suspended
from sqlalchemy import Connection

from o9.aggregator.prefect_server import prefect_client_settings
from o9.lifecycle.control import control_of
from o9.mirror.events import EventListener
from o9.mirror.reconciler import PrefectAwayError, reconcile
from o9.mirror.run_registry import RUNS
from o9.model.states import Intent
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.prefect_runs import Adopt, RegisterRun, SetSuspendedRun
from o9.store.optimizations.transitions import Create
from o9.store.queue.claims import Claim
from o9.store.store import Store

WITHIN_SECONDS = 2.0


@flow
async def somebody_s() -> None:
    """Never run: the tests set its states as a person or a process would."""


@pytest.fixture
async def client() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as opened:
            yield opened


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


class Heard(list[str]):
    """The ids of which somebody wanted something, and the listener that heard it."""

    listener: EventListener


@pytest.fixture
async def heard(store: Store, client: PrefectClient) -> AsyncIterator[Heard]:
    heard = Heard()

    async def request(name: str, intent: Intent, by: str) -> None:
        await control_of(store).request(name, intent, by)
        heard.append(name)

    heard.listener = EventListener(store, "listening", request=request)
    await heard.listener.start()
    await heard.listener.connected()
    yield heard
    await heard.listener.stop()


async def attempt(store: Store, client: PrefectClient, name: str, *states: State[Any]) -> UUID:
    """An optimization that is held, and the flow run in Prefect that is its attempt."""
    store.write(Create(new(name)))
    claimed = store.write(Claim("node", 10, 300.0, name))
    assert claimed is not None
    return await begun(store, client, name, claimed.attempt, *states)


async def begun(store: Store, client: PrefectClient, name: str, attempt: int, *states: State[Any]) -> UUID:
    flow_run = await client.create_flow_run(somebody_s, state=Pending())
    store.write(RegisterRun(str(flow_run.id), name, attempt))
    for state in states or (Running(),):
        await client.set_flow_run_state(flow_run.id, state, force=True)
    return flow_run.id


def status(store: Store, name: str) -> str:
    state = store.read(queries.get, name)
    assert state is not None
    return state.status.value


def names(store: Store, name: str) -> list[str]:
    return [row["state_name"] for row in store.read(queries.prefect_states, name)]


async def reconciled(store: Store, client: PrefectClient, quiet_seconds: float = 0.0) -> Any:
    return await reconcile(
        store,
        "reconciling",
        request=control_of(store).request,
        client=client,
        settle_seconds=0.0,
        quiet_seconds=quiet_seconds,
    )


Wait = Callable[..., Awaitable[Any]]


async def test_a_cancel_in_prefect_is_an_intent(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, Cancelling())
    await async_wait_until(lambda: heard == ["a"], WITHIN_SECONDS)
    (intent,) = store.read(queries.intents, "a")
    assert (intent["intent"], intent["by"]) == ("cancel", "prefect")
    assert status(store, "a") == "running", "the attempt sees to it"
    await async_wait_until(lambda: names(store, "a") == ["Pending", "Running", "Cancelling"], WITHIN_SECONDS)


async def test_a_run_that_is_cancelled_outright(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, Cancelled(message="by ann"), force=True)
    await async_wait_until(lambda: heard == ["a"], WITHIN_SECONDS)
    await async_wait_until(lambda: status(store, "a") == "cancelled", WITHIN_SECONDS)
    assert path_of(store, "a") == ["created", "initializing", "running", "cancelled"]


@pytest.mark.parametrize("state", [Paused, Suspended])
async def test_a_pause_in_prefect_is_an_intent_and_moves_nothing(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait, state: Any
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, state(), force=True)
    await async_wait_until(lambda: heard == ["a"], WITHIN_SECONDS)
    assert store.read(queries.intents, "a")[0]["intent"] == "pause"
    assert status(store, "a") == "running"


async def test_a_resume_in_prefect_queues_what_is_suspended(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, Suspended(), force=True)
    await async_wait_until(lambda: heard == ["a"])
    from o9.model.states import OptimizationStatus
    from o9.store.optimizations.transitions import Cause, Transition

    store.write(SetSuspendedRun("a", str(run_id)))
    store.write(Transition("a", OptimizationStatus.PAUSED, Cause.PERSON))
    await client.set_flow_run_state(run_id, State(type=StateType.SCHEDULED, name="Resuming"), force=True)
    await async_wait_until(lambda: heard == ["a", "a"], WITHIN_SECONDS)
    assert [row["intent"] for row in store.read(queries.intents, "a")] == ["pause", "run"]
    assert status(store, "a") == "created"


async def test_a_crash_costs_the_attempt_its_life(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, Crashed(message="out of memory"), force=True)
    await async_wait_until(lambda: status(store, "a") == "created", WITHIN_SECONDS)
    assert "out of memory" in store.read(queries.transitions, "a")[-1]["message"]
    holding = store.read(queries.holding, "a")
    assert holding is not None
    assert (holding.deaths, holding.lease_node) == (1, None)


@pytest.mark.parametrize("name", ["Paused", "Requeued"])
async def test_o9_s_own_rests_are_nobody_s_cancel(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait, name: str
) -> None:
    run_id = await attempt(store, client, "a")
    await async_wait_until(lambda: status(store, "a") == "running")
    await client.set_flow_run_state(run_id, State(type=StateType.CANCELLED, name=name), force=True)
    await async_wait_until(lambda: names(store, "a")[-1] == name, WITHIN_SECONDS)
    assert status(store, "a") == "running"
    assert heard == []
    assert store.read(queries.intents, "a") == []


async def test_what_hooks_have_recorded_costs_no_write(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    run_id = await attempt(store, client, "a", Running())
    await async_wait_until(lambda: len(names(store, "a")) == 2)
    for state in await client.read_flow_run_states(run_id):
        assert RUNS.is_recorded(str(state.id))
    writes: list[Any] = []
    store.write_async, original = lambda operation: writes.append(operation) or original(operation), store.write_async  # type: ignore[method-assign, func-returns-value]
    other = await attempt(store, client, "b", Running())
    for state in await client.read_flow_run_states(other):
        RUNS.remember(str(state.id))
    await client.set_flow_run_state(run_id, Completed())
    await async_wait_until(lambda: status(store, "a") == "completed")
    await asyncio.sleep(1.0)
    assert {operation.optimization_id for operation in writes} == {"a"}
    assert len(writes) == 1


async def test_a_run_that_nobody_knows_is_asked_for_a_few_times_only(
    store: Store, client: PrefectClient, heard: Heard, monkeypatch: pytest.MonkeyPatch, async_wait_until: Wait
) -> None:
    monkeypatch.setattr("o9.mirror.events.FOREIGN_SECONDS", 1.0)
    asked: list[str] = []
    prefect_run = queries.prefect_run

    def counted(connection: Connection, run_id: str) -> Row | None:
        asked.append(run_id)
        return prefect_run(connection, run_id)

    monkeypatch.setattr(queries, "prefect_run", counted)
    flow_run = await client.create_flow_run(somebody_s, state=Pending())
    await client.set_flow_run_state(flow_run.id, Running(), force=True)
    # Only this run's: the stream begins with what others did in the last minute.
    await async_wait_until(lambda: not heard.listener._waiting and str(flow_run.id) in asked)
    before = asked.count(str(flow_run.id))
    assert before <= 4
    for _ in range(20):
        await client.set_flow_run_state(flow_run.id, State(type=StateType.PENDING, name="busy"), force=True)
    await asyncio.sleep(1.0)
    assert asked.count(str(flow_run.id)) == before


async def test_it_listens_again_after_the_connection_was_lost(
    store: Store, client: PrefectClient, heard: Heard, async_wait_until: Wait
) -> None:
    await heard.listener.stop()
    await heard.listener.start()
    await heard.listener.connected()
    run_id = await attempt(store, client, "a")
    await client.set_flow_run_state(run_id, Cancelling())
    await async_wait_until(lambda: heard == ["a"], WITHIN_SECONDS)


# What nobody heard


async def test_the_reconciler_hears_the_same_afterwards(store: Store, client: PrefectClient) -> None:
    await attempt(store, client, "cancelled", Running(), Cancelling())
    await attempt(store, client, "paused", Running(), Paused())
    await attempt(store, client, "crashed", Running(), Crashed())
    await attempt(store, client, "completed", Running(), Completed())
    await attempt(store, client, "history", Running(), Paused(), Running())
    report = await reconciled(store, client)
    assert sorted(report.heard) == ["cancelled", "paused"]
    assert (report.runs, report.states, report.closed, report.crashed, report.errors) == (5, 16, 2, 0, 0)
    after = {name: (status(store, name), [row["intent"] for row in store.read(queries.intents, name)]) for name in
             ("cancelled", "paused", "crashed", "completed", "history")}  # fmt: skip
    assert after == {
        "cancelled": ("running", ["cancel"]),
        "paused": ("running", ["pause"]),
        "crashed": ("created", []),
        "completed": ("completed", []),
        "history": ("running", []),
    }
    assert names(store, "history") == ["Pending", "Running", "Paused", "Running"]


async def test_the_dead_are_said_to_be_dead_and_the_living_left_alone(store: Store, client: PrefectClient) -> None:
    from o9.store.queue.claims import AbandonClaim

    alive = await attempt(store, client, "alive")
    swept = await attempt(store, client, "swept")
    replaced = await attempt(store, client, "replaced")
    suspended = await attempt(store, client, "suspended")
    dropped = await attempt(store, client, "dropped")
    await reconciled(store, client)
    for name in ("swept", "replaced", "suspended", "dropped"):
        assert store.write(AbandonClaim(name, 1, "node"))
    store.write(Claim("node", 10, 300.0, "replaced"))
    for name, run_id in (("suspended", suspended), ("dropped", dropped)):
        store.write(SetSuspendedRun(name, str(run_id)))
    store.write(SetIntent("dropped", Intent.CANCEL, "ann"))

    early = await reconciled(store, client, quiet_seconds=3600.0)
    assert (early.crashed, early.cancelled) == (2, 0), "the one whose place was taken, and the one that was swept"
    report = await reconciled(store, client)
    assert (report.crashed, report.cancelled, report.errors) == (0, 1, 0)
    shown = {}
    for name, run_id in {"alive": alive, "swept": swept, "replaced": replaced, "suspended": suspended,
                         "dropped": dropped}.items():  # fmt: skip
        flow_run = await client.read_flow_run(run_id)
        assert flow_run.state is not None
        shown[name] = flow_run.state.name
        if name in ("swept", "replaced", "dropped"):
            assert (flow_run.state.message or "").startswith("O9: ")
    assert shown == {
        "alive": "Running", "swept": "Crashed", "replaced": "Crashed", "suspended": "Running", "dropped": "Cancelled",
    }  # fmt: skip
    assert {name: status(store, name) for name in shown} == {
        "alive": "running", "swept": "created", "replaced": "created", "suspended": "created", "dropped": "cancelled",
    }  # fmt: skip
    await reconciled(store, client)
    assert {row["run_id"] for row in store.read(queries.open_runs)} == {str(alive), str(suspended)}


async def test_a_watched_flow_that_somebody_cancels_through_o9_is_asked_to_end(
    store: Store, client: PrefectClient
) -> None:
    flow_run = await client.create_flow_run(somebody_s, state=Pending())
    name = f"run-{flow_run.id}"
    store.write(Adopt(new(name, strategy="mirrored"), str(flow_run.id), "node", 300.0))
    await client.set_flow_run_state(flow_run.id, Running())
    await reconciled(store, client)
    store.write(SetIntent(name, Intent.CANCEL, "ann"))
    assert (await reconciled(store, client)).cancelled == 1
    assert (await reconciled(store, client)).cancelled == 0, "it was asked once"
    assert names(store, name) == ["Pending", "Running", "Cancelling"]
    assert status(store, name) == "running"
    await client.set_flow_run_state(flow_run.id, Cancelled(), force=True)
    await reconciled(store, client)
    assert path_of(store, name) == ["created", "initializing", "running", "cancelled"]
    assert [row["by"] for row in store.read(queries.intents, name)] == ["ann"]


async def test_a_run_that_prefect_has_no_more(store: Store, client: PrefectClient) -> None:
    run_id = await attempt(store, client, "a")
    await client.delete_flow_run(run_id)
    report = await reconciled(store, client)
    assert report.missing == [str(run_id)]
    assert store.read(queries.open_runs) == []
    assert f"missing: {run_id}" in str(report)


async def test_what_one_raises_stops_nobody_else(
    store: Store, client: PrefectClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = await attempt(store, client, "bad")
    await attempt(store, client, "good", Running(), Completed())
    original = client.read_flow_run_states

    async def failing(run_id: UUID) -> Any:
        if run_id == bad:
            import httpx

            raise httpx.ReadError("cut")
        return await original(run_id)

    monkeypatch.setattr(client, "read_flow_run_states", failing)
    report = await reconciled(store, client)
    assert report.errors == 1
    assert status(store, "good") == "completed"
    assert f"could not compare the flow run {bad}" in caplog.text


async def test_prefect_is_away(store: Store) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    store.write(RegisterRun(str(uuid4()), "a", 1))
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(PrefectAwayError, match="does not answer, nothing was compared"):
        await reconcile(store, "reconciling", request=control_of(store).request)


async def test_a_stop_while_the_server_still_sends_is_no_wait(store: Store, client: PrefectClient) -> None:
    """Prefect begins with the last minute's events: whoever stops meanwhile leaves most of them unread."""
    for _ in range(30):
        flow_run = await client.create_flow_run(somebody_s, state=Pending())
        state: State[Any]
        for state in (Running(), Completed()):
            await client.set_flow_run_state(flow_run.id, state)
    took = []
    for pause in (0.0, 0.02, 0.04, 0.06, 0.08):
        listener = EventListener(store, "listening", request=control_of(store).request)
        await listener.start()
        await listener.connected()
        await asyncio.sleep(pause)
        began = time.monotonic()
        await listener.stop()
        took.append(time.monotonic() - began)
    assert max(took) < WITHIN_SECONDS, took

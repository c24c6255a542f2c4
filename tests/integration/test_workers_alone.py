"""Prefect's workers without any aggregator: `reconcile-states` dispatches, and its workers run what waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from o9_testing import LINE, ledger, new, path_of
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import Event, Resource
from prefect.states import Crashed, Pending, Running
from worker_pool import WorkerPool, kill_with_its_runs, set_version, worker_pool

from o9.blocks.store import release_store, use_store
from o9.flows.hand_over import dispatch_queued
from o9.flows.reconcile_states import reconcile_states
from o9.flows.unrecorded import TRIES, record_unrecorded
from o9.lifecycle.control import Verb, control_of
from o9.mirror.reconciler import reconcile
from o9.store import queries
from o9.store.optimizations.prefect_runs import MAX_REJECTIONS, BeginRun
from o9.store.queue.policies import ALL, LIMIT, SetPolicy
from o9.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
async def pool(
    tmp_path: Path,
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> AsyncIterator[WorkerPool]:
    async with worker_pool(tmp_path, store_url, monkeypatch, async_wait_until) as pool:
        yield pool


@pytest.fixture
def store(store_url: str) -> Any:
    with Store(store_url) as store:
        yield store


async def submit(
    store: Store, name: str, objective: str = "quick", steps: int = 4, *, hold: bool = False, **metadata: Any
) -> None:
    metadata = {"objective": f"desk:{objective}", "search_space": LINE, "seed": 1, "trials_per_step": 1} | metadata
    await control_of(store).submit(new(name, total_steps=steps, **metadata), hold=hold)


def status(store: Store, name: str) -> str:
    state = store.read(queries.get, name)
    assert state is not None
    return state.status.value


def steps(store: Store, name: str) -> int:
    state = store.read(queries.get, name)
    assert state is not None
    return state.completed_steps


async def test_what_is_submitted_is_dispatched_to_the_deployment_and_stays_there(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await submit(store, "a")
    with pool.worker():
        assert await pool.reconcile() == "Completed"
        await async_wait_until(lambda: status(store, "a") == "completed", 60)
    assert path_of(store, "a") == ["created", "initializing", "running", "completed"]
    holding = store.read(queries.holding, "a")
    assert holding is not None
    assert (holding.deployment_id, holding.attempt, holding.deaths) == (
        str(pool.deployments["optimization-lifecycle"]), 1, 0,
    )  # fmt: skip


async def dispatched(pool: WorkerPool, store: Store, name: str) -> str:
    """Give `name` to a new run of Prefect's, as `reconcile-states` does. Returns its id."""
    assert await dispatch_queued(store, pool.client, "dispatching") == [name]
    holding = store.read(queries.holding, name)
    assert holding is not None
    assert holding.suspended_run_id is not None
    return holding.suspended_run_id


async def started(pool: WorkerPool, run: UUID | str) -> str:
    """Ask Prefect for its start, as a worker does; the state that the run has then."""
    await pool.client.set_flow_run_state(UUID(str(run)), Pending())
    return await pool.state_of(run)


async def test_where_prefect_s_limit_leaves_no_room_it_waits_and_nobody_has_cancelled_it(
    pool: WorkerPool, store: Store
) -> None:
    await limit_to_one(pool)
    other = await pool.run("optimization-lifecycle", optimization_id="another")
    assert await started(pool, other.id) == "Pending"
    await submit(store, "a")
    for _ in range(MAX_REJECTIONS + 1):  # which no worker is at fault for
        assert await started(pool, await dispatched(pool, store, "a")) == "Cancelled"
        await reconcile(store, "reconciling", request=control_of(store).request, client=pool.client)
        holding = store.read(queries.holding, "a")
        assert holding is not None
        assert (holding.status, holding.intent, holding.lease_node) == ("created", "run", None)
    assert store.read(queries.get, "a").issues == []
    await pool.client.set_flow_run_state(other.id, Crashed(), force=True)
    assert await started(pool, await dispatched(pool, store, "a")) == "Pending"


async def test_the_run_of_a_dead_worker_gives_its_slot_back_before_the_next_is_created(
    pool: WorkerPool, store: Store, set_o9: Callable[..., None]
) -> None:
    set_o9(lease_seconds=1)
    await limit_to_one(pool)
    await submit(store, "a")
    dead = await dispatched(pool, store, "a")
    assert await started(pool, dead) == "Pending"
    await pool.client.set_flow_run_state(UUID(dead), Running())
    deployment = str(pool.deployments["optimization-lifecycle"])
    assert store.write(BeginRun("a", dead, "a dead worker", -1.0, deployment))[1] is not None
    use_store(store)
    try:
        report = await reconcile_states()
    finally:
        release_store(store)
    assert (report["swept"], report["dispatched"]) == (["a"], ["a"])
    holding = store.read(queries.holding, "a")
    assert holding is not None
    ended = (await pool.client.read_flow_run(UUID(dead))).state
    created = (await pool.client.read_flow_run(UUID(holding.suspended_run_id or ""))).created
    assert ended is not None
    assert created is not None
    assert (ended.name, ended.timestamp < created) == ("Crashed", True)


async def limit_to_one(pool: WorkerPool) -> None:
    """As `--overlap skip` does."""
    one = DeploymentUpdate(concurrency_limit=1, concurrency_options={"collision_strategy": "CANCEL_NEW"})
    await pool.client.update_deployment(pool.deployments["optimization-lifecycle"], one)


@pytest.mark.long
async def test_killed_with_its_worker_it_goes_on_elsewhere_within_one_reconciliation(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await submit(store, "a", "slow", 12)
    with pool.worker("first") as first:
        assert await pool.reconcile() == "Completed"
        await async_wait_until(lambda: steps(store, "a") >= 3, 60)
        kill_with_its_runs(first)
        first.wait(30)
    ran = store.read(queries.transitions, "a")[-1]["prefect_run_id"]
    assert await pool.state_of(ran) == "Running"  # nobody has told Prefect
    with pool.worker("second"):
        assert await pool.reconcile() == "Completed"
        assert status(store, "a") in ("created", "initializing", "running")
        assert await pool.state_of(ran) == "Crashed"
        await async_wait_until(lambda: status(store, "a") == "completed", 60)
        await submit(store, "undisturbed", "slow", 12)
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "undisturbed") == "completed", 60)
    assert ledger(store, "a") == ledger(store, "undisturbed")
    holding = store.read(queries.holding, "a")
    assert holding is not None
    assert (holding.deaths, holding.attempt) == (1, 2)


@pytest.mark.long
async def test_cancelled_in_prefect_it_is_cancelled_at_once_with_its_cut_off_trials(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await submit(store, "a", "endless", 8, trials_per_step=2)
    with pool.worker():
        await pool.reconcile()
        await async_wait_until((pool.folder / "hangs").exists, 60)
        run = store.read(queries.transitions, "a")[-1]["prefect_run_id"]
        await pool.client.set_flow_run_state(run, State(type=StateType.CANCELLING))
        await async_wait_until(lambda: status(store, "a") == "cancelled", 20)
        await async_wait_until(lambda: is_in(pool, run, "Cancelled"), 40)
    assert store.read(queries.trial_counts, "a").get("cancelled", 0) >= 1
    assert store.read(queries.holding, "a").intent_by == "prefect"


async def is_in(pool: WorkerPool, run: Any, name: str) -> bool:
    return await pool.state_of(run) == name


@pytest.mark.long
@pytest.mark.parametrize(
    "given_up",
    [
        State(
            type=StateType.FAILED, message="never resumed"
        ),  # Prefect's own service, when a suspension's time is over
        State(type=StateType.PAUSED, name="Suspended"),  # through its API, without `pause_reschedule`
    ],
    ids=["failed", "paused for good"],
)
async def test_resume_dependencies_limits_and_a_pause_that_prefect_has_given_up(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]], given_up: State[Any]
) -> None:
    control = control_of(store)
    await submit(store, "a", "slow", 10)
    await submit(store, "after", after=["a"])
    with pool.worker():
        await pool.reconcile()
        await async_wait_until(lambda: steps(store, "a") >= 1, 60)
        assert status(store, "after") == "created"
        await control.carry_out(Verb.PAUSE, "a", "ann")
        await async_wait_until(lambda: status(store, "a") == "paused", 30)
        run = store.read(queries.transitions, "a")[-1]["prefect_run_id"]
        await async_wait_until(lambda: is_in(pool, run, "Suspended"), 30)
        await pool.client.set_flow_run_state(run, given_up, force=True)
        await pool.reconcile()
        assert status(store, "a") == "paused"
        await control.carry_out(Verb.RESUME, "a", "ann")
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "a") == "completed", 60)
        assert path_of(store, "a").count("paused") == 1
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "after") == "completed", 60)
        # One that has no room suspends itself, and is resumed when there is some.
        store.write(SetPolicy(ALL, {LIMIT: 1}))
        await submit(store, "first", "endless")
        await pool.reconcile()
        await async_wait_until((pool.folder / "hangs").exists, 60)
        await submit(store, "second", hold=True)
        waiting = await pool.run("optimization-lifecycle", optimization_id="second")
        await async_wait_until(lambda: is_in(pool, str(waiting.id), "Suspended"), 60)
        await control.carry_out(Verb.CANCEL, "first", "ann")
        await async_wait_until(lambda: status(store, "first") == "cancelled", 60)
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "second") == "completed", 60)
        assert store.read(queries.transitions, "second")[-1]["prefect_run_id"] == str(waiting.id)
        # Retry of what has ended says what to do, and changes nothing.
        before = store.read(queries.transitions, "a")
        ended = before[-1]["prefect_run_id"]
        await pool.client.set_flow_run_state(ended, State(type=StateType.SCHEDULED, name="AwaitingRetry"), force=True)
        await async_wait_until(lambda: is_in(pool, ended, "Completed"), 60)
        assert "o9 retry a" in await pool.message_of(ended)
        await pool.reconcile()
    assert store.read(queries.transitions, "a") == before


@pytest.mark.long
async def test_a_worker_without_the_objective_s_package_leaves_it_to_another(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await submit(store, "a")
    with pool.worker("bare", O9_TEST_BARE="1", PYTHONPATH=""):
        await pool.reconcile()
        await async_wait_until(lambda: store.read(queries.get, "a").issues, 60)
    (issue,) = store.read(queries.get, "a").issues
    assert "desk" in issue
    assert (status(store, "a"), store.read(queries.holding, "a").deaths) == ("created", 0)
    with pool.worker("built"):
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "a") == "completed", 60)


@pytest.mark.long
async def test_a_scheduled_run_on_a_worker_without_the_package_is_left_to_another(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    lifecycle = pool.deployments["optimization-lifecycle"]
    space = [{"name": name, **parameter} for name, parameter in LINE.items()]
    metadata = {"objective": "desk:quick", "search_space": space, "seed": 1, "series": "carry"}
    spec = {"name": "Carry", "total_steps": 3, "metadata": metadata}
    await pool.client.update_deployment(lifecycle, DeploymentUpdate(parameters={"spec": spec}))
    await pool.schedule(
        "optimization-lifecycle", timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(seconds=15)
    )
    mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[lifecycle]))

    async def left() -> FlowRun | None:
        runs = await pool.client.read_flow_runs(flow_run_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
        return next((run for run in runs[:1] if run.state_name == "AwaitingRetry"), None)

    with pool.worker("bare", O9_TEST_BARE="1", PYTHONPATH=""):
        run = await async_wait_until(left, 25)
    assert "desk" in await pool.message_of(run.id)
    assert store.read(queries.page).items == []
    with pool.worker("built"):
        await async_wait_until(lambda: is_in(pool, str(run.id), "Completed"), 25)
    (state,) = store.read(queries.page).items
    assert (state.status.value, path_of(store, state.optimization_id)[-3:]) == (
        "completed", ["initializing", "running", "completed"],
    )  # fmt: skip


@pytest.mark.long
async def test_a_deployment_of_another_release_is_refused_and_what_waits_goes_back(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await submit(store, "a")
    await set_version(pool, "o9-99.1.0")
    with pool.worker():
        await pool.reconcile()
        run = store.read(queries.holding, "a").suspended_run_id
        await async_wait_until(lambda: is_in(pool, run, "Failed"), 60)
        assert "99.1.0" in await pool.message_of(run)
        await set_version(pool, "o9-0.1.5")
        await pool.reconcile()
        await async_wait_until(lambda: status(store, "a") == "completed", 60)
    assert "99.1.0" in store.read(queries.get, "a").issues[0]


@pytest.mark.long
async def test_what_a_form_asks_for_and_is_refused_is_recorded_as_failed(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    spec = {"name": "Carry", "total_steps": 3, "metadata": {"objective": "other:carry", "series": "carry"}}
    with pool.worker():
        run = await pool.run("optimization-lifecycle", spec=spec)
        await async_wait_until(lambda: is_in(pool, str(run.id), "Failed"), 60)
    (state,) = store.read(queries.page).items
    assert (state.status.value, state.name, state.metadata["series"]) == ("failed", "Carry", "carry")
    assert state.issues[0].startswith("metadata.objective")
    known = store.read(queries.prefect_run, str(run.id))
    assert known is not None
    assert known["optimization_id"] == state.optimization_id


async def test_a_run_that_died_before_it_was_recorded_is_scheduled_again_or_recorded_as_failed(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    def spec(name: str) -> dict[str, Any]:
        space = [{"name": "x"} | LINE["x"]]  # as the form gives it
        metadata = {"objective": "desk:quick", "search_space": space, "seed": 1, "trials_per_step": 1}
        return {"name": name, "total_steps": 2, "metadata": metadata}

    def found(name: str) -> list[str]:
        return [each.status.value for each in store.read(queries.page).items if each.name == name]

    died, often, wrong = [
        await pool.run("optimization-lifecycle", **parameters)
        for parameters in ({"spec": spec("died")}, {"spec": spec("often")}, {"retry_of": "nope"})
    ]
    for flow_run, crashes in ((died, 1), (often, TRIES)):
        for _ in range(crashes):
            await pool.client.set_flow_run_state(flow_run.id, Crashed(message="out of memory"), force=True)
    with pool.worker():
        await async_wait_until(lambda: is_in(pool, str(wrong.id), "Failed"), 60)
        assert await pool.reconcile() == "Completed"
        await async_wait_until(lambda: found("died") == ["completed"], 60)
        assert await pool.reconcile() == "Completed"
    assert found("often") == ["failed"]
    assert [store.read(queries.prefect_run, str(each.id)) is None for each in (died, often, wrong)] == [False] * 3
    assert len(store.read(queries.page).items) == 3


async def test_a_run_whose_heartbeats_stopped_before_it_was_recorded_is_scheduled_again(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    dead, alive, never_heard = [await pool.run("optimization-lifecycle", retry_of="a") for _ in range(3)]
    for flow_run in (dead, alive, never_heard):
        await pool.client.set_flow_run_state(flow_run.id, Running())
    heartbeats = [
        Event(
            event="prefect.flow-run.heartbeat",
            occurred=datetime.now(UTC) + since,
            resource=Resource({"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}),
        )
        for flow_run, since in ((dead, timedelta(hours=-1)), (alive, timedelta(hours=1)))
    ]
    await pool.client.request("POST", "/events", json=[each.model_dump(mode="json") for each in heartbeats])

    async def settled() -> list[str]:
        return await record_unrecorded(store, pool.client, pool.name, silence=timedelta(seconds=1))

    assert await async_wait_until(settled, 20) == [dead.name]
    states = [await pool.state_of(each.id) for each in (dead, alive, never_heard)]
    assert states == ["AwaitingRetry", "Running", "Running"]

"""Prefect's workers without any aggregator: `reconcile-states` dispatches, and its workers run what waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from o9_testing import LINE, ledger, new, path_of
from prefect.client.schemas.objects import State, StateType
from worker_pool import WorkerPool, kill_with_its_runs, set_version, worker_pool

from o9.lifecycle.control import Verb, control_of
from o9.store import queries
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
async def test_resume_dependencies_limits_and_a_pause_that_prefect_has_given_up(
    pool: WorkerPool, store: Store, async_wait_until: Callable[..., Awaitable[Any]]
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
        # Prefect's own service does this when the time of a suspension is over.
        await pool.client.set_flow_run_state(run, State(type=StateType.FAILED, message="never resumed"), force=True)
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

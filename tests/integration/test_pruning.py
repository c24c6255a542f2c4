"""Pruning on real databases: nothing is left in any table, a kill leaves nothing half counted, Prefect shows it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import o9_testing
import pytest
from contract_pruning import assert_counts_of_what_is_there, live
from contract_steps import at_work, trial
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Completed
from sqlalchemy import Float, Integer, LargeBinary, func, insert, inspect, select

from o9.aggregator.prefect_server import prefect_client_settings
from o9.flows.prune_history import prune_history
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.retention import horizon, prune
from o9.mirror.removal import remove_flow_runs
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.core.base import metadata
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.prefect_runs import Adopt, CloseRun, RegisterRun
from o9.store.optimizations.pruning import owned
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

HOLDERS = sorted(table.name for table in metadata.tables.values() if "optimization_id" in table.c)


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
def test_nothing_of_it_is_left_in_any_table(database: str, request: pytest.FixtureRequest) -> None:
    with Store(request.getfixturevalue(database)) as store:
        for name in ("a", "b"):
            live(store, name)
            store.write(Transition(name, S.COMPLETED, Cause.HOOK))
        at_work(store, "runs")
        with store._engine.connect() as connection:
            for name in HOLDERS:
                _fill(connection, metadata.tables[name], "a")
            dependency = metadata.tables["dependency"]
            connection.execute(insert(dependency).values(after_id="a", optimization_id="gone before"))
            kept = {name: _count(connection, name, "b") for name in HOLDERS}
            asyncio.run(prune(store, _after(store, "a"), sharpe_ratios_of))
            assert store.read(queries.get, "a") is None
            left = {name: count for name in HOLDERS if (count := _count(connection, name, "a"))}
            # The feed says that it is gone; what it said before goes when it is old.
            assert left == {"change": store.read(queries.changes, 0)[-1]["id"] and left["change"]}
            assert [row["kind"] for row in store.read(queries.changes, 0) if row["optimization_id"] == "a"][
                -1
            ] == "pruned"
            assert {name: _count(connection, name, "b") for name in HOLDERS} == kept
            assert connection.execute(select(dependency)).all() == []


def test_what_belongs_to_one_is_found_by_an_index(store_url: str) -> None:
    with Store(store_url) as store, store._engine.connect() as connection:
        looked = inspect(connection)
        for table in owned():
            first: list[list[Any]] = [looked.get_pk_constraint(table.name)["constrained_columns"][:1]]
            first += [index["column_names"][:1] for index in looked.get_indexes(table.name)]
            assert ["optimization_id"] in first, f"{table.name} is read whole for each optimization that is pruned"


def _fill(connection: Any, table: Any, name: str) -> None:
    if _count(connection, table.name, name):
        return
    row: dict[str, Any] = {}
    for column in table.columns:
        kind = column.type
        row[column.name] = (
            1 if isinstance(kind, Integer) else 0.0 if isinstance(kind, Float)
            else b"" if isinstance(kind, LargeBinary) else "1"
        )  # fmt: skip
    closed = {"is_open": 0} if "is_open" in row else {}  # open ones keep it
    connection.execute(insert(table).values(**row | closed | {"optimization_id": name}))


def _count(connection: Any, table: str, name: str) -> int:
    holder = metadata.tables[table]
    found = select(func.count()).select_from(holder).where(holder.c.optimization_id == name)
    return int(connection.execute(found).scalar_one())


def _after(store: Store, name: str) -> str:
    """A moment behind its end and before everything that came later."""
    state = store.read(queries.get, name)
    assert state is not None
    assert state.completed_at is not None
    return (state.completed_at + timedelta(microseconds=1)).isoformat(timespec="microseconds")


# A kill


PRUNE = """
import sys, time
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.store.optimizations.pruning import Prune
from o9.store.store import Store

with Store(sys.argv[1]) as store:
    cursor = ("", "")
    while cursor is not None:  # the smallest pieces, and time for the blow between them
        cursor = store.write(Prune("9999", sharpe_ratios_of, cursor, seconds=0.0)).cursor
        time.sleep(0.005)
"""


def test_killed_at_any_instant_the_next_one_goes_on(store_url: str, wait_until: Callable[..., Any]) -> None:
    with Store(store_url) as store:
        for number in range(40):
            name, many = f"a{number:02}", 600 if number % 10 == 0 else 30
            fence = at_work(store, name, total_steps=1).fence
            tried = [trial(n, family="f", returns=(0.01, 0.02, 0.001 * n)) for n in range(many)]
            store.write(CommitStep(name, fence, 0, tried, {"rng": 1}))
            store.write(Transition(name, S.COMPLETED, Cause.HOOK))
        at_work(store, "runs")
        everything = store.read(queries.family_trials, "f", "").counts
        left = store.read(queries.counts)
        for _ in range(3):
            before = _total(store)
            victim = subprocess.Popen([sys.executable, "-W", "error", "-c", PRUNE, store_url])
            wait_until(lambda before=before: _total(store) < before - 2, 30)
            os.kill(victim.pid, signal.SIGKILL)
            assert victim.wait(10) == -signal.SIGKILL
            assert store.check() == []
            tried_now = store.read(queries.family_trials, "f", "")
            assert tried_now.counts == everything == {"completed": 4 * 600 + 36 * 30}
            with sqlite3.connect(store_url) as direct:
                (there,) = direct.execute("SELECT count(*) FROM trial").fetchone()
            assert tried_now.pruned.count == tried_now.pruned.sharpes == everything["completed"] - there
            assert sum(sums.count for _, sums in store.read(queries.totals)) == 40
            assert_counts_of_what_is_there(store)
        assert 0 < _total(store) < 41
        assert store.read(queries.counts) != left
        asyncio.run(prune(store, "9999", sharpe_ratios_of))
        assert [state.optimization_id for state in store.read(queries.page).items] == ["runs"]
        assert store.read(queries.family_trials, "f", "").pruned.count == everything["completed"]
        with sqlite3.connect(store_url) as direct:
            for table in owned():
                others = f"SELECT count(*) FROM {table.name} WHERE optimization_id <> 'runs'"
                assert direct.execute(others).fetchone() == (0,), table.name


def _total(store: Store) -> int:
    return sum(row["count"] for row in store.read(queries.counts))


# The flow


@pytest.fixture
def used(store_url: str) -> Iterator[Store]:
    """A store that the flows of this process use: one ended an hour ago, one just now, and one is at work."""
    from o9.blocks.store import release_store, use_store

    with prefect_client_settings(o9_testing.session_server()), Store(store_url) as store:
        for name in ("old", "young"):
            at_work(store, name)
            store.write(Transition(name, S.COMPLETED, Cause.HOOK))
        at_work(store, "runs")
        with sqlite3.connect(store_url) as direct:
            an_hour_ago = (utc_now() - timedelta(hours=1)).isoformat(timespec="microseconds")
            direct.execute("UPDATE optimization SET completed_at = ? WHERE optimization_id = 'old'", (an_hour_ago,))
        use_store(store)
        yield store
        release_store(store)


async def test_the_flow_prunes_and_says_so_in_prefect(used: Store) -> None:
    state = await prune_history(1 / 48, return_state=True)
    told = await state.result()  # type: ignore[misc]
    assert state.is_completed()
    assert (told["optimizations"], told["kept"]) == (1, {})
    assert {one.optimization_id for one in used.read(queries.page).items} == {"young", "runs"}
    async with get_client() as client:
        which = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        found = {artifact.key: artifact for artifact in await client.read_artifacts(artifact_filter=which)}
    assert {(key, artifact.type) for key, artifact in found.items()} == {
        ("o9-prune-summary", "markdown"), (None, "progress"),
    }  # fmt: skip
    assert "**1** optimizations that ended before" in str(found["o9-prune-summary"].data)
    assert found[None].data == 100.0


async def test_the_setting_says_how_old_and_0_keeps_all(used: Store, set_o9: Callable[..., None]) -> None:
    assert (await prune_history())["optimizations"] == 0
    set_o9(retention_days=0.02)
    assert (await prune_history())["optimizations"] == 1


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 40_000])
async def test_a_number_of_days_that_is_none_fails_the_run(used: Store, days: float) -> None:
    state = await prune_history(days, return_state=True)
    assert state.is_failed()
    with pytest.raises(OptimizationValidationError, match="days"):
        await state.result()  # type: ignore[misc]
    assert len(used.read(queries.page).items) == 3


def test_the_horizon_is_so_many_days_back() -> None:
    now = utc_now()
    assert horizon(0.5, now) == (now - timedelta(hours=12)).isoformat(timespec="microseconds")
    with pytest.raises(OptimizationValidationError, match="O9_RETENTION_DAYS"):
        horizon(True, now, "O9_RETENTION_DAYS")


def test_it_is_deployed_by_its_module() -> None:
    assert load_flow_from_entrypoint("o9.flows.prune_history:prune_history") is prune_history


# Flow runs in Prefect


@flow
async def somebody_s() -> None:
    """Never run."""


async def test_flow_runs_that_o9_created_go_too_and_nobody_else_s(
    aggregator: Any, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    store = aggregator.store
    for name in ("old", "young"):
        await aggregator.submit_optimization(o9_testing.new(name, objective="branin", seed=7, total_steps=2))
        await o9_testing.ended(aggregator, name)
    await async_wait_until(lambda: store.read(queries.open_runs) == [])
    made_old(store, "old")
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            theirs = await somebody_s_runs(client, store, "old")
            mine = {name: run_of(store, name) for name in ("old", "young")}
            await async_wait_until(lambda: all_has_arrived(client, mine.values()))
            told = await prune_history(1 / 48)
            assert (told["optimizations"], told["flow_runs"]) == (2, 1)
            assert await there(client, [*mine.values(), *theirs]) == {mine["young"], *theirs}
            assert await tasks_of(client, mine["old"]) == 0
            assert await tasks_of(client, mine["young"]) == 4

            async def no_log_is_left() -> bool:
                return await logs_of(client, mine["old"]) == []

            await async_wait_until(no_log_is_left)
            assert await logs_of(client, mine["young"]) != []
    assert store.read(queries.pruned_runs) == []


async def test_where_prefect_is_away_they_go_the_next_time(used: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with get_client() as client:
        ours = await client.create_flow_run(somebody_s, tags=["o9"], state=Completed())
        used.write(RegisterRun(str(ours.id), "old", 1))
        used.write(CloseRun(str(ours.id)))
        await prune(used, horizon(1 / 48, utc_now()), sharpe_ratios_of)
        away = {PREFECT_API_URL: f"http://127.0.0.1:{o9_testing.free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(away):
            assert await remove_flow_runs(used) == 0
        assert used.read(queries.pruned_runs) == [str(ours.id)]
        assert [record.levelname for record in caplog.records if record.name == "o9.mirror.removal"] == ["WARNING"]
        assert (await prune_history())["flow_runs"] == 1  # also where it deletes nothing else
        assert await there(client, [ours.id]) == set()
    assert used.read(queries.pruned_runs) == []


def made_old(store: Store, name: str) -> None:
    with sqlite3.connect(store.name.removeprefix("sqlite:///")) as direct:
        an_hour_ago = (utc_now() - timedelta(hours=1)).isoformat(timespec="microseconds")
        direct.execute("UPDATE optimization SET completed_at = ? WHERE optimization_id = ?", (an_hour_ago, name))


def run_of(store: Store, name: str) -> UUID:
    (run_id,) = {row["run_id"] for row in store.read(queries.prefect_states, name) if row["run_kind"] == "flow"}
    return UUID(run_id)


async def somebody_s_runs(client: PrefectClient, store: Store, name: str) -> set[UUID]:
    """A run that has O9's tag, one of a deployment that was an attempt at `name`, and one that is mirrored."""
    tagged = await client.create_flow_run(somebody_s, tags=["o9"], state=Completed())
    deployment_id = await client.create_deployment(await client.create_flow(somebody_s), f"for {name}")
    deployed = await client.create_flow_run_from_deployment(deployment_id, state=Completed(), tags=["o9"])
    store.write(RegisterRun(str(deployed.id), name, 2))
    store.write(CloseRun(str(deployed.id)))
    mirrored = await client.create_flow_run(somebody_s, tags=["o9"], state=Completed())
    watched = o9_testing.new("watched", strategy=MIRRORED)
    store.write(Adopt(watched, str(mirrored.id), "node", 60.0))
    store.write(Transition("watched", S.CANCELLED, Cause.HOOK))
    store.write(CloseRun(str(mirrored.id)))
    made_old(store, "watched")
    at_work(store, "newest")
    return {tagged.id, deployed.id, mirrored.id}


async def there(client: PrefectClient, run_ids: list[UUID]) -> set[UUID]:
    these = FlowRunFilter(id=FlowRunFilterId(any_=run_ids))
    return {each.id for each in await client.read_flow_runs(flow_run_filter=these)}


async def all_has_arrived(client: PrefectClient, run_ids: Iterable[UUID]) -> bool:
    """Prefect is told of task runs and log lines some time after they were."""
    for run_id in run_ids:
        last = [text for text in await logs_of(client, run_id) if text.startswith("Finished in state")]
        if not last or await tasks_of(client, run_id) < 4:
            return False
    return True


async def logs_of(client: PrefectClient, run_id: UUID) -> list[str]:
    of_it = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    return [line.message for line in await client.read_logs(log_filter=of_it)]


async def tasks_of(client: PrefectClient, run_id: UUID) -> int:
    return len(await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))))

"""Schedules for a while, on workers alone: one worker dies with its runs, and Prefect's server is away for a fifth.

`--schedule-minutes` says for how long. Prefect's server has PostgreSQL, as its documentation advises for production: on
SQLite, a burst of late runs after the outage can block it for minutes (docs/prefect.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import o9_testing
import pytest
import zygote
from o9_testing import LINE
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.schedules import Schedule
from worker_pool import WorkerPool, kill_with_its_runs, worker_pool

from o9.aggregator.deployments import deploy, of_optimization, recurrence
from o9.aggregator.prefect_server import PrefectServer
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]
EVERY = timedelta(minutes=1)
# By series: the policy for a run that is due while the one before still runs, and how many steps of half a second.
SERIES = {"queued": ("queue", 6), "skipped": ("skip", 150), "replaced": ("replace", 150), "long": ("queue", 150)}
GOING_ON = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


@contextlib.contextmanager
def prefect_database() -> Iterator[str]:
    """The URL of a new PostgreSQL of Debian's package, which has the extension that Prefect's schema needs."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None or not list(Path("/usr/share/postgresql").glob("*/extension/pg_trgm.control")):
        pytest.skip("needs PostgreSQL with pg_trgm: the Debian package `postgresql`")
    folder, port = Path(tempfile.mkdtemp(prefix="o9-prefect-")), o9_testing.free_port()
    as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # PostgreSQL refuses to run as root
    if as_owner:
        shutil.chown(folder, "postgres")

    def run(*command: str) -> None:
        subprocess.run([*as_owner, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")

    run(f"{programs}/initdb", "-D", f"{folder}/data", "-U", "prefect", "-A", "trust", "--no-sync")
    server, log = [f"{programs}/pg_ctl", "-D", f"{folder}/data", "-w"], f"{folder}/log"
    run(*server, "-l", log, "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off", "start")
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        run(*server, "-m", "immediate", "stop")
        shutil.rmtree(folder)


class Server:
    """`prefect server start`, on one port and database."""

    def __init__(self, folder: Path, database: str, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{o9_testing.free_port()}/api"
        self._folder = folder
        self._process: zygote.Process | None = None
        self._environment = environment | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }

    async def start(self) -> None:
        port = self.url.rpartition(":")[2].partition("/")[0]
        with (self._folder / "server.log").open("ab") as log:
            self._process = zygote.start(
                ["-m", "prefect", "server", "start", "--port", port],
                env=self._environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        async with httpx.AsyncClient() as client:
            for _ in range(600):
                try:
                    if (await client.get(f"{self.url}/health", timeout=1.0)).is_success:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)


async def test_policies_hold_and_nothing_runs_twice(
    tmp_path: Path,
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    async_wait_until: Callable[..., Awaitable[Any]],
    request: pytest.FixtureRequest,
) -> None:
    minutes = request.config.getoption("--schedule-minutes")
    with o9_testing.no_process_left(60) as environment, prefect_database() as database:
        server = Server(tmp_path, database, environment)
        await server.start()
        try:
            here = PrefectServer(server.url, local=False)
            async with worker_pool(tmp_path, store_url, monkeypatch, async_wait_until, here) as pool:
                await deploy_series(pool)
                with Store(store_url) as store, pool.worker("first") as first, pool.worker("second"):
                    began = datetime.now(UTC)
                    await until(began, 0.4 * minutes)
                    kill_with_its_runs(first)
                    first.wait(30)
                    with pool.worker("third"):
                        await until(began, 0.5 * minutes)
                        server.kill()
                        await until(began, 0.7 * minutes)
                        await server.start()
                        await until(began, 1.0 * minutes)
                        await async_wait_until(lambda: unscheduled(pool), 60)
                        # Runs of 75 s, one at a time and due each minute: some wait for a turn when the schedule ends.
                        await async_wait_until(lambda: all_over(pool), 300 + 60 * minutes)
                    check(store)
        finally:
            server.kill()


def deployments_of_series(when: Schedule | None) -> list[RunnerDeployment]:
    metadata = {
        "objective": "desk:slow", "search_space": LINE, "seed": 7, "trials_per_step": 1, "max_attempts": 9,
    }  # fmt: skip
    return [
        of_optimization(
            {
                "name": f"{series} {{{{ scheduled_at }}}}",
                "total_steps": steps,
                "metadata": metadata | {"series": series},
            },
            when,
            overlap=overlap,
            name=series,
        )
        for series, (overlap, steps) in SERIES.items()
    ]


async def deploy_series(pool: WorkerPool) -> None:
    when = await recurrence(every=EVERY)
    await deploy(await asyncio.to_thread(deployments_of_series, when), pool.name)
    await pool.schedule("reconcile-states", timedelta(seconds=30))
    for series in SERIES:
        deployment = await pool.client.read_deployment_by_name(f"optimization-lifecycle/{series}")
        pool.deployments[series] = deployment.id


async def unscheduled(pool: WorkerPool) -> bool:
    """Whether the server did it: on a busy machine it answers 503 for a while."""
    try:
        await pool.unschedule(*SERIES)
    except PrefectHTTPStatusError:
        return False
    return True


async def until(began: datetime, minutes: float) -> None:
    """Wait until that many have passed since."""
    left = began + timedelta(minutes=minutes) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()))


def all_of(store: Store, series: str) -> list[Any]:
    return list(store.read(queries.page, Filter(series=series), limit=500).items)


async def all_over(pool: WorkerPool) -> bool:
    """Whether no run of a series is left in Prefect, not even one that waits for its slot and has no record yet."""
    runs = await pool.client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[pool.deployments[each] for each in SERIES])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=GOING_ON))),
    )
    return not runs


def check(store: Store) -> None:
    whole: dict[str, Any] = {}
    began: Counter[str] = Counter()
    for series, (overlap, steps) in SERIES.items():
        states = all_of(store, series)
        ends = Counter(state.status.value for state in states)
        print(series, dict(ends), [store.read(queries.holding, state.optimization_id).deaths for state in states])
        assert ends["completed"] >= 1
        assert ends.keys() <= {"completed", *(["cancelled"] if overlap == "replace" else [])}
        due = [state.metadata["scheduled_at"] for state in states]
        assert len(due) == len(set(due)), f"{series}: one run of the schedule was submitted twice"
        for state in states:
            trials = store.read(queries.trials, state.optimization_id, limit=1_000)
            assert [trial.number for trial in trials] == list(range(len(trials)))
            if state.status.value == "completed":
                assert len(trials) == steps
                values = [trial.value for trial in trials]
                assert whole.setdefault(series, values) == values  # one seed, one ledger
        began[series] = sum(bool(spans(store, state.optimization_id)) for state in states)
        if overlap == "replace":
            assert ends["cancelled"], "a run of 75 s was replaced by the next, a minute later"
        at_work = sorted(span for state in states for span in spans(store, state.optimization_id))
        for (_, end), (begin, _) in itertools.pairwise(at_work):
            assert end <= begin, f"{series}: two ran at once"
    assert began["skipped"] < began["queued"]


def spans(store: Store, name: str) -> list[tuple[str, str]]:
    """From when until when it ran, by the record."""
    found, began = [], None
    for row in store.read(queries.transitions, name):
        if row["to_status"] == "running":
            began = row["at"]
        elif began is not None:
            found.append((began, row["at"]))
            began = None
    return found

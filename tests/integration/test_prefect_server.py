"""The local Prefect server with real processes: who shares it, what each `kill -9` leaves, what lands in its database.

Every test has a Prefect home of its own; `home` is one whose database is set up already, as on a machine that has
run O9 before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import o9_testing
import prefect.settings as settings
import psutil
import pytest
import websockets
import zygote
from prefect import flow, task
from prefect.logging import get_run_logger

from o9.aggregator import prefect_server, prefect_server_process
from o9.aggregator.prefect_server import PrefectServer, ensure_prefect_server, prefect_client_settings
from o9.model.errors import OptimizationCoordinationError

START_SECONDS = 60.0
USER = """
import asyncio, json, os, sys, time
from o9.aggregator.prefect_server import ensure_prefect_server

def say(**what):
    print(json.dumps(what), flush=True)

async def main():
    async with await ensure_prefect_server(lambda text: say(report=text)) as server:
        if "fork" in sys.argv and os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        say(url=server.api_url, local=server.local)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


# Helpers


def wait_until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return value


def server_processes(home: Path) -> list[psutil.Process]:
    """Servers of `home` and the processes that set up its database; none may be a zombie either."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if prefect_server_process.__file__ in (line := process.cmdline()) and str(home) in " ".join(line):
                found.append(process)
    return found


def wait_for_no_server(home: Path, seconds: float = 10.0) -> None:
    wait_until(lambda: not server_processes(home), "no server is left", seconds)


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return clean | {"PREFECT_HOME": str(home)} | more


class User:
    """A process that uses the server until it is told to stop, or killed."""

    def __init__(self, home: Path, *flags: str, **more: str) -> None:
        self.process = zygote.start(
            ["-c", USER, *flags], env=environment(home, **more), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def says(self, word: str) -> str:
        """The next value that it says under `word`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if word in (said := json.loads(line)):
                return str(said[word])
        raise AssertionError(f"the process ended without saying {word!r}")

    def stop(self) -> None:
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def users(home: Path) -> Iterator[Callable[..., User]]:
    """Starts users of `home`; those that still run in the end are killed, and then no server may be left."""
    started: list[User] = []

    def start(*flags: str, **more: str) -> User:
        started.append(User(home, *flags, **more))
        return started[-1]

    try:
        yield start
    finally:
        for user in started:
            if user.process.poll() is None:
                user.kill()
        wait_for_no_server(home)


@contextlib.contextmanager
def here(home: Path, **more: Any) -> Iterator[None]:
    """This process's Prefect home is `home`, with no server configured."""
    values = {
        settings.PREFECT_HOME: home,
        settings.PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{home}/prefect.db",
        settings.PREFECT_MEMO_STORE_PATH: home / "memo_store.toml",
        settings.PREFECT_LOCAL_STORAGE_PATH: home / "storage",
    }
    values |= {getattr(settings, name): value for name, value in more.items()}
    restore = set() if "PREFECT_API_URL" in more else {settings.PREFECT_API_URL}
    with settings.temporary_settings(values, restore_defaults=restore):
        yield


def rows(home: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    o9_testing.give_prefect_database(tmp_path)
    return tmp_path


# Sharing


def test_processes_share_one_server_that_ends_with_the_last_of_them(home: Path) -> None:
    with users(home) as start:
        first, second = start(), start()
        assert first.says("url") == second.says("url")
        [server] = server_processes(home)
        assert os.getsid(server.pid) == server.pid, "Ctrl-C in one user's terminal must not reach it"

        first.kill()
        third = start()
        assert third.says("local") == "True"
        second.stop()
        assert len(server_processes(home)) == 1

        third.stop()
        began = time.monotonic()
        wait_for_no_server(home)
        assert time.monotonic() - began < 15.0


@pytest.mark.long  # a server's start costs four seconds of a core
def test_children_of_a_killed_user_do_not_keep_the_server(home: Path) -> None:
    with users(home) as start:
        user = start("fork")
        user.says("url")
        [orphan] = [
            child for child in psutil.Process(user.process.pid).children() if child not in server_processes(home)
        ]
        try:
            user.process.kill()
            wait_for_no_server(home)
            assert orphan.is_running()
        finally:
            orphan.kill()
            user.kill()


async def test_one_process_may_use_it_several_times_and_start_it_again(home: Path) -> None:
    with here(home):
        first, second = await asyncio.gather(ensure_prefect_server(), ensure_prefect_server())
        assert first.api_url == second.api_url
        await first.close()
        await first.close()
        assert await second.alive()

        with prefect_client_settings(second):
            third = await ensure_prefect_server()
            assert third.local, "within a flow, the server is the same shared one, and is kept alive like it"
        await second.close()
        assert await third.alive()

        [server] = server_processes(home)
        server.kill()
        assert not await third.alive()
        fourth = await ensure_prefect_server()
        assert await fourth.alive()
        assert fourth.api_url == third.api_url, "flow runs that are under way find the new server by themselves"
        assert fourth.auth_string == third.auth_string, "and are let in"
        await third.close()
        await fourth.close()
        await asyncio.to_thread(wait_for_no_server, home)


# Deaths at start


@pytest.mark.long  # a server's start costs four seconds of a core
def test_a_starter_killed_in_the_first_start_leaves_nothing_and_the_next_start_works(tmp_path: Path) -> None:
    with users(tmp_path) as start:
        starter = start()
        wait_until(lambda: len(server_processes(tmp_path)) == 2, "the server starts and sets up its database")
        starter.kill()
        wait_for_no_server(tmp_path)
        assert not (tmp_path / "prefect.db").exists()

        start().says("url")
        assert [path.name for path in tmp_path.glob(".*o9*")] == []


@pytest.mark.long  # a server's start costs four seconds of a core
def test_whoever_waits_when_the_starter_is_killed_uses_the_server_that_it_started(home: Path) -> None:
    with users(home) as start:
        pair = [start(), start()]
        starter, waiting = sorted(pair, key=lambda user: user.says("report"))
        [server] = wait_until(lambda: server_processes(home), "the starter has said it before it starts one")
        starter.kill()
        waiting.says("url")
        assert server_processes(home) == [server]


async def test_a_cancelled_start_lets_go_of_the_server(home: Path) -> None:
    with here(home):
        reports: list[str] = []
        work = asyncio.create_task(ensure_prefect_server(reports.append))
        await asyncio.to_thread(wait_until, lambda: server_processes(home), "the server is starting")
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert reports == ["starting Prefect's local server"]
        await asyncio.to_thread(wait_for_no_server, home)


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    database = tmp_path / "file" / "prefect.db"
    database.parent.touch()
    with (
        here(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{database}"),
        pytest.raises(OptimizationCoordinationError, match=r"(?s)status 1.*server\.log.*FileExistsError"),
    ):
        await ensure_prefect_server()
    wait_for_no_server(tmp_path)


# Who is let in


def auth_file(home: Path) -> Path:
    (file,) = home.glob("o9/server-*/server.auth")
    return file


def lets_in(auth_string: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(auth_string.encode()).decode()}"}


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A Prefect home that everybody may enter and that holds nothing yet; pytest's own folders are their user's."""
    folder = Path(tempfile.mkdtemp(prefix="o9-open-home-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_first_start_says_so_and_answers_nobody_but_its_owner(open_home: Path) -> None:
    with users(open_home) as start:
        user = start()
        assert "first start" in user.says("report")
        url = user.says("url")

        auth_string = auth_file(open_home).read_text()
        own = lets_in(auth_string)
        blocks = f"{url}/block_documents/filter"
        for header in ({}, lets_in("o9:"), lets_in("o9:a guess"), {"Authorization": "Bearer of nothing"}):
            assert httpx.post(blocks, json={}, headers=header).status_code == 401
            assert httpx.post(f"{url}/flow_runs/filter", json={}, headers=header).status_code == 401
        assert httpx.post(blocks, json={}, headers=own).status_code == 200
        for door in ("in", "out"):
            with pytest.raises(websockets.ConnectionClosed):
                asyncio.run(told_at(door, url, "o9:a guess"))
            assert asyncio.run(told_at(door, url, auth_string)) == "auth_success"

        page = {"Origin": "https://example.com"}
        asks_first = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        answers = [
            httpx.post(blocks, json={}, headers=own | page), httpx.get(f"{url}/health", headers=page),
            httpx.options(blocks, headers=asks_first),
        ]  # fmt: skip
        assert [answer.headers.get("access-control-allow-origin") for answer in answers] == [None] * 3
        assert answers[2].status_code == 400

        kept = [*auth_file(open_home).parent.iterdir(), *open_home.glob("prefect.db*")]
        assert {"server.auth", "server.json", "server.log", "users.lock", "prefect.db"} <= {file.name for file in kept}
        assert [file for file in kept if file.stat().st_mode & 0o077] == []
        (server,) = server_processes(open_home)
        assert auth_string not in " ".join(server.cmdline())
        if os.geteuid() == 0:
            for secret in (auth_file(open_home), Path(f"/proc/{server.pid}/environ"), open_home / "prefect.db"):
                read = subprocess.run(["cat", str(secret)], user="nobody", group=65534, extra_groups=[], check=False)
                assert read.returncode != 0
        user.stop()


async def told_at(door: str, url: str, token: str) -> Any:
    address = f"{url.replace('http', 'ws', 1)}/events/{door}"
    async with websockets.connect(address, subprotocols=[websockets.Subprotocol("prefect")]) as connection:
        await connection.send(json.dumps({"type": "auth", "token": token}))
        return json.loads(await connection.recv())["type"]


def listening(port: int) -> socket.socket | None:
    """Whoever that is, requests with the old string reach him."""
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


@pytest.mark.long  # a server's start costs four seconds of a core
async def test_on_another_port_it_lets_in_by_another_string(home: Path) -> None:
    with here(home):
        first = await ensure_prefect_server()
        (server,) = server_processes(home)
        server.kill()
        port = int(first.api_url.rpartition(":")[2].partition("/")[0])
        with await asyncio.to_thread(wait_until, lambda: listening(port), "the old port is free"):
            second = await ensure_prefect_server()
        assert (second.api_url != first.api_url, second.auth_string != first.auth_string) == (True, True)
        for handle in (first, second):
            await handle.close()
        await asyncio.to_thread(wait_for_no_server, home)


# Configured servers


async def test_a_configured_server_is_used_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with users(home) as start:
        url = start().says("url")
        wanted = "set PREFECT_API_AUTH_STRING"
        with here(home, PREFECT_API_URL=url), pytest.raises(OptimizationCoordinationError, match=wanted):
            await ensure_prefect_server()
        with here(home, PREFECT_API_URL=url, PREFECT_API_AUTH_STRING=auth_file(home).read_text()):
            async with await ensure_prefect_server() as server:
                assert (server.api_url, server.local) == (url, False)
                assert await server.alive()

        monkeypatch.setattr(prefect_server, "REACH_SECONDS", 0.5)
        nobody = "http://127.0.0.1:9/api"
        with here(home, PREFECT_API_URL=nobody), pytest.raises(OptimizationCoordinationError, match=nobody):
            await ensure_prefect_server()


async def test_a_busy_server_gets_more_time_than_one_that_is_away(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "REACH_SECONDS", 0.1)
    monkeypatch.setattr(prefect_server, "BUSY_SECONDS", 2.0)
    answers = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answers.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ntrue")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/api"
        with here(home, PREFECT_API_URL=url):
            with pytest.raises(OptimizationCoordinationError, match=r"within 2 s\. It may be busy: try again"):
                await ensure_prefect_server()
            asyncio.get_running_loop().call_later(0.5, answers.set)
            assert (await ensure_prefect_server()).api_url == url


# What flows leave in it


@task
async def double(number: int) -> int:
    return 2 * number


@flow
async def add_up(count: int) -> int:
    get_run_logger().info("adding up %d numbers", count)
    return sum([await double(number) for number in range(count)])


def run_alone(test: str) -> None:
    """Run one test of this project in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", test]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "1 passed" in told.stdout, told.stdout  # the exit code also tells of the client that Prefect leaves open


# Prefect leaves the client open with which it asks where results are stored, once a flow run (results.py, 3.8.8).
@pytest.mark.long  # a pytest and a server of its own
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
async def test_flow_runs_land_in_its_database_without_a_refused_request(
    home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if prefect_server._handles:  # Prefect's event worker, one a process, sends to the server of earlier tests
        await asyncio.to_thread(run_alone, request.node.nodeid)
        return
    answers: Counter[int] = Counter()
    send = httpx.AsyncClient.send

    async def count(client: httpx.AsyncClient, *arguments: Any, **options: Any) -> httpx.Response:
        response = await send(client, *arguments, **options)
        answers[response.status_code] += 1
        return response

    async def run(server: PrefectServer) -> list[int]:
        with prefect_client_settings(server):
            return await asyncio.gather(*(add_up(3) for _ in range(12)))

    monkeypatch.setattr(httpx.AsyncClient, "send", count)
    with here(home):
        async with await ensure_prefect_server() as server:
            assert await asyncio.create_task(run(server)) == [6] * 12
            children = psutil.Process().children(recursive=True)
            assert [child for child in children if "uvicorn" in " ".join(child.cmdline())] == []
        await asyncio.to_thread(wait_for_no_server, home)
    gc.collect()

    assert answers[503] == 0, "Prefect's client would have slept for seconds"
    assert rows(home, "select state_type, count(*) from flow_run group by 1") == [("COMPLETED", 12)]
    assert rows(home, "select state_type, count(*) from task_run group by 1") == [("COMPLETED", 36)]
    assert rows(home, "select count(*) from log where message = 'adding up 3 numbers'") == [(12,)]
    assert rows(home, "select count(*) from events where event = 'prefect.task-run.Completed'") == [(36,)]
    assert rows(home, "select count(*) from events where event = 'prefect.flow-run.Completed'") == [(12,)]


# The database


@pytest.mark.long  # it changes with Prefect's version alone, and Prefect's own migrations take 10 s
def test_a_new_database_is_the_one_that_prefect_would_have_made(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    prepare = [sys.executable, "-P", prefect_server_process.__file__, "set-up", str(ours)]
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    url = f"sqlite+aiosqlite:///{theirs}"
    running = [
        subprocess.Popen(prepare, env=environment(tmp_path)),
        subprocess.Popen(
            upgrade, env=environment(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=url), stdout=subprocess.DEVNULL
        ),
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert contents(ours) == contents(theirs)


def contents(file: Path) -> list[tuple[str, ...]]:
    """Schema and rows, the lines of each table sorted: Alembic's order of foreign keys differs from run to run."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        return sorted(tuple(sorted(line.strip(" ,\t") for line in text.split("\n"))) for text in database.iterdump())


@pytest.mark.long  # a server's start costs four seconds of a core
def test_a_database_that_appears_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    database = tmp_path / "prefect.db"
    setup = prefect_server_process._DatabaseSetup(database)
    database.write_text("the user's")
    setup.finish()
    assert database.read_text() == "the user's"
    assert list(tmp_path.iterdir()) == [database]

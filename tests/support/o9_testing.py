"""What tests with a real Prefect server share.

Importing this gives the test run, and every process it starts, a Prefect home of its own. So a conftest imports it
before anything imports Prefect, whose settings are read once. The session holds one local server, so that no test
waits for a start of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import psutil
import zygote
from zygote import MARK

from o9.store import queries

# Bounds that tests wait for are those of an idle machine; a busy one takes several times as long.
PATIENCE = 4.0
ENDED = {"completed", "failed", "cancelled", "timeout"}


def poll_pauses() -> Iterator[float]:
    """Seconds between two looks at a condition: 0.01 at first, then a tenth of the time since then, up to 0.05."""
    began = time.monotonic()
    while True:
        yield min(max(0.01, (time.monotonic() - began) / 10), 0.05)


def _own_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="o9-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "O9_"))]:
        if name != "O9_LONG_TESTS":  # pytest-xdist's workers read it after this process
            del os.environ[name]
    os.environ.pop("COLUMNS", None)  # pytest-xdist says 80; a pipe has no width
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    one, end = home / "certificate.pem", "-----END CERTIFICATE-----\n"
    one.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    os.environ["PREFECT_API_SSL_CERT_FILE"] = str(one)  # each of Prefect's clients would read 140, for 11 ms
    os.environ["O9_SPOOL_FOLDER"] = str(home / "spool")
    os.environ["O9_ALERTS_LOG"] = str(home / "alerts.log")
    os.environ["O9_API_PORT"] = "0"  # `o9 serve` in several tests at once
    return home


def _shared_folder() -> Path:
    """Made by the first process of a test run; pytest-xdist's workers and a pytest that a test starts inherit it."""
    if not (folder := os.environ.get(_SHARED)):
        folder = os.environ[_SHARED] = tempfile.mkdtemp(prefix="o9-shared-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_SHARED = "TESTS_SHARED"
ROOT = Path(__file__).parents[2]
HOME = _own_home()
SHARED = _shared_folder()
os.environ["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(SHARED / "ui")  # 17 MB


def built_once(name: str, build: Callable[[Path], None]) -> Path:
    """A file or folder that all processes of this test run share and none changes; `build` makes it for the first."""
    made = SHARED / name
    with (SHARED / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            build(SHARED / f"{name}.draft")
            (SHARED / f"{name}.draft").rename(made)
    return made


def empty_store() -> Path:
    """A SQLite store that nobody has used, to copy: making one costs 0.1 s."""

    def build(path: Path) -> None:
        from o9.store.store import Store

        Store(str(path)).close()

    return built_once("store.db", build)


def give_prefect_database(home: Path) -> None:
    """Make `home` the Prefect home of a machine on which Prefect has been before; a first start costs 10 s."""

    def build(path: Path) -> None:
        from o9.aggregator import prefect_server_process

        set_up = [sys.executable, "-P", prefect_server_process.__file__, "set-up", str(path)]
        subprocess.run(set_up, check=True, timeout=120)

    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built_once("prefect.db", build), home / "prefect.db")


def wheel() -> Path:
    """O9 as a wheel, built from a clean copy of what git knows here, and what it would take up."""

    def build(folder: Path) -> None:
        copy = folder / "checkout"
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, files):
            source, target = ROOT / name, copy / name
            if source.is_symlink() or source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)

    (built,) = built_once("wheel", build).glob("*.whl")
    return built


@cache
def session_server() -> Any:
    """The one local Prefect server of this test process, held until it ends."""
    from o9.aggregator.prefect_server import ensure_prefect_server

    give_prefect_database(HOME / "prefect")

    async def ensure() -> Any:
        return await ensure_prefect_server()

    with ThreadPoolExecutor(1) as elsewhere:  # the caller may be in an event loop already
        server = elsewhere.submit(lambda: asyncio.run(ensure())).result()
    atexit.register(server.release)
    return server


def prefect_environment() -> dict[str, str]:
    """Where processes that tests start find the session's server, and what lets them in."""
    server = session_server()
    return {"PREFECT_API_URL": server.api_url, "PREFECT_API_AUTH_STRING": server.auth_string}


def without_fsync(server: Any) -> None:
    """Of a test's own PostgreSQL: what it holds need not survive the machine."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        server.psql(f"ALTER SYSTEM SET {setting} = off;")
    server.psql("SELECT pg_reload_conf();")


def new(optimization_id: str = "", /, **fields: Any) -> Any:
    """An OptimizationState with what a test does not care about filled in; other keywords go into the metadata."""
    from OptimizationStateAggregator import (
        OptimizationPriority,
        OptimizationState,
        OptimizationStatus,
        OptimizationType,
    )

    known = set(OptimizationState.__dataclass_fields__)
    metadata = {name: value for name, value in fields.items() if name not in known}
    defaults: dict[str, Any] = {
        "optimization_id": optimization_id or f"opt-{uuid.uuid4().hex[:8]}",
        "name": "a test",
        "description": "",
        "optimization_type": OptimizationType.PARAMETER_TUNING,
        "status": OptimizationStatus.CREATED,
        "priority": OptimizationPriority.NORMAL,
        "created_at": datetime.now(),
        "updated_at": datetime.now(),
        "metadata": fields.pop("metadata", {}) | metadata,
    }
    return OptimizationState(**defaults | {name: value for name, value in fields.items() if name in known})


LINE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}


def shell_command(module: str, folder: Path, through: str = "np.f2py.subprocess") -> dict[str, Any]:
    """The fields of optimization `a`, whose objective would be subprocess.run: it takes its parameters' names as the
    command, `touch FOLDER/left`. `module` imports what `through` leads to."""
    metadata = {
        "objective": f"{module}:{through}.run",
        "search_space": {str(folder / "left"): {"type": "int", "low": 0, "high": 1}},
        "direction": "maximize",
        "seed": 1,
    }
    return {"optimization_id": "a", "total_steps": 1, "parameters": {"touch": 0}, "metadata": metadata}


async def ended(aggregator: Any, optimization_id: str, seconds: float = 60.0) -> Any:
    """The state of an optimization once it has come to an end."""
    return await reached(aggregator, optimization_id, *ENDED, seconds=seconds)


async def reached(aggregator: Any, optimization_id: str, *statuses: str, seconds: float = 60.0) -> Any:
    """The state once its status is one of `statuses`."""
    return await until(aggregator, optimization_id, lambda state: state.status.value in statuses, seconds)


async def until(aggregator: Any, optimization_id: str, condition: Callable[[Any], bool], seconds: float = 60.0) -> Any:
    """The state once it fulfils `condition`."""
    pauses, deadline = poll_pauses(), time.monotonic() + PATIENCE * seconds
    while not condition(state := await aggregator.get_optimization_status(optimization_id)):
        assert time.monotonic() < deadline, f"{optimization_id} is still {state}"
        await asyncio.sleep(next(pauses))
    return state


def ledger(store: Any, optimization_id: str) -> list[tuple[Any, ...]]:
    """What must be the same whenever a seed is: numbers, steps, parameters, values, bit for bit."""
    return [
        (trial.number, trial.step, trial.state.value, repr(trial.parameters), repr(trial.value))
        for trial in store.read(queries.trials, optimization_id)
    ]


def path_of(store: Any, optimization_id: str) -> list[str]:
    """The statuses that an optimization went through; each transition must begin where the last one ended."""
    rows = store.read(queries.transitions, optimization_id)
    befores, afters = [row["from_status"] for row in rows], [row["to_status"] for row in rows]
    assert befores == [None, *afters][: len(rows)], "the transitions have a gap"
    return afters


# Processes

# Below those that the system hands out by itself, so that nobody is given one between its choice and its use.
_PORTS = itertools.count(20_000 + os.getpid() % 100 * 100)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens, and that no other test gets."""
    while True:
        port = next(_PORTS)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def clean_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", **more}


def marked(mark: str) -> list[psutil.Process]:
    """The processes that a marked one started, itself included, however they were started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def no_process_left(seconds: float = 10.0) -> Iterator[dict[str, str]]:
    """Gives the environment for processes none of which, nor any descendant, may be alive soon after the block."""
    mark = uuid.uuid4().hex
    try:
        yield clean_environment(**{MARK: mark})
        pauses, deadline = poll_pauses(), time.monotonic() + PATIENCE * seconds
        while left := marked(mark):
            assert time.monotonic() < deadline, f"left behind: {[process.cmdline() for process in left]}"
            time.sleep(next(pauses))
    finally:
        for process in marked(mark):
            with suppress(psutil.Error):
                process.kill()


def run_script(source: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `source` as a script of its own in `folder`; the session's server serves it where it needs one."""
    session_server()
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source), encoding="utf-8")
    return zygote.run([script.name], cwd=folder, env=environment)

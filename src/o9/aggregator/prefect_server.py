"""The Prefect server that flows use: the configured one, or a local one that the processes of this machine share.

    async with await ensure_prefect_server(report=print) as server:
        with prefect_client_settings(server):
            await my_flow()

All processes with the same Prefect home, database and Prefect version share one local server. It starts with its first
user, and ends about a second after the last one has closed its handle or died. If it was killed, the next
`ensure_prefect_server` replaces it. Any thread and event loop may call that; each call returns a new handle, to be
closed once. Nothing here blocks the event loop. Needs POSIX file locks.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import httpx
import prefect
from prefect._internal.concurrency.services import _active_services
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    Settings,
    get_current_settings,
    temporary_settings,
)
from sqlalchemy.engine import make_url

from o9.aggregator import prefect_server_process as process
from o9.model.errors import OptimizationCoordinationError
from o9.model.urls import public_text, public_url

REACH_SECONDS = 10.0  # for a server that starts
BUSY_SECONDS = 15.0  # for one that accepts connections
START_SECONDS = 120.0
_ANSWER_SECONDS = 0.5
_ALIVE_SECONDS = 5.0
_DRAIN_SECONDS = 5.0
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 4_000


async def ensure_prefect_server(report: Callable[[str], None] | None = None) -> PrefectServer:
    """Return a Prefect server that answers: the configured one, or this machine's local one, started if necessary.

    report: called in the caller's event loop with a line about each thing this waits for. Raises
    OptimizationCoordinationError where the configured server cannot be reached, or the local one does not start; the
    message has the end of its log.
    """
    configured = PREFECT_API_URL.value()
    if configured and all(handle.api_url != configured for handle in _handles):
        await check_prefect_server(configured)
        return PrefectServer(api_url=configured, local=False)

    place = _Place.from_settings()
    try:
        async with asyncio.timeout(START_SECONDS):
            return await _find_or_start(place, report or (lambda _: None))
    except TimeoutError:
        hanging = place.state() if _is_locked(place.folder / process.SERVER_LOCK) else None
        remedy = f"If it hangs, end it with `kill {hanging['pid']}` and try again. " if hanging else ""
        raise OptimizationCoordinationError(
            f"Prefect's local server did not answer within {START_SECONDS:.0f} s. {remedy}{place.log_tail()}"
        ) from None


async def check_prefect_server(url: str, seconds: float | None = None) -> None:
    """Raises OptimizationCoordinationError where the server at `url` does not answer, or refuses the authentication.

    seconds: for which connections may be refused; REACH_SECONDS by default. A busy server gets BUSY_SECONDS.
    """
    seconds = REACH_SECONDS if seconds is None else seconds
    if (problem := await _problem_of(url, seconds, max(seconds, BUSY_SECONDS))) is not None:
        raise OptimizationCoordinationError(_unreachable(url, problem, seconds))


@contextmanager
def prefect_client_settings(server: PrefectServer) -> Iterator[None]:
    """Inside, flows of this task or thread, with their task runs, logs and events, use `server`."""
    context = get_settings_context()
    made = server.settings  # kept, because Prefect takes 25 ms to make them
    if made is None or made[0] is not context.settings:
        own = {PREFECT_API_AUTH_STRING: server.auth_string} if server.local else {}
        with temporary_settings(
            {PREFECT_API_URL: server.api_url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False} | own
        ) as settings:
            made = server.settings = (context.settings, settings)
    with SettingsContext(profile=context.profile, settings=made[1]):
        yield


@dataclass(eq=False)
class PrefectServer:
    """A handle to a server in use, to be closed; closing it twice does nothing."""

    api_url: str
    local: bool
    auth_string: str | None = field(default=None, repr=False)  # of a local server
    _users_lock: BinaryIO | None = field(default=None, repr=False)
    _folder: Path | None = field(default=None, repr=False)
    # A caller's settings, and the same with this server.
    settings: tuple[Settings, Settings] | None = field(default=None, init=False, repr=False)

    def gone(self) -> bool:
        """Whether the process of a local server has ended. False for a configured one. Cheap."""
        return self._folder is not None and not _is_locked(self._folder / process.SERVER_LOCK)

    async def alive(self) -> bool:
        """Whether it answers within five seconds. If not, call `ensure_prefect_server` again, and close this handle."""
        if self.local:
            return await _answers(self.api_url, _ALIVE_SECONDS)
        return await _problem_of(self.api_url, _ALIVE_SECONDS, _ALIVE_SECONDS) is None

    async def close(self) -> None:
        """Send what Prefect's client still has queued, then release the server, which may end at once."""
        try:
            # Sending stops Prefect's client in the whole process, so only the last handle does it.
            if set(_handles) == {self} and await self.alive():
                await _send_what_is_queued()
        finally:
            self.release()

    def release(self) -> None:
        """Release the server without sending what is queued; needs no event loop."""
        _handles.discard(self)
        if self._users_lock is not None:
            self._users_lock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _send_what_is_queued() -> None:
    """Make Prefect's client send the logs and events that its threads still hold; later ones start it again."""
    services = tuple(_active_services)
    deadline = time.monotonic() + _DRAIN_SECONDS
    # Draining while events are queued would print a warning.
    while time.monotonic() < deadline:
        if not any(service._queue.unfinished_tasks for service in services if isinstance(service, EventsWorker)):
            break
        await asyncio.sleep(_POLL_SECONDS)
    draining = APILogWorker.drain_all(timeout=_DRAIN_SECONDS, at_exit=False)  # all services, not only that of logs
    if inspect.isawaitable(draining):
        await draining


# Handles of this process

_handles: weakref.WeakSet[PrefectServer] = weakref.WeakSet()


def _release_all() -> None:
    for handle in tuple(_handles):
        handle.release()


# A forked child shares its parent's locks, and as an orphan would keep the server alive.
os.register_at_fork(after_in_child=_release_all)


# The local server


@dataclass(frozen=True)
class _Place:
    """Where a local server keeps its files."""

    folder: Path
    database: Path | None

    @classmethod
    def from_settings(cls) -> _Place:
        home = PREFECT_HOME.value().expanduser().resolve()
        url = PREFECT_API_DATABASE_CONNECTION_URL.value()
        database = _sqlite_file(url)
        identity = "\n".join([str(database or url), prefect.__version__, socket.gethostname()])
        key = hashlib.sha256(identity.encode()).hexdigest()[:8]
        return cls(home / "o9" / f"server-{key}", database)

    def state(self) -> dict[str, int] | None:
        """The `pid` and `port` that the last server published, if there was one."""
        file = self.folder / process.STATE
        return json.loads(file.read_bytes()) if file.exists() else None

    def log_tail(self) -> str:
        log = self.folder / process.LOG
        text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip() if log.exists() else ""
        return f"Its log, {log}, ends with:\n{public_text(text) or '(nothing)'}"


def _sqlite_file(url: str) -> Path | None:
    parsed = make_url(url)
    database = parsed.database if parsed.get_backend_name() == "sqlite" else None
    if not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(database).expanduser().resolve()


def _server_environment() -> dict[str, str]:
    """The environment of a local server, with the caller's Prefect settings."""
    preferred = {
        # By default Prefect writes states of task runs one by one, falls behind in a burst, and drops some.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # In memory, leases would be lost with the server, and the slots of lost runs would never be free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # By default Prefect copies its UI, 17 MB, into its own package, which another user may own.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(PREFECT_HOME.value().expanduser().resolve() / "o9" / "ui"),
    }
    configured = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
    configured.pop("PREFECT_API_URL", None)
    return (
        preferred
        | configured
        | {
            "PREFECT_SERVER_API_BASE_PATH": "/api",
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "",  # by default, pages of all sites may send requests
            "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
            # Registering block types takes 1.4 s, and saving a block does it, too. Without the second setting, Prefect
            # would note that they are registered, and no other server of this Prefect home would register them.
            "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",
            "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
        }
    )


async def _find_or_start(place: _Place, report: Callable[[str], None]) -> PrefectServer:
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as unless_found:
        users_lock = unless_found.enter_context(process.opened(place.folder / process.USERS_LOCK))
        await _lock(users_lock, fcntl.LOCK_SH)  # waits while a server without users ends
        # From here on, a server that starts stays up, even if the process that started it dies.
        with process.opened(place.folder / process.START_LOCK) as start_lock:
            if not process.try_lock(start_lock, fcntl.LOCK_EX):
                report("waiting for Prefect's local server, which another process is starting")
                await _lock(start_lock, fcntl.LOCK_EX)
            url = await _url_once_it_answers(place, report)
            auth_string = (place.folder / process.AUTH).read_text()
            server = PrefectServer(url, True, auth_string, users_lock, place.folder)
        unless_found.pop_all()
        _handles.add(server)
        return server


async def _lock(file: BinaryIO, kind: int) -> None:
    while not process.try_lock(file, kind):  # noqa: ASYNC110 - another process holds it
        await asyncio.sleep(_POLL_SECONDS)


async def _url_once_it_answers(place: _Place, report: Callable[[str], None]) -> str:
    """The URL of the server at `place`, started if necessary. The caller holds the start lock."""
    began, started = time.monotonic(), None
    while True:
        if _is_locked(place.folder / process.SERVER_LOCK):
            url = f"http://127.0.0.1:{state['port']}/api" if (state := place.state()) else ""
            if url and await _answers(url, _ANSWER_SECONDS):
                if started is not None:
                    report(f"Prefect's local server is ready after {time.monotonic() - began:.1f} s ({url})")
                return url
        elif started is None:
            first = place.database is not None and not place.database.exists()
            detail = " (first start on this machine: its database is being set up)" if first else ""
            report(f"starting Prefect's local server{detail}")
            started = _start(place)
        elif started.poll() is not None and not _is_locked(place.folder / process.SERVER_LOCK):
            raise OptimizationCoordinationError(
                f"Prefect's local server ended before it answered (status {started.returncode}). {place.log_tail()}"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _start(place: _Place) -> subprocess.Popen[bytes]:
    # The old server's port, if it is free, so that running flows whose server was killed find the new one.
    port = state["port"] if (state := place.state()) else 0
    (place.folder / process.STATE).unlink(missing_ok=True)  # until the new server publishes its own
    # -P: the modules beside the script must not shadow the standard library's
    command = [sys.executable, "-P", process.__file__, "serve", str(place.folder), str(port)]
    if place.database is not None:
        command.append(str(place.database))
    with process.opened(place.folder / process.LOG) as log:
        log.truncate(0)
        server = subprocess.Popen(
            command,
            env=_server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in one user's terminal must not end it
        )
    threading.Thread(target=server.wait, daemon=True, name="o9-prefect-server-reaper").start()
    return server


def _is_locked(path: Path) -> bool:
    with process.opened(path) as file:
        return not process.try_lock(file, fcntl.LOCK_SH)


async def _answers(url: str, seconds: float) -> bool:
    try:
        async with httpx.AsyncClient(timeout=seconds, trust_env=False, verify=False) as client:  # local
            return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


# A configured server


async def _problem_of(url: str, seconds: float, busy_seconds: float) -> BaseException | None:
    """None once the server at `url` answers.

    Else its error after `seconds`, or a TimeoutError if a request is still without an answer after `busy_seconds`.
    """
    until = time.monotonic() + seconds
    try:
        async with asyncio.timeout(busy_seconds):
            with temporary_settings({PREFECT_API_URL: url}):
                async with get_client() as client:
                    while (problem := await client.api_healthcheck()) is not None:
                        if time.monotonic() > until:
                            return problem
                        await asyncio.sleep(0.25)
                    await client.hello()  # the health check needs no authentication
                    return None
    except (TimeoutError, httpx.TransportError) as error:
        return error
    except httpx.InvalidURL:  # whose text may contain a part of a password
        return OptimizationCoordinationError("it is not a URL such as http://127.0.0.1:4200/api")
    except httpx.HTTPStatusError as error:
        return error if _is_refusal(error) else None


def _is_refusal(problem: BaseException) -> bool:
    return isinstance(problem, httpx.HTTPStatusError) and problem.response.status_code == httpx.codes.UNAUTHORIZED


def _unreachable(url: str, problem: BaseException, seconds: float) -> str:
    if _is_refusal(problem):
        return f"Prefect's server at {public_url(url)} refuses the authentication: set PREFECT_API_AUTH_STRING."
    if isinstance(problem, TimeoutError):
        return (
            f"Prefect's server at {public_url(url)} did not answer within {max(seconds, BUSY_SECONDS):.0f} s. "
            "It may be busy: try again, or correct PREFECT_API_URL."
        )
    return (
        f"Prefect's server at {public_url(url)} did not answer within {seconds:.0f} s "
        f"({type(problem).__name__}: {public_text(str(problem))}). "
        "Start it (`prefect server start`), correct PREFECT_API_URL, or unset it "
        "(`prefect config unset PREFECT_API_URL`) to use a local server."
    )

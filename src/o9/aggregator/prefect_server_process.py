"""The program that Prefect's local server runs: `python prefect_server_process.py serve FOLDER …`.

The process serves Prefect's own application on a free port of 127.0.0.1 for as long as it has users:

- It alone holds `server.lock` of its folder, from its start to its death.
- Each user holds `users.lock` shared. Once nobody does, the process takes that lock exclusively, and keeps it until it
  is dead. So a new user waits, and then finds no server rather than a dying one.
- `server.json` has its process id and port. The port is bound before anything is imported, so that a client can connect
  at once; its first request waits in the socket.
- `server.auth` holds the string that each request must carry (Prefect's basic authentication). All files that the
  process creates, including a new database, are readable only by their owner.

The first start sets up a new SQLite database with Prefect's own migrations, in a second process while this one imports.
Prefect checks and upgrades an existing one when it starts.

The module is started by its path, so that no package above it is imported, and imports only the standard library until
it serves.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import uvicorn
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
    from starlette.requests import Request
    from starlette.routing import Route

USERS_LOCK = "users.lock"
START_LOCK = "start.lock"
SERVER_LOCK = "server.lock"
STATE = "server.json"
AUTH = "server.auth"
LOG = "server.log"
LOGIN = "/o9/login"

_POLL_SECONDS = 0.25
_PROBE_SECONDS = 1.0  # clients probe the lock by taking it for an instant, so the server tries for this long
_SHUTDOWN_SECONDS = 5.0  # for Prefect to write its last events
_QUIET_SECONDS = 0.1
_LOG_LIMIT_BYTES = 10_000_000
_FAILED = 3


def serve(folder: Path, database: Path | None, port: int) -> int:
    """Serve until nobody uses the server; return the exit status. Listens on `port` if it is free, else on any."""
    gc.disable()  # collecting garbage during the imports would take half a second
    os.umask(0o077)
    lock = (folder / SERVER_LOCK).open("ab")
    if not _locked_within(lock, _PROBE_SECONDS):
        return 0  # another server runs
    serving: list[uvicorn.Server] = []
    threading.Thread(target=_end_with_last_user, args=(folder, serving), daemon=True, name="o9-users").start()
    listener = _listener(port)
    bound = listener.getsockname()[1]
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = _auth_string(folder, same_port=bound == port)
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{bound}/api"
    _publish(folder, STATE, json.dumps({"pid": os.getpid(), "port": bound}))
    setup = _DatabaseSetup(database) if database is not None and not database.exists() else None

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    take_write_lock_first()
    app = create_app()
    app.router.routes.insert(0, _login_page())
    if setup is not None:
        setup.finish()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 50)  # a request makes thousands of objects: the default takes a fifth of the time

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await _drain_events()
            await super().shutdown(sockets)

    server = Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_keep_alive=get_current_settings().server.api.keepalive_timeout,
            timeout_graceful_shutdown=1,
        )
    )
    serving.append(server)
    server.run(sockets=[listener])
    return 0 if server.started else _FAILED


def _login_page() -> Route:
    """The page that `o9 open` opens: it stores the authentication string where Prefect's UI reads it, and redirects.

    The string is behind the `#` of the address, which browsers do not send to the server. A wrong one is not stored.
    """
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(_LOGIN, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    return Route(LOGIN, page)


_LOGIN = """<!doctype html><meta charset="utf-8"><title>O9</title><p id="message">…</p><script>
const [key, path = "/"] = location.hash.slice(1).split("|");
fetch("/api/admin/version", {headers: {Authorization: "Basic " + key}}).then(answer => {
  if (!answer.ok) throw new Error("this address is an old one: run `o9 open` again");
  localStorage.setItem("prefect-password", key);
  location.replace(location.origin + path);
}).catch(error => document.getElementById("message").textContent = error.message);
</script>"""


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=256)
    except OSError:
        return socket.create_server(("127.0.0.1", 0), backlog=256)


def _auth_string(folder: Path, *, same_port: bool) -> str:
    """The string that each request must carry.

    It stays with the same port, so that running flows can use the new server. It changes with another port, because
    whatever listens on the old one now receives the old string.
    """
    if not (same_port and (folder / AUTH).exists()):
        _publish(folder, AUTH, f"o9:{secrets.token_urlsafe(32)}")
    return (folder / AUTH).read_text()


async def _drain_events() -> None:
    """Wait until Prefect's services have taken all events from memory; at shutdown they write only what they took."""
    from prefect.server.utilities.messaging.memory import Topic

    deadline = time.monotonic() + _SHUTDOWN_SECONDS / 2
    quiet_since = time.monotonic()
    while quiet_since + _QUIET_SECONDS > time.monotonic() < deadline:
        if any(s._queue.qsize() or s._retry.qsize() for topic in Topic._topics.values() for s in topic._subscriptions):
            quiet_since = time.monotonic()
        await asyncio.sleep(0.02)


def _end_with_last_user(folder: Path, serving: list[uvicorn.Server]) -> None:
    """End this process once nobody holds `users.lock`: cleanly if it serves, at once if it is still starting."""
    lock = (folder / USERS_LOCK).open("ab")
    while not try_lock(lock, fcntl.LOCK_EX):
        if os.fstat(sys.stdout.fileno()).st_size > _LOG_LIMIT_BYTES:
            os.ftruncate(sys.stdout.fileno(), 0)
        time.sleep(_POLL_SECONDS)
    for server in serving:
        server.should_exit = True
        time.sleep(_SHUTDOWN_SECONDS)
    os._exit(0)


def _publish(folder: Path, name: str, text: str) -> None:
    draft = folder / f"{name}.{os.getpid()}"
    draft.write_text(text)
    draft.replace(folder / name)


def opened(path: Path) -> BinaryIO:
    """Open the file to append; if it is created, only its owner can read it."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def try_lock(file: BinaryIO, kind: int) -> bool:
    """Take the lock of an open file (`fcntl.LOCK_SH` or `LOCK_EX`) without waiting."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_within(file: BinaryIO, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not try_lock(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# Prefect's transactions on SQLite


def take_write_lock_first() -> None:
    """Make Prefect's SQLite transactions take the write lock when they begin, so that they wait for each other.

    Prefect begins them DEFERRED: of two that read and then write, SQLite refuses the second at once, the API answers
    503, and the client sleeps for seconds. PostgreSQL is not changed.
    """
    from prefect.server.database import dependencies
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    class ImmediateSqlite(AioSqliteConfiguration):
        @asynccontextmanager
        async def begin_transaction(
            self, session: AsyncSession, with_for_update: bool = False
        ) -> AsyncIterator[AsyncSessionTransaction]:
            before = SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                async with session.begin() as transaction:
                    await session.connection()
                    # A session that Prefect opens inside this one, to read, must not wait for the lock.
                    SQLITE_BEGIN_MODE.set("DEFERRED")
                    yield transaction
            finally:
                SQLITE_BEGIN_MODE.reset(before)

    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = ImmediateSqlite(connection_url=url)


# A new database


class _DatabaseSetup:
    """Builds a new database beside its place, in a process of its own, and moves it there when it is complete."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._draft = database.with_name(f".{database.name}.o9-setup")
        database.parent.mkdir(parents=True, exist_ok=True)
        self._draft.unlink(missing_ok=True)
        # If this process dies, the child ends by itself, and the next start removes the draft.
        self._process = subprocess.Popen([sys.executable, "-P", __file__, "set-up", str(self._draft)])

    def finish(self) -> None:
        """Put the database in place; if that fails, Prefect sets up its own, only slower."""
        try:
            if self._process.wait() == 0:
                os.link(self._draft, self._database)  # unlike a rename, never replaces a file
        except OSError as error:
            print(f"the prepared database was not used: {error}", file=sys.stderr, flush=True)
        finally:
            self._draft.unlink(missing_ok=True)


def set_up_database(database: Path) -> None:
    """Run all of Prefect's migrations on a new SQLite file.

    Prefect runs them through aiosqlite, where each of 8,740 statements passes between threads: 9 s. On one plain
    connection that never waits for the disk they take a third of that.
    """
    gc.disable()
    import sqlalchemy
    from prefect.server.database import provide_database_interface
    from prefect.server.database.alembic_commands import alembic_upgrade
    from prefect.utilities.asyncutils import run_sync_in_worker_thread

    engine = sqlalchemy.create_engine(f"sqlite:///{database}", paramstyle="named")

    @sqlalchemy.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # as in Prefect: SQLAlchemy begins transactions, not the driver
        for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "legacy_alter_table = OFF", "foreign_keys = OFF"):
            connection.execute(f"PRAGMA {pragma}")

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    class PlainEngine:
        """The parts of an AsyncEngine and its connection that Prefect's migrations use."""

        @asynccontextmanager
        async def connect(self) -> AsyncIterator[PlainEngine]:
            yield self

        async def run_sync(self, migrate: Callable[[sqlalchemy.Connection], None]) -> None:
            with engine.connect() as connection:
                migrate(connection)

    plain = PlainEngine()

    async def plain_engine() -> PlainEngine:
        return plain

    provide_database_interface().engine = plain_engine  # type: ignore[method-assign, assignment]
    asyncio.run(run_sync_in_worker_thread(alembic_upgrade))
    engine.dispose()
    with database.open("rb") as file:
        os.fsync(file.fileno())


def main(command: str, place: str, port: str = "0", database: str = "") -> int:
    """Run as the server (`serve FOLDER PORT [DATABASE]`), or set up its database (`set-up DATABASE`)."""
    if command == "serve":
        return serve(Path(place), Path(database) if database else None, int(port))
    set_up_database(Path(place))
    return 0


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # waiting for Prefect's threads would only delay the next start

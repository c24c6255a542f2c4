"""Opening a store: from a path or URL to a SQLAlchemy engine with the current schema.

What cannot be opened raises OptimizationStoreError and is not changed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.model.files import private
from o9.model.settings import STORE_BLOCK
from o9.model.urls import public_url
from o9.store.migrations import HEAD, REVISIONS, VERSION_TABLE
from o9.store.migrations.run import create_tables, run_migrations

Durability = Literal["process", "power"]
SQLITE_BUSY_SECONDS = 60  # writers take turns of milliseconds, so after this long one of them hangs
BEGIN = "BEGIN IMMEDIATE"  # a transaction that reads before it writes would fail instead of waiting for its turn
WRITER_CACHE_KIB = 16_384
CHECKPOINT_PAGES = 8_192  # of 4 KiB
STATEMENTS_KEPT = 512  # prepared statements; each hot one has a form for 2 rows, 4, 8, …
MIGRATION_SECONDS = 600.0  # how long a process waits for another one's migration


def open_engine(url: str, durability: Durability = "process") -> Engine:
    """Return an engine on `url` (a path, sqlite:///… or postgresql://…); the schema is created or upgraded."""
    parsed = parse_url(url)
    engine = _sqlite_engine(parsed, durability) if parsed.get_backend_name() == "sqlite" else _postgres_engine(parsed)
    try:
        upgrade(engine)
    except (DBAPIError, sqlite3.Error) as error:
        engine.dispose()
        raise store_error(error, parsed) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def parse_url(url: str) -> URL:
    """Parse a URL. A path becomes a SQLite URL; `postgresql://` gets the driver that O9 uses."""
    if url.startswith(STORE_BLOCK):
        raise OptimizationStoreError(
            f"the store {url} is a Prefect block, which only commands, aggregators and flows resolve: give its URL"
        )
    if "://" not in url and not _MISTYPED.match(url):
        return URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _unreadable(url) from None  # its text may hold the password
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        if "@" in f"{parsed.host}{parsed.database}":  # part of a password, which drivers would print in errors
            raise _unreadable(url)
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise OptimizationStoreError(f"a store's URL is a path, sqlite:///… or postgresql://…, not {backend}://")
    if parsed.host and parsed.database:
        raise _unreadable(url)
    return parsed.set(drivername="sqlite")


def describe(url: URL) -> str:
    """Return the store's path or URL for messages, without the password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return public_url(url.render_as_string(hide_password=False))


# Mistyped PostgreSQL URLs and libpq strings. Taken as the name of a file, they would show the password.
_MISTYPED = re.compile(r"postgres(ql)?(\+\w+)?(:|//)|(.*\s)?password\s*=")


def _unreadable(url: str) -> OptimizationStoreError:
    named = f" {public_url(url)!r}" if "://" in url else ""
    return OptimizationStoreError(
        f"the store's URL{named} cannot be parsed: give sqlite:///PATH or postgresql://…; in a user name or password, "
        "write @ as %40, : as %3A and / as %2F"
    )


def schema_revision(connection: Connection, tables: list[str] | None = None) -> str | None:
    """Return the database's schema revision; None if it holds no store."""
    if VERSION_TABLE not in (inspect(connection).get_table_names() if tables is None else tables):
        return None
    revision: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return revision


_one_migration = threading.Lock()  # Alembic's context is global to the process


def upgrade(engine: Engine) -> None:
    """Create the tables of a new store, or upgrade those of an earlier revision. Processes take turns."""
    with engine.connect() as connection:
        revision = _checked_revision(connection)
        if engine.dialect.name == "sqlite":
            _write_ahead(connection)  # persists in the file, so only once the file is known to be a store
        if revision == HEAD:
            return
        driver: Any = connection.connection.driver_connection
        with contextlib.closing(driver.cursor()) as cursor:
            try:
                if engine.dialect.name == "postgresql":
                    from o9.store.core import postgres

                    connection.detach()  # closed afterwards
                    driver.answer_seconds = None  # a migration may change a large table
                    postgres.begin(cursor, MIGRATION_SECONDS)
                else:
                    cursor.execute(BEGIN)
                revision = _checked_revision(connection)
                if revision is None:
                    create_tables(connection)
                elif revision != HEAD:
                    with _one_migration:
                        run_migrations(connection)
            except BaseException:
                driver.rollback()
                raise
            cursor.execute("COMMIT")


def _write_ahead(connection: Connection) -> None:
    """Turn on write-ahead logging. SQLite does not wait for the lock that this needs, so it is retried."""
    until = time.monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar_one()
        except OperationalError as error:
            if "database is locked" not in str(error.orig) or time.monotonic() > until:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise OptimizationStoreError(
                f"the store {describe(connection.engine.url)} is on a file system without shared memory, such as a "
                "network drive: put it on a local disk, or use PostgreSQL"
            )
        return


def writer_cursor(engine: Engine, driver: Any) -> Any:
    """Return a cursor of the driver's connection, tuned for large transactions."""
    cursor = driver.cursor()
    if engine.dialect.name == "sqlite":
        # A large group overflows SQLite's default cache of 2 MiB, whose pages are then written and read repeatedly; and
        # most pages that its default checkpoint copies after each 4 MiB are changed again by the next group.
        cursor.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        cursor.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return cursor


def store_error(error: BaseException, url: URL) -> OptimizationStoreError:
    """Return the error, with a remedy, for what a database driver or SQLAlchemy raised."""
    where = describe(url)
    if isinstance(error, PoolTimeoutError):
        return StoreUnavailableError(f"the store {where}: all of this process's connections are in use ({error})")
    raised = error.orig if isinstance(error, DBAPIError) else error
    cause = str(raised).strip()
    if "disk I/O error" in cause and _is_full(url):
        return StoreUnavailableError(f"the store {where}: {_DISK_FULL} ({cause})")
    for sign, (passes, remedy) in _REMEDIES.items():
        if sign in cause:
            kind = StoreUnavailableError if passes else OptimizationStoreError
            return kind(f"the store {where}: {remedy} ({cause})")
    if url.get_backend_name() == "postgresql":
        state = str(getattr(raised, "sqlstate", None))
        kinds = {kind.__name__ for kind in type(raised).__mro__}  # by name: the driver may not be installed
        is_too_large = state.startswith("54")
        if state in _PASSING_STATES or (kinds & {"OperationalError", "InterfaceError"} and not is_too_large):
            remedy = _PASSING_STATES.get(state, "is PostgreSQL running, and are the host and user right?")
            return StoreUnavailableError(f"the store {where}: {remedy} ({cause})")
    return OptimizationStoreError(f"the store {where}: {cause}")


def _is_full(url: URL) -> bool:
    """Whether the disk is full; SQLite reports only an I/O error if its shared-memory file cannot grow."""
    try:
        return shutil.disk_usage(Path(str(url.database)).absolute().parent).free < LEAST_FREE_BYTES
    except OSError:
        return False


LEAST_FREE_BYTES = 65_536
_DISK_FULL = "the disk is full; free some space: nothing that was recorded is lost"
# By a part of the driver's message: whether the error may pass, and the remedy.
_REMEDIES = {
    "unable to open database file": (True, "its folder must exist and be writable"),
    "not a database": (False, "it is not a SQLite file; give another path"),
    "readonly": (True, "it is read-only; make the file and its folder writable"),
    "disk is full": (True, _DISK_FULL),
    "No space left on device": (True, _DISK_FULL),
    "disk I/O error": (True, "the disk does not respond, or the file was removed"),
    "database is locked": (True, f"another program has locked it for over {SQLITE_BUSY_SECONDS} seconds"),
    "malformed": (False, "the file is damaged; restore a backup (`o9 db backup` makes them)"),
}

# Errors of PostgreSQL that may pass, by SQLSTATE, since its messages are in the server's language.
_PASSING_STATES = {
    "25006": "it is read-only for now, as after a failover or with a full disk",
    "25P03": "this process was stopped during a transaction, which was rolled back",
    "53100": _DISK_FULL,
    "55P03": "another process has held the writers' lock for too long",
}


def _checked_revision(connection: Connection) -> str | None:
    tables = inspect(connection).get_table_names()  # once, because another process may create them meanwhile
    revision = schema_revision(connection, tables)
    if revision is not None and revision not in REVISIONS:
        raise OptimizationStoreError(
            f"the store has schema {revision}, which this release of O9 (schema {HEAD}) does not know: "
            "a newer release wrote it; install that, or give another store"
        )
    if revision is None:
        foreign = tables if connection.dialect.name == "sqlite" else {"optimization", "trial"} & set(tables)
        if foreign:
            raise OptimizationStoreError(
                f"the database belongs to another program (it has the table {sorted(foreign)[0]}): give another path"
            )
    return revision


def _sqlite_engine(url: URL, durability: Durability) -> Engine:
    if url.database in (None, "", ":memory:") or "memory" in (str(url.database), url.query.get("mode")):
        raise OptimizationStoreError("a store cannot be an in-memory database: give the path of a file")
    if url.query or str(url.database).startswith("file:"):
        raise OptimizationStoreError("a SQLite store takes a plain path, without options: sqlite:///path/to/store.db")
    path = Path(str(url.database))
    if path.is_dir():
        raise OptimizationStoreError(f"the store {path} is a folder: give the path of a file in it")
    if not path.parent.is_dir():
        raise OptimizationStoreError(f"the store {path}: the folder {path.parent} does not exist; create it first")
    if path.is_file() and not _is_sqlite(path):
        raise OptimizationStoreError(f"the store {path}: it is not a SQLite file; give another path")
    _create_private(path)
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "timeout": SQLITE_BUSY_SECONDS,
            "check_same_thread": False,
            "cached_statements": STATEMENTS_KEPT,
        },
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        cursor = connection.cursor()
        # FULL flushes the disk at each commit, NORMAL at each checkpoint of the write-ahead log.
        cursor.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
        cursor.close()
        # SQLite's own function handles only ASCII letters, PostgreSQL's handles all.
        connection.create_function("lower", 1, lambda text: text and str(text).lower(), deterministic=True)

    return engine


def _create_private(path: Path) -> None:
    """Create the file for its owner alone: SQLite would make it readable by all. Its WAL files inherit the mode."""
    if path.exists():
        return
    try:
        open(path, "ab", opener=private).close()
    except OSError as error:
        raise StoreUnavailableError(
            f"the store {path}: its folder must exist and be writable ({error.strerror})"
        ) from error


def _is_sqlite(path: Path) -> bool:
    """Whether it is a SQLite file or empty. SQLite itself would overwrite any file shorter than its header."""
    try:
        with path.open("rb") as file:
            beginning = file.read(16)
    except OSError as error:
        raise OptimizationStoreError(f"the store {path} cannot be read: {error.strerror}") from error
    return beginning in (b"", b"SQLite format 3\0")


def _postgres_engine(url: URL) -> Engine:
    try:
        from o9.store.core import postgres
    except ModuleNotFoundError as error:
        raise OptimizationStoreError("PostgreSQL needs a driver: pip install 'prefect-o9[postgres]'") from error
    return postgres.make_engine(url)

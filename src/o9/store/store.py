"""The store: one durable record of every optimization, in SQLite or PostgreSQL.

Contract, tested by `tests/store_contract` on every database:

- Thread-safe. One `Store` for a process and URL; any thread may read and write. Writing blocks until durable
  (`write`), or does so without blocking the event loop (`write_async`).
- What was acknowledged survives `kill -9` of any process at any instant. A power cut may take the last moments
  from SQLite unless it was opened with durability "power".
- A status changes only through `move` in `o9.store.optimizations.transitions`, which every operation that moves one
  goes through.
- An operation that raises has changed nothing, and does not disturb those it shared a transaction with.
- Readers never wait for writers. What is read is plain data; changing it changes nothing here.
- `get`, a page and the global counts cost the same at a thousand and at a million optimizations.

A question is a function of `o9.store.queries`, an operation a data class beside the tables that it changes
(`o9.store.optimizations`, `queue`, `statistics`, `alerts`, `synchronization`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from o9.model.errors import OptimizationStoreError, OptimizationValidationError
from o9.model.files import private
from o9.model.settings import settings
from o9.store.core.engine import Durability, describe, open_engine, schema_revision, store_error
from o9.store.core.group_commit import GroupCommit
from o9.store.core.unit import Operation
from o9.store.statistics.rollups import mark_changed, write_rollups

P = ParamSpec("P")
R = TypeVar("R")


class Store:
    """See the module's contract. Opening creates or upgrades the schema; raises OptimizationStoreError."""

    def __init__(self, url: str | None = None, *, durability: Durability | None = None) -> None:
        """`url` is a path, sqlite:///… or postgresql://…; None takes both from the settings."""
        self._engine = open_engine(url or settings().store_url, durability or settings().store_durability)
        self._commits = GroupCommit(self._engine, (mark_changed, write_rollups))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    @property
    def name(self) -> str:
        """The path or URL, without a password."""
        return describe(self._engine.url)

    @property
    def url(self) -> str:
        """What opens this store again in another process; holds the password, if there is one."""
        if self._engine.dialect.name == "sqlite":
            return str(Path(str(self._engine.url.database)).absolute())
        return self._engine.url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Commit what waits and let go of the database. A second call does nothing."""
        self._commits.close()
        self._engine.dispose()

    def write(self, operation: Operation[R]) -> R:
        return self._commits.write(operation)

    def write_async(self, operation: Operation[R]) -> asyncio.Future[R]:
        """To be awaited in the event loop that runs."""
        return self._commits.write_async(operation)

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer to one of the questions in `o9.store.queries`: `store.read(queries.get, optimization_id)`."""
        try:
            with self._engine.connect() as connection:
                try:
                    return query(connection, *args, **kwargs)
                except Exception:
                    if connection.dialect.name == "sqlite":
                        connection.invalidate()  # as long as rows are left unread, it shows the past
                    raise
        except (DBAPIError, PoolTimeoutError) as error:
            raise store_error(error, self._engine.url) from error
        except UnicodeEncodeError as error:
            raise OptimizationValidationError("text", f"{error.object!r:.80} holds a character that is none") from error

    async def read_async(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same without blocking the event loop."""
        return await asyncio.to_thread(lambda: self.read(query, *args, **kwargs))

    def schema(self) -> str | None:
        return self.read(schema_revision)

    def check(self) -> list[str]:
        """What is wrong with the database; empty where all is well."""
        return self.read(_check)

    def backup(self, path: str) -> None:
        """Copy a SQLite store, while it is in use, into a new file at `path`."""
        if self._engine.dialect.name != "sqlite":
            raise OptimizationStoreError("back up PostgreSQL with pg_dump; `o9 db backup` copies SQLite files")
        if Path(path).exists():
            raise OptimizationStoreError(f"{path} exists already; name a new file")
        if not Path(path).absolute().parent.is_dir():
            raise OptimizationStoreError(f"{path}: its folder does not exist; create it first")
        open(path, "xb", opener=private).close()
        with self._engine.connect() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            target = sqlite3.connect(path)
            try:
                source.backup(target)
            finally:
                target.close()

    def vacuum(self) -> None:
        """Write a SQLite store anew without what is free in it. Writers wait as long as that takes."""
        if self._engine.dialect.name != "sqlite":
            raise OptimizationStoreError("PostgreSQL gives free space back by itself (autovacuum); SQLite does not")
        self.read(_vacuum)


def _vacuum(connection: Connection) -> None:
    connection.exec_driver_sql("VACUUM")
    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _check(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [str(row) for row in rows if row != "ok"]

"""The store: one durable record of every optimization, in SQLite or PostgreSQL.

Contract, tested by `tests/store_contract` on every database:

- It is thread-safe: a process has one `Store` for a URL, and any thread may read and write. `write` blocks until the
  write is durable; `write_async` does not block the event loop.
- What was acknowledged survives `kill -9` of any process at any instant. A power failure may lose the last moments in
  SQLite, unless it was opened with durability "power".
- A status changes only through `move` in `o9.store.optimizations.transitions`.
- An operation that raises has changed nothing, and does not affect those that share its transaction.
- Readers never wait for writers. What they get is plain data, a copy of the record.
- `get`, a page and the global counts cost the same at a thousand and at a million optimizations.

Queries are the functions of `o9.store.queries`. Operations are data classes in the packages of their areas
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
    """The record. Opening it creates or upgrades the schema. Raises OptimizationStoreError."""

    def __init__(self, url: str | None = None, *, durability: Durability | None = None) -> None:
        """`url` is a path, sqlite:///… or postgresql://…. The defaults come from the settings."""
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
        """The path or URL, without the password."""
        return describe(self._engine.url)

    @property
    def url(self) -> str:
        """The URL or absolute path that opens this store in another process, including the password."""
        if self._engine.dialect.name == "sqlite":
            return str(Path(str(self._engine.url.database)).absolute())
        return self._engine.url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Commit waiting writes and close all connections. A second call does nothing."""
        self._commits.close()
        self._engine.dispose()

    def write(self, operation: Operation[R]) -> R:
        """Apply an operation, block until it is durable, and return its answer."""
        return self._commits.write(operation)

    def write_async(self, operation: Operation[R]) -> asyncio.Future[R]:
        """Do the same without blocking the running event loop, in which the result is awaited."""
        return self._commits.write_async(operation)

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the answer of a query in `o9.store.queries`: `store.read(queries.get, optimization_id)`."""
        try:
            with self._engine.connect() as connection:
                try:
                    return query(connection, *args, **kwargs)
                except Exception:
                    if connection.dialect.name == "sqlite":
                        connection.invalidate()  # unread rows would pin it to an old snapshot
                    raise
        except (DBAPIError, PoolTimeoutError) as error:
            raise store_error(error, self._engine.url) from error
        except UnicodeEncodeError as error:
            raise OptimizationValidationError("text", f"{error.object!r:.80} has an invalid character") from error

    async def read_async(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the same without blocking the event loop."""
        return await asyncio.to_thread(lambda: self.read(query, *args, **kwargs))

    def schema(self) -> str | None:
        return self.read(schema_revision)

    def check(self) -> list[str]:
        """Return the problems of the database; empty if there are none."""
        return self.read(_check)

    def backup(self, path: str) -> None:
        """Copy a SQLite store into a new file at `path`. It may be in use."""
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
        """Rewrite a SQLite store without its free space. Writers wait as long as that takes."""
        if self._engine.dialect.name != "sqlite":
            raise OptimizationStoreError("PostgreSQL reclaims free space by itself (autovacuum)")
        self.read(_vacuum)


def _vacuum(connection: Connection) -> None:
    connection.exec_driver_sql("VACUUM")
    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _check(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [str(row) for row in rows if row != "ok"]

"""Group commit: writes that arrive together share one transaction.

Contract. A write is an `Operation`: it names the optimizations it touches, and its `apply` decides first and
changes afterwards, so that an operation that raises has changed nothing and its neighbours in the group are
committed without it. A future is resolved only after COMMIT returned: what was acknowledged is durable. When
the database itself refuses a group, the group is rolled back and each operation tried alone, so that one bad
row fails one caller. Thread-safe; any thread may submit, whoever gets the lock commits for all who wait.
Writers of all processes take turns (SQLite's write lock, PostgreSQL's advisory lock), so the change feed is
in commit order on both.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Table, bindparam, insert, select, update
from sqlalchemy.exc import DBAPIError

from o9.model.errors import OptimizationError, OptimizationStoreError
from o9.store import tables
from o9.store.codec import now_text
from o9.store.engine import POSTGRES_WRITER_LOCK, begin_statement, explain

GROUP_LIMIT = 500
Row = dict[str, Any]
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_CHANGE = tables.table_of(tables.Change)
_PREFECT_STATE = tables.table_of(tables.PrefectState)
OPTIMIZATION = tables.table_of(tables.Optimization)
# What decisions need; the large texts stay on disk.
_WORKING = [
    OPTIMIZATION.c[name]
    for name in (
        "optimization_id", "optimization_type", "strategy", "status", "priority", "created_at", "started_at",
        "progress", "total_steps", "completed_steps", "current_performance", "performance_improvement",
        "execution_time", "content_hash", "max_attempts", "intent", "queue_key", "running_since", "attempt",
        "deaths", "fence", "version", "lease_node", "lease_expires_at", "prefect_run_id", "prefect_state_at",
    )
]  # fmt: skip

_WORKING_NAMES = tuple(column.name for column in _WORKING)


class Operation(Protocol[R_co]):
    """One write. `targets` are the optimizations whose rows `apply` reads through `unit.row`."""

    @property
    def targets(self) -> tuple[str, ...]: ...

    def apply(self, unit: UnitOfWork) -> R_co:
        """Decide, then change through `unit`; raise before the first change or not at all."""


class Statements:
    """Hot statements, compiled by SQLAlchemy once and then executed by the driver alone.

    Measured on SQLite: SQLAlchemy's execution costs 60 to 150 µs a statement, the driver's 5 to 20.
    """

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        self._inserts: dict[str, tuple[str, Sequence[str] | None]] = {}
        self._updates: dict[tuple[str, ...], tuple[str, Sequence[str] | None]] = {}
        self.select_one = self._compile(
            select(*_WORKING).where(OPTIMIZATION.c.optimization_id == bindparam("target")), ["target"]
        )

        self.known_state = self._compile(
            select(_PREFECT_STATE.c.state_id).where(_PREFECT_STATE.c.state_id == bindparam("target")), ["target"]
        )

    def insert(self, table: Table, columns: tuple[str, ...], ignore_known: bool) -> tuple[str, Sequence[str] | None]:
        key = f"{table.name}:{ignore_known}:{','.join(columns)}"
        if key not in self._inserts:
            sql, order = self._compile(insert(table), list(columns))
            self._inserts[key] = (sql + " ON CONFLICT DO NOTHING" if ignore_known else sql, order)
        return self._inserts[key]

    def update(self, columns: tuple[str, ...]) -> tuple[str, Sequence[str] | None]:
        if columns not in self._updates:
            statement = (
                update(OPTIMIZATION)
                .where(OPTIMIZATION.c.optimization_id == bindparam("target"))
                .values({OPTIMIZATION.c[name]: bindparam(f"new_{name}") for name in columns})
            )
            self._updates[columns] = self._compile(statement, None)
        return self._updates[columns]

    def upsert_counts(self, table: Table, columns: tuple[str, ...]) -> tuple[str, Sequence[str] | None]:
        sql, order = self.insert(table, columns, False)
        key = ", ".join(column.name for column in table.primary_key)
        return f"{sql} ON CONFLICT ({key}) DO UPDATE SET count = {table.name}.count + excluded.count", order

    def parameters(self, order: Sequence[str] | None, values: Row) -> Any:
        return values if order is None else tuple(values[name] for name in order)

    def _compile(self, statement: Any, columns: list[str] | None) -> tuple[str, Sequence[str] | None]:
        if not statement.is_dml:
            columns = None
        compiled = statement.compile(dialect=self._dialect, column_keys=columns)
        return str(compiled), compiled.positiontup if compiled.positional else None


class UnitOfWork:
    """One transaction's rows: read once, changed in memory, written by a few statements at the end."""

    def __init__(self, connection: Connection, cursor: Any, statements: Statements) -> None:
        """`connection` and `cursor` are of one database connection: the cursor is for the hot statements."""
        self.connection = connection
        self._cursor = cursor
        self.now = now_text()
        self._statements = statements
        self._rows: dict[str, Row | None] = {}
        self._changed: dict[str, Row] = {}
        self._state_ids: set[str] = set()
        self._inserts: dict[tuple[str, bool], tuple[Table, list[Row]]] = {}
        self.moves: dict[tuple[str, str, str], int] = {}
        self.endings: list[tuple[Row, str]] = []

    def row(self, optimization_id: str) -> Row | None:
        """The optimization's working columns as they will be after this unit's changes; None if there is none."""
        if optimization_id not in self._rows:
            sql, order = self._statements.select_one
            self._cursor.execute(sql, self._statements.parameters(order, {"target": optimization_id}))
            found = self._cursor.fetchone()
            self._rows[optimization_id] = None if found is None else dict(zip(_WORKING_NAMES, found, strict=True))
        return self._rows[optimization_id]

    def known_state(self, state_id: str) -> bool:
        """Whether a Prefect state was recorded before, in this unit or earlier."""
        if state_id in self._state_ids:
            return True
        sql, order = self._statements.known_state
        self._cursor.execute(sql, self._statements.parameters(order, {"target": state_id}))
        self._state_ids.add(state_id)
        return self._cursor.fetchone() is not None

    def update(self, row: Row, **changes: Any) -> None:
        """Change columns of the optimization that `row` stands for; its version moves by one for each unit."""
        changed = self._changed.setdefault(row["optimization_id"], {})
        if not changed:
            changes["version"] = row["version"] + 1
            changes["updated_at"] = self.now
        row.update(changes)
        changed.update(changes)

    def insert(self, table: Table, row: Row, ignore_known: bool = False) -> None:
        self._inserts.setdefault((table.name, ignore_known), (table, []))[1].append(row)

    def create(self, row: Row) -> None:
        """A new optimization: inserted at once, so that what follows in the unit may change it."""
        self.insert(OPTIMIZATION, row)
        self._write_inserts()
        self._rows[row["optimization_id"]] = {column.name: row[column.name] for column in _WORKING}

    def change(self, optimization_id: str, kind: str) -> None:
        self.insert(_CHANGE, {"optimization_id": optimization_id, "kind": kind, "at": self.now})

    def flush(self) -> None:
        """Write what is pending; needed before a statement of one's own reads the tables."""
        self._write_inserts()
        by_columns: dict[tuple[str, ...], list[Row]] = {}
        for optimization_id, changes in self._changed.items():
            values = {f"new_{name}": value for name, value in changes.items()} | {"target": optimization_id}
            by_columns.setdefault(tuple(changes), []).append(values)
        self._changed = {}
        for columns, rows in by_columns.items():
            sql, order = self._statements.update(columns)
            self._execute(sql, [self._statements.parameters(order, row) for row in rows])

    def upsert_counts(self, table: Table, rows: list[Row]) -> None:
        """Insert rows that have a `count`, or add their count to the row of the same key."""
        sql, order = self._statements.upsert_counts(table, tuple(rows[0]))
        self._execute(sql, [self._statements.parameters(order, row) for row in rows])

    def _write_inserts(self) -> None:
        pending, self._inserts = self._inserts, {}
        for (_, ignore_known), (table, rows) in pending.items():
            sql, order = self._statements.insert(table, tuple(rows[0]), ignore_known)
            self._execute(sql, [self._statements.parameters(order, row) for row in rows])

    def _execute(self, sql: str, parameters: list[Any]) -> None:
        if len(parameters) == 1:
            self._cursor.execute(sql, parameters[0])
        else:
            self._cursor.executemany(sql, parameters)


Pending = tuple[Operation[Any], "Future[Any]"]


class GroupCommit:
    """The one writer of a store in this process. `finish` runs inside each transaction, before its COMMIT."""

    def __init__(self, engine: Engine, finish: Callable[[UnitOfWork], None]) -> None:
        self._engine = engine
        self._finish = finish
        self._begin = begin_statement(engine)
        self._statements = Statements(engine)
        self._queue: deque[Pending] = deque()
        self._turn = threading.Lock()
        self._connection: tuple[Connection, Any] | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="o9-store")
        self._closed = False

    def write(self, operation: Operation[R]) -> R:
        """Apply durably and return the operation's answer; blocks until committed."""
        future = self._submit(operation)
        while not future.done():
            self._commit_waiting()
        return future.result()

    async def write_async(self, operation: Operation[R]) -> R:
        """The same without blocking the event loop. Cancelling the caller does not undo the write."""
        future = self._submit(operation)
        self._executor.submit(self._commit_waiting)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Commit what is waiting and let go of the connection."""
        self._closed = True
        self._executor.shutdown(wait=True)
        self._commit_waiting()
        with self._turn:
            self._disconnect()

    def _submit(self, operation: Operation[R]) -> Future[R]:
        if self._closed:
            raise OptimizationStoreError("the store is closed; open it again")
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()
        self._queue.append((operation, future))
        return future

    def _commit_waiting(self) -> None:
        with self._turn:
            group: list[Pending] = []
            while self._queue and len(group) < GROUP_LIMIT:
                group.append(self._queue.popleft())
            if group:
                self._commit(group)

    def _commit(self, group: list[Pending]) -> None:
        try:
            answers = self._transaction([operation for operation, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
            if len(group) > 1:
                for pending in group:
                    self._commit([pending])
            else:
                group[0][1].set_exception(self._explained(error))
            return
        except BaseException:  # Ctrl-C hits one thread; the others in the group must not wait for ever
            for _, future in group:
                future.set_exception(OptimizationStoreError("the write was interrupted; read what became of it"))
            raise
        for (_, future), answer in zip(group, answers, strict=True):
            if isinstance(answer, OptimizationError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _transaction(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        connection, cursor = self._connected()
        try:
            cursor.execute(self._begin)
            if self._engine.dialect.name == "postgresql":
                cursor.execute(f"SELECT pg_advisory_xact_lock({POSTGRES_WRITER_LOCK})")
            unit = UnitOfWork(connection, cursor, self._statements)
            answers: list[Any] = []
            for operation in operations:
                try:
                    answers.append(operation.apply(unit))
                except OptimizationError as error:
                    answers.append(error)
            unit.flush()
            self._finish(unit)
            cursor.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        return answers

    def _connected(self) -> tuple[Connection, Any]:
        if self._connection is None:
            connection = self._engine.connect()
            driver = connection.connection.driver_connection
            assert driver is not None
            self._connection = connection, driver.cursor()
        return self._connection

    def _undo(self) -> None:
        """Roll back, and give the connection up, whatever state it is in."""
        if self._connection is not None:
            connection, cursor = self._connection
            try:
                # Closing alone is not enough: SQLite keeps the lock while the error's traceback keeps the cursor.
                cursor.close()
                connection.connection.rollback()
            except self._engine.dialect.loaded_dbapi.Error:
                pass  # it was lost, and its transaction with it
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection[0].invalidate()
            self._connection[0].close()
            self._connection = None

    def _explained(self, error: Exception) -> Exception:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, self._engine.dialect.loaded_dbapi.Error):
            return error
        explained = OptimizationStoreError(explain(cause, self._engine.url))
        explained.__cause__ = error
        return explained

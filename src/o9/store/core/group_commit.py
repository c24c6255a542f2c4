"""Group commit: writes that arrive together share one transaction.

Contract. A write is an `Operation`. Its `apply` decides first and changes afterwards, so that an operation that raises
has changed nothing, and the rest of its group is committed without it. A caller gets its answer after COMMIT has
returned, so what was acknowledged is durable. If the database rejects a group, it is rolled back and each operation is
tried alone, so that one bad row fails one caller. If the store is unavailable, all waiting callers get an error at
once. If the connection is lost during COMMIT, the callers wait until the server can say whether that succeeded, so
nothing is written twice. Any thread may write; the one that gets the lock commits for all that wait. Writers of all
processes take turns (SQLite's write lock, PostgreSQL's advisory lock), so the change feed is in commit order on both.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from o9.model.errors import OptimizationError, OptimizationStoreError, StoreUnavailableError
from o9.store.core.engine import BEGIN, describe, store_error, writer_cursor
from o9.store.core.statements import Statements
from o9.store.core.unit import Hooks, Operation, UnitOfWork

if TYPE_CHECKING:
    from o9.store.core.postgres import Token

logger = logging.getLogger(__name__)
GROUP_LIMIT = 500
_INTERRUPTED = "the write was interrupted; read the record to see whether it took effect"
ASK_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A write whose caller waits: in an event loop if there is a `future`, else in a thread."""

    operation: Operation[Any]
    future: asyncio.Future[Any] | None = None
    done: bool = False
    answer: Any = None
    error: BaseException | None = None


class GroupCommit:
    """The one writer of a store in this process."""

    def __init__(self, engine: Engine, hooks: Hooks) -> None:
        self._engine = engine
        self._hooks = hooks
        self._statements = Statements(engine)
        self._queue: deque[_Waiting] = deque()
        self._turn = threading.Lock()
        self._connection: tuple[Connection, Any] | None = None
        self._name, self._transactions = uuid.uuid4().hex, 0
        self._file: tuple[int, int] | None = None
        self._writer: threading.Thread | None = None
        self._writer_start = threading.Lock()
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._called_by: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def write(self, operation: Operation[R]) -> R:
        """Apply the operation, block until it is committed, and return its answer."""
        waiting = self._enqueue(_Waiting(operation))
        while not waiting.done:
            self._commit_waiting()
        if waiting.error is None:
            answer: R = waiting.answer
            return answer
        try:
            raise waiting.error
        finally:
            del waiting  # breaks the reference cycle with the error's traceback

    def write_async(self, operation: Operation[R]) -> asyncio.Future[R]:
        """Do the same without blocking the event loop. Cancelling the caller does not undo the write."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._enqueue(_Waiting(operation, future))
        if self._called_by is not loop:
            # Wait until the loop's ready callbacks have run: its simultaneous writes then make one group, and the loop
            # does not compete with the writer, which needs the interpreter lock after each statement.
            self._called_by = loop
            loop.call_soon(self._call_writer)
        return future

    def close(self) -> None:
        """Commit waiting writes and close the connection."""
        self._closed = True
        with self._writer_start:
            if self._writer is not None:
                self._calls.put(False)
                self._writer.join()
                self._writer = None
        self._commit_waiting()
        with self._turn:
            self._disconnect()

    def _enqueue(self, waiting: _Waiting) -> _Waiting:
        if self._closed:
            raise OptimizationStoreError("the store is closed; open it again")
        self._queue.append(waiting)
        return waiting

    def _call_writer(self) -> None:
        self._called_by = None
        if self._writer is None:
            with self._writer_start:
                if self._writer is None and not self._closed:
                    self._writer = threading.Thread(target=self._serve, name="o9-store", daemon=True)
                    self._writer.start()
        self._calls.put(True)

    def _serve(self) -> None:
        while self._calls.get():
            try:
                while self._queue:
                    self._commit_waiting()
            except BaseException:  # the waiting callers have the error; later ones need this thread
                logger.critical("the store's writer was interrupted; it continues", exc_info=True)

    def _commit_waiting(self) -> None:
        with self._turn:
            group: list[_Waiting] = []
            while self._queue and len(group) < GROUP_LIMIT:
                group.append(self._queue.popleft())
            if group:
                self._commit(group)

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            self._commit_or_refuse(group)
        except BaseException:  # Ctrl-C interrupts this thread; the other callers must not wait for ever
            _refuse([waiting for waiting in group if not waiting.done], lambda: OptimizationStoreError(_INTERRUPTED))
            raise

    def _commit_or_refuse(self, group: list[_Waiting]) -> None:
        parts = deque([group])
        while parts:
            part = parts.popleft()
            rest = chain.from_iterable(parts)
            try:
                begun = self._begun()
            except Exception as error:  # noqa: BLE001 - the callers get it
                self._refuse_all([*part, *rest], error)
                return
            try:
                answers = self._transaction(*begun, [waiting.operation for waiting in part])
            except Exception as error:  # noqa: BLE001 - the callers get it
                if len(part) > 1:
                    parts.extend([waiting] for waiting in part)
                elif isinstance(self._explained(error), StoreUnavailableError):
                    self._refuse_all([*part, *rest], error)
                    return
                else:
                    _refuse(part, partial(self._explained, error))
            else:
                _answer(part, answers)

    def _refuse_all(self, group: list[_Waiting], error: Exception) -> None:
        """Fail the group and all that wait behind it, which would get the same error after as long a wait."""
        behind = [self._queue.popleft() for _ in range(len(self._queue))]
        _refuse([*group, *behind], partial(self._explained, error))

    def _transaction(
        self, connection: Connection, cursor: Any, token: Token | None, operations: Sequence[Operation[Any]]
    ) -> list[Any]:
        driver, committing = connection.connection.driver_connection, False
        try:
            unit = UnitOfWork(connection, cursor, self._statements, self._hooks)
            if len(operations) > 1:
                unit.read_ahead({target for operation in operations for target in operation.targets})
            answers: list[Any] = []
            for operation in operations:
                try:
                    answers.append(operation.apply(unit))
                except OptimizationError as error:
                    answers.append(error)
            unit.finish()
            committing = True
            cursor.execute("COMMIT")
        except BaseException as error:
            unanswered = committing and self._is_lost(error, driver, cursor)
            self._undo()
            if unanswered and token is not None and self._is_committed(token):
                return answers
            raise
        return answers

    def _is_committed(self, token: Token) -> bool:
        """Whether a transaction whose COMMIT got no answer was committed; waits until the server can say.

        This is for PostgreSQL; with SQLite, a COMMIT that fails has done nothing.
        """
        from o9.store.core import postgres

        logger.warning("the connection was lost during COMMIT; checking whether the transaction was committed")
        for delay in chain(ASK_SECONDS, repeat(ASK_SECONDS[-1])):
            try:
                _, cursor = self._connected()
                committed = postgres.is_committed(cursor, token)
            except Exception as error:
                self._undo()
                if not isinstance(self._explained(error), StoreUnavailableError):
                    raise
                self._refuse_all([], error)
            else:
                if committed is not None:
                    logger.warning("the transaction was %s", "committed" if committed else "rolled back")
                    return committed
            if self._closed:
                raise OptimizationStoreError(
                    "the connection was lost during COMMIT; read the record to see whether the last writes took effect"
                )
            time.sleep(delay)
        raise AssertionError("unreachable")

    def _begun(self) -> tuple[Connection, Any, Token | None]:
        """Begin a transaction, on a new connection if the old one was lost meanwhile."""
        known = self._connection is not None
        connection, cursor = self._connected()
        if self._file is not None and self._file != _identity(self._engine):
            raise StoreUnavailableError(
                f"the store {describe(self._engine.url)} was moved or deleted while in use: put it back, "
                "or stop this process"
            )
        driver = connection.connection.driver_connection  # psycopg's error alone does not tell whether it was lost
        try:
            token = self._begin(cursor, known)
        except BaseException as error:
            lost = self._is_lost(error, driver, cursor)
            self._undo()
            if known and lost:
                return self._begun()
            raise
        return connection, cursor, token

    def _begin(self, cursor: Any, known: bool) -> Token | None:
        """Begin, and return the token that tells later whether it was committed; None on SQLite, which needs none."""
        if self._engine.dialect.name != "postgresql":
            cursor.execute(BEGIN)
            return None
        from o9.store.core import postgres

        self._transactions += 1
        token = postgres.Token(self._name, self._transactions)
        postgres.begin(cursor, token=token)
        if not known:
            postgres.forget_writers(cursor)
        return token

    def _is_lost(self, error: BaseException, driver: Any, cursor: Any) -> bool:
        dialect = self._engine.dialect
        return isinstance(error, dialect.loaded_dbapi.Error) and dialect.is_disconnect(error, driver, cursor)

    def _connected(self) -> tuple[Connection, Any]:
        if self._connection is None:
            connection = self._engine.connect()
            driver = connection.connection.driver_connection
            assert driver is not None
            self._connection = connection, writer_cursor(self._engine, driver)
            # Writes to a file that was deleted or moved would be lost; this remembers the file that was opened first.
            self._file = self._file or _identity(self._engine)
        return self._connection

    def _undo(self) -> None:
        """Roll back and close the connection, whatever state it is in."""
        if self._connection is not None:
            connection, cursor = self._connection
            try:
                # Closing the connection is not enough: SQLite holds the lock as long as a traceback holds the cursor.
                cursor.close()
                connection.connection.rollback()
            except self._engine.dialect.loaded_dbapi.Error:
                pass  # the connection was lost, and its transaction with it
            finally:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection[0].invalidate()
            self._connection[0].close()
            self._connection = None

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, (DBAPIError, PoolTimeoutError, self._engine.dialect.loaded_dbapi.Error)):
            return error
        explained = store_error(error, self._engine.url)
        explained.__cause__ = error
        return explained


def _identity(engine: Engine) -> tuple[int, int] | None:
    """Return device and inode of the file at a SQLite store's path; None if there is none, or for PostgreSQL."""
    if engine.dialect.name != "sqlite":
        return None
    try:
        found = os.stat(str(engine.url.database))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse(group: list[_Waiting], error: Callable[[], Exception]) -> None:
    """Fail each write with an error object of its own, since raising one changes it."""
    _answer(group, [error() for _ in group], failed=True)


def _answer(group: list[_Waiting], answers: list[Any], *, failed: bool = False) -> None:
    """Give each write its answer, with one call for all of an event loop, because waking a loop is expensive."""
    loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for waiting, answer in zip(group, answers, strict=True):
        if failed or isinstance(answer, OptimizationError):
            waiting.error = answer
        else:
            waiting.answer = answer
        waiting.done = True
        if waiting.future is not None:
            loops.setdefault(waiting.future.get_loop(), []).append(waiting)
    for loop, there in loops.items():
        try:
            loop.call_soon_threadsafe(_deliver, there)
        except RuntimeError:
            continue  # the loop is closed, so its callers are gone


def _deliver(group: list[_Waiting]) -> None:
    for waiting in group:
        future = waiting.future
        if future is None or future.done():
            continue  # its caller was cancelled
        if waiting.error is not None:
            future.set_exception(waiting.error)
        else:
            future.set_result(waiting.answer)

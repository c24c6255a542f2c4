"""PostgreSQL connections on which nothing waits for ever, and transactions.

If the server hangs or the network drops packets, a statement fails after ANSWER_SECONDS. A process that is stopped in
a transaction loses it after IDLE_SECONDS, and with it the writers' lock, so that it cannot commit later. Importing this
module raises ModuleNotFoundError if the driver is not installed.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

CONNECT_SECONDS = 10
LOCK_SECONDS = 20.0  # a writer's turn takes milliseconds
IDLE_SECONDS = 10.0  # between two statements of a transaction
ANSWER_SECONDS = 60.0  # for one statement; longer than any lock that it may wait for
DAY_SECONDS = 86_400
WRITER_LOCK = 0x6F39  # the advisory lock by which writers take turns, one in each database


class Connection(psycopg.Connection[Any]):
    """A connection that closes if a statement gets no answer within `answer_seconds`; None means no limit."""

    answer_seconds: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        if self.answer_seconds is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_until(gen, time.monotonic() + self.answer_seconds), *args, **kwargs)
        except _Unanswered:
            self.pgconn.finish()
            raise


class _Unanswered(psycopg.OperationalError):
    pass


def _until(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """Wrap psycopg's exchange with the server, which is polled ten times a second, in a deadline."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _Unanswered("the server does not respond; is the network up?")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def make_engine(url: URL) -> Engine:
    """Create an engine. Connection options in the URL take precedence over the ones here."""
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": int(LOCK_SECONDS * 1000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    options = {name: value for name, value in options.items() if name not in url.query}
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, connect_args=options)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Connection:
        connection = Connection.connect(*arguments, **options)
        connection.answer_seconds = ANSWER_SECONDS
        return connection

    return engine


@dataclass(frozen=True)
class Token:
    """The mark that a committed transaction leaves: `number` in the row of its writer.

    A transaction id would not do: after a crash, the server may give the id of a lost transaction to another one.
    """

    writer: str
    number: int


def begin(cursor: psycopg.Cursor[Any], lock_seconds: float = LOCK_SECONDS, token: Token | None = None) -> None:
    """Begin a transaction, take the writers' lock, and write the token, in one exchange.

    It is READ COMMITTED whatever the server's default: a snapshot from before the lock would be out of date.
    """
    cursor.execute(
        "BEGIN ISOLATION LEVEL READ COMMITTED; "
        f"SET LOCAL lock_timeout = {int(lock_seconds * 1000)}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {int(IDLE_SECONDS * 1000)}; "
        f"SELECT pg_advisory_xact_lock({WRITER_LOCK})" + (_WRITE_TOKEN.format(token) if token else ""),
        prepare=False,
    )
    while cursor.nextset():
        pass


_WRITE_TOKEN = (
    "; INSERT INTO writer (id, number, at) VALUES ('{0.writer}', {0.number}, extract(epoch FROM now())) "
    "ON CONFLICT (id) DO UPDATE SET number = excluded.number, at = excluded.at"
)


def is_committed(cursor: psycopg.Cursor[Any], token: Token) -> bool | None:
    """Return whether the transaction was committed; None while the server is in recovery, as during a failover."""
    begin(cursor)  # waits for the writers' lock, so the transaction has ended
    cursor.execute(
        "SELECT pg_is_in_recovery(), (SELECT number FROM writer WHERE id = %s)", (token.writer,), prepare=False
    )
    in_recovery, number = cursor.fetchone() or (True, None)
    cursor.execute("ROLLBACK")
    return None if in_recovery else bool(number == token.number)


def forget_writers(cursor: psycopg.Cursor[Any]) -> None:
    """Delete the marks of writers that have written nothing for a day."""
    cursor.execute(f"DELETE FROM writer WHERE at < extract(epoch FROM now()) - {DAY_SECONDS}", prepare=False)

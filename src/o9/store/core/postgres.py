"""PostgreSQL, connected to so that nothing waits for ever, and its transactions.

A server that is stopped, or a network that swallows packets, ends in an error after ANSWER_SECONDS. A process that is
stopped in the middle of a transaction loses it after IDLE_SECONDS, and with it the writers' lock, so that it cannot
commit later. Raises ModuleNotFoundError at import where there is no driver.
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
LOCK_SECONDS = 20.0  # a writer's turn is milliseconds
IDLE_SECONDS = 10.0  # in a transaction, between two statements
ANSWER_SECONDS = 60.0  # of the server to one statement; longer than the longest that it is made to wait
DAY_SECONDS = 86_400
WRITER_LOCK = 0x6F39  # the advisory lock by which writers take turns, one for each database


class Connection(psycopg.Connection[Any]):
    """Closed where the server leaves a statement unanswered for `answer_seconds`; None waits as long as it takes."""

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
    """The same exchange with the server, which psycopg looks at ten times a second while nothing comes."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _Unanswered("the server does not answer; is the network whole?")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def make_engine(url: URL) -> Engine:
    """Where the URL has connection options of its own, these count."""
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
    """What a transaction leaves behind if it was committed: `number` in the row of its writer.

    Its id says less: after a crash of the server, another transaction may be given the id of one that was lost.
    """

    writer: str
    number: int


def begin(cursor: psycopg.Cursor[Any], lock_seconds: float = LOCK_SECONDS, token: Token | None = None) -> None:
    """Begin a transaction, take the writers' turn, and write the token, in one exchange.

    READ COMMITTED, whatever the server's default: by a snapshot older than the turn, it would decide on what was.
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
    """What became of its transaction; None while this server cannot know, as it still takes over from another."""
    begin(cursor)  # it has ended: it had the turn until then
    cursor.execute(
        "SELECT pg_is_in_recovery(), (SELECT number FROM writer WHERE id = %s)", (token.writer,), prepare=False
    )
    takes_over, number = cursor.fetchone() or (True, None)
    cursor.execute("ROLLBACK")
    return None if takes_over else bool(number == token.number)


def forget_writers(cursor: psycopg.Cursor[Any]) -> None:
    """Those who have written nothing for a day have nothing to ask."""
    cursor.execute(f"DELETE FROM writer WHERE at < extract(epoch FROM now()) - {DAY_SECONDS}", prepare=False)

"""PostgreSQL behind a network that cuts connections or drops packets, and processes stopped during a write.

Every answer is true: nothing that was acknowledged is missing, and nothing is written twice.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import zygote
from contract_steps import put, wait_for
from control_scenarios import Postgres
from o9_testing import PATIENCE
from postgres_proxy import PostgresProxy, proxied

from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.core import postgres
from o9.store.core.column_types import moment
from o9.store.core.unit import UnitOfWork
from o9.store.statistics.rankings import RecordMetrics
from o9.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[PostgresProxy]:
    with proxied(postgres_url) as one:
        yield one


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may crash."""
    one = Postgres()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def store(proxy: PostgresProxy) -> Iterator[Store]:
    with Store(proxy.url) as opened:
        put(opened, "a")
        yield opened


def measured(value: float) -> RecordMetrics:
    return RecordMetrics("a", {"sharpe": value}, moment(utc_now()))


async def record(store: Store, *values: float) -> list[BaseException | Any]:
    """Record values at the same time, and return the answers."""
    return await asyncio.gather(*[store.write_async(measured(value)) for value in values], return_exceptions=True)


def recorded(url: str) -> list[float]:
    with psycopg.connect(url) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM recorded_metric ORDER BY value").fetchall()]


def kinds(answers: list[Any]) -> set[type]:
    return {type(answer) for answer in answers if isinstance(answer, BaseException)}


# The answer to COMMIT is lost


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0)], ids=["one", "a group"])
async def test_a_commit_without_an_answer_is_acknowledged_and_written_once(
    store: Store, proxy: PostgresProxy, postgres_url: str, values: tuple[float, ...]
) -> None:
    proxy.cut_at_commit = "after"
    answers = await record(store, *values)
    assert proxy.commits_cut == 1
    assert kinds(answers) == set()
    assert recorded(postgres_url) == list(values)


async def test_a_lost_transaction_is_reported_as_unavailable(
    store: Store, proxy: PostgresProxy, postgres_url: str
) -> None:
    proxy.cut_at_commit = "before"
    answers = await record(store, 1.0)
    assert proxy.commits_cut == 1
    assert kinds(answers) == {StoreUnavailableError}
    assert recorded(postgres_url) == []
    proxy.cut_at_commit = "before"
    assert kinds(await record(store, 1.0, 2.0)) == set(), "each of a group is tried once more, alone"
    assert recorded(postgres_url) == [1.0, 2.0]


async def test_callers_get_the_outcome_of_a_commit_once_the_server_is_back(
    store: Store, proxy: PostgresProxy, postgres_url: str
) -> None:
    proxy.cut_at_commit = "after"
    proxy.refuses = False
    waiting = asyncio.ensure_future(record(store, 1.0, 2.0))
    await asyncio.to_thread(wait_for, lambda: proxy.commits_cut)
    proxy.refuses = True
    # Later writes do not wait for it.
    assert kinds(await record(store, 3.0)) <= {StoreUnavailableError}
    proxy.refuses = False
    assert kinds(await waiting) == set()
    assert {1.0, 2.0} <= set(recorded(postgres_url))


async def test_a_lost_transaction_is_not_confused_with_one_that_got_its_id(
    own_postgres: Postgres,
) -> None:
    own_postgres.set("wal_writer_delay", "10000")  # so that nothing uncommitted reaches the disk
    url = own_postgres.new_url()
    with proxied(url) as proxy, Store(proxy.url) as store, Store(url) as other:
        put(store, "a")
        proxy.cut_at_commit = "held"
        waiting = asyncio.ensure_future(record(store, 1.0))
        await asyncio.to_thread(wait_for, lambda: proxy.commits_cut)
        await asyncio.to_thread(own_postgres.down)
        await asyncio.to_thread(own_postgres.up)
        proxy.refuses, proxy.swallows = True, False
        proxy.cut()
        for value in range(2, 6):
            assert kinds(await record(other, float(value))) == set()
        proxy.refuses = False
        assert kinds(await waiting) == {StoreUnavailableError}
        assert recorded(url) == [2.0, 3.0, 4.0, 5.0]


# The network swallows


async def test_dropped_packets_end_in_an_error(
    proxy: PostgresProxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 2)
    with Store(proxy.url) as store:
        put(store, "a")
        assert store.read(queries.get, "a") is not None
        proxy.swallows = True
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(store.read_async(queries.get, "a"), 15.0 * PATIENCE)
        (told,) = await asyncio.wait_for(record(store, 1.0), 15.0 * PATIENCE)
        assert type(told) is StoreUnavailableError
        proxy.swallows = False
        proxy.cut()
        assert kinds(await record(store, 2.0)) == set()
    assert recorded(postgres_url) == [2.0]


def test_statements_have_a_time_limit_except_in_migrations(postgres_url: str) -> None:
    with Store(postgres_url) as store, store._engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.answer_seconds == postgres.ANSWER_SECONDS
        assert driver.info.get_parameters()["tcp_user_timeout"] == "20000"
    assert postgres.LOCK_SECONDS < postgres.ANSWER_SECONDS < 120


# A process is stopped


STOPPED = """
import os, signal, sys
from o9.model.errors import StoreUnavailableError
from o9.store.core import postgres
from o9.store.statistics.rankings import RecordMetrics
from o9.store.store import Store

postgres.IDLE_SECONDS = 1.0

class Stopped(RecordMetrics):
    def apply(self, unit):
        answer = super().apply(unit)
        unit.flush()
        print("holds the lock", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return answer

with Store(sys.argv[1]) as store:
    try:
        store.write(Stopped("a", {"sharpe": 1.0}, "2026-01-01T00:00:00.000000+00:00"))
    except StoreUnavailableError:
        print("was refused", flush=True)
"""


def test_a_process_stopped_in_a_transaction_blocks_no_writer_and_commits_nothing(postgres_url: str) -> None:
    with Store(postgres_url) as store:
        put(store, "a")
        with zygote.start(["-c", STOPPED, postgres_url], stdout=subprocess.PIPE) as stopped:
            try:
                assert stopped.stdout is not None
                assert stopped.stdout.readline() == "holds the lock\n"
                store.write(measured(2.0))
                stopped.send_signal(signal.SIGCONT)
                assert stopped.stdout.readline() == "was refused\n"
            finally:
                stopped.send_signal(signal.SIGCONT)
                stopped.kill()
    assert recorded(postgres_url) == [2.0]


# The server takes no writes


async def test_a_read_only_server_is_unavailable(postgres_url: str) -> None:
    with Store(postgres_url) as store, psycopg.connect(postgres_url, autocommit=True) as other:
        put(store, "a")
        database = other.info.dbname
        other.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        with Store(postgres_url) as newly_connected:
            assert kinds(await record(newly_connected, 1.0, 2.0)) == {StoreUnavailableError}
            other.execute("SET default_transaction_read_only = off")
            other.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
            assert kinds(await record(newly_connected, 1.0, 2.0)) == set()
    assert recorded(postgres_url) == [1.0, 2.0]


async def test_a_row_that_is_too_large_fails_only_its_writer(postgres_url: str) -> None:
    """PostgreSQL's indexes take no key of 1 MB."""
    with Store(postgres_url) as store:
        put(store, "a")
        name = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(400_000))
        refused, written = await asyncio.gather(
            store.write_async(Unindexable(name)),
            store.write_async(measured(1.0)),
            return_exceptions=True,
        )
    assert type(refused) is OptimizationStoreError
    assert not isinstance(written, BaseException)


@dataclass(frozen=True)
class Unindexable:
    name: str
    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> None:
        unit.connection.exec_driver_sql("INSERT INTO policy (name, config, at) VALUES (%s, '{}', '')", (self.name,))

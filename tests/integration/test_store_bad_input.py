"""Stores that cannot be opened, read or written: the error names a remedy, and existing data is not damaged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import o9_testing
import psycopg
import pytest
from contract_reports import healthy, record_report
from contract_steps import at_work, new, put, record_of, trial
from sqlalchemy import create_engine

from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.store import queries
from o9.store.core import engine
from o9.store.core.unit import UnitOfWork
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Create
from o9.store.store import Store


def refusal(url: str) -> str:
    with pytest.raises(OptimizationStoreError) as refused:
        Store(url)
    return str(refused.value)


def test_a_failed_read_does_not_pin_later_ones_to_an_old_snapshot(store_url: str) -> None:
    with Store(store_url) as store:
        for name in ("a", "b"):
            put(store, name)
            record_report(store, healthy(name))
        with contextlib.closing(sqlite3.connect(store_url)) as connection, connection:
            connection.execute("UPDATE health_report SET report = '{' WHERE optimization_id = 'b'")
        with pytest.raises(ValueError, match="column 2") as kept:
            store.read(queries.health_reports)
        put(store, "c")
        assert (store.read(queries.get, "c") is not None, kept.value is not None) == (True, True)


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder: give the path of a file in it" in refusal(str(tmp_path))


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "store.db"
    assert f"{path.parent} does not exist; create it" in refusal(str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"strategy,sharpe\nmomentum,1.2\n" * 100, b"to do: buy low", b"SQLite format 3\0" + bytes(range(256)) * 40],
    ids=["text", "a short note", "the beginning of a SQLite file"],
)
def test_a_file_that_is_not_sqlite(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(content)
    message = refusal(str(path))
    assert "give another path" in message or "restore a backup" in message
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_another_programs_database(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "portfolio.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute("CREATE TABLE holdings (symbol TEXT)")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    assert "belongs to another program (it has the table holdings): give another path" in refusal(str(path))
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_postgresql_database(new_postgres_url: str) -> None:
    with psycopg.connect(new_postgres_url) as connection:
        connection.execute("CREATE TABLE trial (patient TEXT)")
    assert "belongs to another program (it has the table trial)" in refusal(new_postgres_url)
    with psycopg.connect(new_postgres_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("trial",)]


def test_a_newer_schema(store_url: str) -> None:
    with Store(store_url) as store:
        put(store, "a")
    connection = sqlite3.connect(store_url)
    connection.execute("UPDATE o9_schema SET version_num = '9999'")
    connection.commit()
    connection.close()
    content = Path(store_url).read_bytes()
    message = refusal(store_url)
    assert "schema 9999" in message
    assert "newer" in message
    assert Path(store_url).read_bytes() == content


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", ":memory:"])
def test_memory(url: str) -> None:
    assert "in-memory" in refusal(url)


@pytest.mark.parametrize("url", ["sqlite:///file::memory:?uri=true", "sqlite:////tmp/x.db?mode=ro", "file:x.db"])
def test_options_of_sqlite(url: str) -> None:
    assert "plain path, without options" in refusal(url)


@pytest.mark.parametrize("url", ["mysql://user@host/db", "mongodb://host", "http://[", "postgres://host/db", "://"])
def test_another_kind_of_database(url: str) -> None:
    assert "postgresql://" in refusal(url) or "cannot be read" in refusal(url)


def test_a_missing_postgresql_server(postgres_url: str) -> None:
    port = o9_testing.free_port()
    began = time.monotonic()
    message = refusal(f"postgresql://ann:secret@127.0.0.1:{port}/o9")
    assert time.monotonic() - began < 15
    assert "is PostgreSQL running" in message
    assert "secret" not in message
    assert "does not exist" in refusal(postgres_url.replace("/o9_", "/no_such_"))


def test_a_read_only_file(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "4m") as folder:
        path = folder / "store.db"
        with Store(str(path)) as store:
            put(store, "a")
        content = path.read_bytes()
        make_read_only(folder)
        assert "it is read-only" in refusal(str(path)) or "writable" in refusal(str(path))
        assert path.read_bytes() == content
        assert "writable" in refusal(str(folder / "other.db")) or "read-only" in refusal(str(folder / "other.db"))


def test_a_full_disk(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "1m") as folder, Store(str(folder / "store.db")) as store:
        known = fill(store)
        assert known
        assert_all_there(store, known)
        resize(folder, "8m")
        put(store, "afterwards", parameters={"x": "y" * 20_000})
        assert_all_there(store, known)
        assert store.check() == []


def test_a_full_disk_anywhere(store_url: str) -> None:
    """By SQLite's page limit, which needs no mount; a step is refused as a whole, and can be committed again."""

    class Limit:
        targets: tuple[str, ...] = ()

        def __init__(self, pages: int) -> None:
            self.pages = pages

        def apply(self, unit: UnitOfWork) -> int:
            statement = f"PRAGMA max_page_count={self.pages}"
            return int(unit.connection.exec_driver_sql(statement).scalar_one())

    with Store(store_url) as store:
        fence = at_work(store, "a").fence
        step = CommitStep("a", fence, 0, [trial(n, error="x" * 9_000) for n in range(30)], {"x": 1})
        limit = store.write(Limit(1)) + 8  # the limit cannot be below the present size
        before = record_of(store, "a")
        for _ in range(2):
            store.write(Limit(limit))  # again, since a refused write opens a new connection
            with pytest.raises(OptimizationStoreError, match="disk is full; free some space"):
                store.write(step)
            assert record_of(store, "a") == before
        assert store.write(step).completed_steps == 1
        assert len(store.read(queries.trials, "a")) == 30


def test_a_refused_write_holds_no_lock(store_url: str) -> None:
    """After the database has rejected a write, neither this process nor another has to wait."""
    with Store(store_url) as store, Store(store_url) as other:
        fence = at_work(store, "a").fence
        errors = []
        for wrong in ([trial(0), trial(0)], [trial(0, parameters={"x": {1}})], [trial(0, parameters={"x": "\ud800"})]):
            with pytest.raises((OptimizationStoreError, TypeError, UnicodeEncodeError)) as refused:
                store.write(CommitStep("a", fence, 0, wrong, {}))
            errors.append(refused)  # keeps the traceback, its frames and their objects alive
            began = time.monotonic()
            put(other, f"other-{len(errors)}")
            put(store, f"own-{len(errors)}")
            assert time.monotonic() - began < 15
        assert store.write(CommitStep("a", fence, 0, [trial(0)], {})).completed_steps == 1


def test_a_backup(store_url: str, tmp_path: Path) -> None:
    with Store(store_url) as store:
        at_work(store, "a")
        store.backup(str(tmp_path / "copy.db"))
        put(store, "later")
        for path, words in [("copy.db", "exists already"), ("missing/copy.db", "does not exist; create it")]:
            with pytest.raises(OptimizationStoreError, match=words):
                store.backup(str(tmp_path / path))
        with Store(str(tmp_path / "copy.db")) as copy:
            assert copy.check() == []
            assert copy.read(queries.transitions, "a") == store.read(queries.transitions, "a")
            assert copy.read(queries.get, "later") is None


def test_a_deleted_store(store_url: str) -> None:
    with Store(store_url) as store:
        put(store, "a")
    Path(store_url).write_bytes(b"no longer a database" * 1000)
    assert "not a SQLite file" in refusal(store_url)


def fill(store: Store) -> list[str]:
    """Write until the disk is full, and return the ids of what was acknowledged."""
    known: list[str] = []

    async def write_all() -> list[Any]:
        states = [new(f"a{n}", parameters={"x": "y" * 20_000}) for n in range(100)]
        answers = await asyncio.gather(*(store.write_async(Create(state)) for state in states), return_exceptions=True)
        return list(zip(states, answers, strict=True))

    for state, answer in asyncio.run(write_all()):
        if isinstance(answer, OptimizationStoreError):
            assert "the disk is full; free some space" in str(answer)
        else:
            assert answer[1] is True
            known.append(state.optimization_id)
    assert len(known) < 100
    return known


def assert_all_there(store: Store, known: list[str]) -> None:
    for key in known:
        state = store.read(queries.get, key)
        assert state is not None
        assert state.parameters == {"x": "y" * 20_000}
        assert len(store.read(queries.transitions, key)) == 1
    recorded = {s.optimization_id for s in store.read(queries.page, limit=1000).items}
    assert recorded - {"afterwards"} == set(known)


class disk:
    """A small file system mounted at `folder`. It skips the test if mounting is not allowed."""

    def __init__(self, folder: Path, size: str) -> None:
        self._folder, self._size = folder, size

    def __enter__(self) -> Path:
        self._folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self._folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small disk needs root")
        return self._folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=True)


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def test_a_drive_without_shared_memory(tmp_path: Path) -> None:
    """SQLite raises no error but keeps another journal mode; "unix-dotfile" behaves like a network drive."""
    path = f"file:{tmp_path / 'store.db'}?vfs=unix-dotfile"
    other = create_engine("sqlite://", creator=lambda: sqlite3.connect(path, uri=True), isolation_level="AUTOCOMMIT")
    with pytest.raises(OptimizationStoreError):
        engine.upgrade(other)
    other.dispose()


def test_more_threads_than_connections(store_url: str) -> None:
    with Store(store_url) as store, contextlib.ExitStack() as taken:
        store._engine.pool._timeout = 0.1  # type: ignore[attr-defined]
        for _ in range(15):
            taken.enter_context(store._engine.connect())
        with pytest.raises(StoreUnavailableError):
            store.read(queries.get, "a")
        with pytest.raises(StoreUnavailableError):
            put(store, "a")


def test_a_stuck_lock_delays_a_group_once(store_url: str, monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_SECONDS", 1)
    with Store(store_url) as store, contextlib.closing(sqlite3.connect(store_url)) as other:
        put(store, "a")
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with ThreadPoolExecutor(50) as threads:
            writes = [threads.submit(put, store, f"b{n}") for n in range(50)]
            assert {type(write.exception()) for write in writes} == {StoreUnavailableError}
        assert time.monotonic() - began < 25.0, "one after the other, they would have waited for 50 seconds"
        other.rollback()
        put(store, "c")

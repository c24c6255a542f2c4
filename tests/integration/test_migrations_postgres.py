"""A PostgreSQL store of each released schema, with data: brought up to date it reads as the SQLite file of then does.

Its tables are made by the migrations up to that schema, its rows are those of `tests/data/store-REVISION.db`, whose own
upgrade `test_migrations.py` looks at in detail.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from contract_steps import assert_counts_are_true, put, status_of, trial
from psycopg import sql

from o9.model.errors import OptimizationStoreError
from o9.model.states import OptimizationStatus as S
from o9.store.core import engine
from o9.store.core.base import metadata
from o9.store.migrations import HEAD, REVISIONS, VERSION_TABLE, run
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store

DATA = Path(__file__).parent.parent / "data"
OLD = REVISIONS[:-1]
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def old_store(new_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`old_store(revision)` gives the URL of a PostgreSQL store at that schema, with the rows of the SQLite file."""

    def make(revision: str) -> str:
        with monkeypatch.context() as then:
            for module in (engine, run):
                then.setattr(module, "HEAD", revision)
            engine.open_engine(new_postgres_url).dispose()
        with psycopg.connect(new_postgres_url) as target, closing(sqlite3.connect(file_of(revision))) as source:
            tables = [row[0] for row in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                if table != VERSION_TABLE and not table.startswith("sqlite_"):
                    copy_table(source, target, table)
        return new_postgres_url

    return make


def file_of(revision: str) -> Path:
    return DATA / f"store-{revision}.db"


def copy_table(source: sqlite3.Connection, target: psycopg.Connection[Any], table: str) -> None:
    cursor = source.execute(f'SELECT * FROM "{table}"')
    names = [column[0] for column in cursor.description]
    rows = cursor.fetchall()
    with target.cursor() as into:
        if rows:
            insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, names)),
                sql.SQL(", ").join([sql.Placeholder()] * len(names)),
            )
            into.executemany(insert, rows)
        serial = into.execute("SELECT pg_get_serial_sequence(%s, 'id')", [table]) if "id" in names else None
        if serial is not None and (sequence := (serial.fetchone() or [None])[0]) and rows:
            into.execute("SELECT setval(%s, %s)", [sequence, max(row[names.index("id")] for row in rows)])


def rows_of_postgres(url: str) -> Rows:
    """All rows of all tables, in an order of their own."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name: found(connection.execute(f'SELECT * FROM "{name}"').fetchall()) for (name,) in tables}


def rows_of_sqlite(path: Path) -> Rows:
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: found(connection.execute(f'SELECT * FROM "{name}"').fetchall())
            for (name,) in tables
            if not name.startswith("sqlite_")
        }


def found(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def everything(store: Store) -> Iterator[tuple[str, Any]]:
    """What a store says, by the words of its own readers."""
    names = [state.optimization_id for state in store.list().items]
    for name in names:
        for ask in (
            store.get, store.holding, store.transitions, store.trials, store.trial_counts, store.fruitless_steps,
            store.baseline, store.provenance, store.repetition, store.metrics, store.recordings, store.checkpoint,
            store.intents, store.prefect_states, store.known_states, store.queueing, store.health_report,
        ):  # fmt: skip
            yield f"{ask.__name__} of {name}", ask(name)
        yield f"returns of {name}", [store.trial(name, each.number) for each in store.trials(name)]
    yield "family", store.family_trials("prices-2022", "broken")
    for span in ("hour", "day", "month"):
        yield span, store.windows(span, "2000", "9999")
    for metric in store.ranked_metrics():
        yield metric, store.ranked(metric, "maximize", 10, largest_first=True)
    for ask_all in (
        store.counts, store.endings, store.totals, store.priorities, store.ranked_metrics, store.policies,
        store.health_reports, store.nodes, store.last_transition, store.last_change, store.schema, store.check,
        store.alerts.page, store.alerts.counts, store.alerts.firing, store.alerts.notifications,
        store.alerts.suppressed, store.alerts.silences, store.alerts.groups, store.alerts.open_episodes,
        store.alerts.channels, store.alerts.rule_standings, store.alerts.read_up_to,
    ):  # fmt: skip
        yield ask_all.__name__, ask_all()


@pytest.mark.parametrize("revision", OLD)
def test_an_old_store_keeps_its_rows_and_figures(
    revision: str, old_store: Callable[[str], str], tmp_path: Path
) -> None:
    url = old_store(revision)
    before = rows_of_postgres(url)
    assert before.pop(VERSION_TABLE) == [(revision,)]
    expected = rows_of_sqlite(file_of(revision))
    del expected[VERSION_TABLE]
    assert before == expected, "the store was not filled as the file is"
    assert len(before["optimization"]) == 4

    beside = Path(shutil.copy(file_of(revision), tmp_path / "store.db"))
    with Store(url) as store, Store(str(beside)) as other:
        assert store.schema() == HEAD
        assert dict(everything(store)) == dict(everything(other))
        assert store.check() == []
        assert_counts_are_true(store)
        with store._engine.connect() as connection:
            options = {"compare_type": True, "version_table": VERSION_TABLE}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    assert rows_of_postgres(url) == rows_of_sqlite(beside)


@pytest.mark.parametrize("revision", OLD)
def test_work_goes_on_in_an_old_store(revision: str, old_store: Callable[[str], str]) -> None:
    with Store(old_store(revision)) as store:
        last = store.last_transition()
        claimed = store.write(Claim("node", 1, 60.0))
        assert claimed is not None
        assert claimed.optimization_id == "waiting"
        for status in (S.INITIALIZING, S.RUNNING):
            store.write(Transition("waiting", status, Cause.HOOK, fence=claimed.fence))
        store.write(CommitStep("waiting", claimed.fence, 0, [trial(0)], {}, {"m": 1.0}))
        store.write(Transition("waiting", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
        put(store, "new")
        assert (status_of(store, "waiting"), status_of(store, "new")) == (S.COMPLETED, S.CREATED)
        assert [row["to_status"] for row in store.transitions_since(last)] == [
            "initializing", "running", "completed", "created",
        ]  # fmt: skip
        assert_counts_are_true(store)
        assert store.check() == []


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(old_store: Callable[[str], str]) -> None:
    url = old_store(OLD[0])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE rule_standing (id int)")  # which one of the last migrations is to make
    before = rows_of_postgres(url)
    with pytest.raises(OptimizationStoreError, match="rule_standing"):
        Store(url)
    assert rows_of_postgres(url) == before
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE rule_standing")
    with Store(url) as store:
        assert store.schema() == HEAD
        assert len(store.list().items) == 4

"""The schema: a new database matches the tables, and a store of each released schema opens and reads back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from contract_steps import assert_counts_are_true, put, status_of, trial
from sqlalchemy import Connection, create_engine, inspect, select, text

from o9.model.errors import OptimizationStoreError
from o9.model.states import OptimizationStatus as S
from o9.model.states import TrialState
from o9.model.trial import Ran
from o9.store import queries
from o9.store.alerts.outbox import BeginTry
from o9.store.core import engine
from o9.store.core.base import metadata
from o9.store.core.column_types import pack_returns
from o9.store.migrations import HEAD, REVISIONS, VERSION_TABLE, run
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.provenance import Baseline
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("database", ["new_store_url", "new_postgres_url"])
def test_a_new_database_matches_the_tables(database: str, request: pytest.FixtureRequest) -> None:
    with Store(request.getfixturevalue(database)) as store:
        assert store.schema() == HEAD
        assert differences(store) == []


def test_every_schema_has_its_file() -> None:
    assert {path.name for path in DATA.glob("store-*.db")} == {f"store-{revision}.db" for revision in REVISIONS}


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_a_store_of_every_schema_opens_and_reads_back(
    database: str, revision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(shutil.copy(file_of(revision), tmp_path / "store.db"))
    if database == "PostgreSQL":
        url = request.getfixturevalue("new_postgres_url")
        Store(url).close()
        copy_rows(file_of(revision), url)
    with Store(url) as store:
        assert store.schema() == HEAD
        assert differences(store) == []
        assert store.check() == []
        statuses = {s.optimization_id: s.status for s in store.read(queries.page).items}
        assert statuses == {"done": S.COMPLETED, "broken": S.FAILED, "waiting": S.CREATED, "名字-🚀": S.PAUSED}
        assert_counts_are_true(store)
        done = store.read(queries.get, "done")
        assert done is not None
        assert (done.progress, done.completed_steps, done.current_performance) == (1.0, 2, 1.5)
        assert [row["to_status"] for row in store.read(queries.transitions, "done")] == [
            "created", "initializing", "running", "completed",
        ]  # fmt: skip
        first, second = store.read(queries.trials, "done")
        assert (first.parameters, first.value, first.metrics) == ({"fast": 5, "slow": 50.5}, 1.5, {"turnover": 3.1})
        assert (second.state, second.error) == (TrialState.FAILED, "ZeroDivisionError: division by zero")
        whole = store.read(queries.trial, "done", 0)
        assert whole is not None
        assert (whole.returns, whole.periods_per_year) == ((0.01, -0.02, 5e-324), 252.0)
        assert whole.dates == (0.0, 86_400.0, 172_800.0)
        assert store.read(queries.outputs, "done") == [{"step": 0, "number": 0, "trial": 0, "text": "慢\n", "cut": 3}]
        assert store.read(queries.look, "done", 0) is not None
        assert whole.hold_out_returns == (0.03, -0.01)
        assert store.read(queries.baseline, "done") == Baseline(pack_returns((0.0, 0.0, 0.01)), None)
        assert store.read(queries.provenance, "done") == [Ran(1, "crossover", "c1", "prices-2022", '{"fast":{}}')]
        tried = store.read(queries.family_trials, "prices-2022", "done")
        assert (tried.counts, list(tried.returns)) == ({"completed": 1, "failed": 1}, [("done", 0)])
        assert_alerts_read_back(store)
        assert {row["node_id"]: row["expected"] for row in store.read(queries.cluster_nodes) if row["expected"]} == {
            "node-2": {"host": "東京"}
        }
        published = [
            (row["optimization_id"], row["node"], row["update"]) for row in store.read(queries.published, 0).changes
        ]
        assert published == [("done", "node-1", {"regime": "慢"})]
        assert store.read(queries.rule_states) == {("slow", "done"): '{"phase":"pending"}'}
        assert store.read(queries.rule_positions) == {"transition": 7}
        assert store.read(queries.checkpoint, "done") == {"step": 1, "rng": [0.1, 1e308]}
        assert [(row["name"], row["value"]) for row in store.read(queries.metrics, "done")] == [
            ("best", 1.5),
            ("best", 1.5),
        ]
        assert store.read(queries.prefect_states, "done")[0]["run_name"] == "fast-fox"
        waiting = store.read(queries.holding, "waiting")
        assert waiting is not None
        assert (waiting.series, waiting.scheduled_at) == ("nightly", "2026-01-02T03:04:05.000000+00:00")
        claimed = store.write(Claim("node", 1, 60.0))
        assert claimed is not None
        assert claimed.optimization_id == "waiting"
        for status in (S.INITIALIZING, S.RUNNING):
            store.write(Transition("waiting", status, Cause.HOOK, fence=claimed.fence))
        store.write(CommitStep("waiting", claimed.fence, 0, [trial(0)], {}))
        store.write(Transition("waiting", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
        assert status_of(store, "waiting") is S.COMPLETED
        assert_counts_are_true(store)


def assert_alerts_read_back(store: Store) -> None:
    over, fires = store.read(queries.alerts)
    assert (over["alert_id"], over["resolved_at"]) == ("over", "2026-01-01T01:00:00.000000+00:00")
    assert (fires["title"], fires["metadata"], fires["acknowledged_by"]) == (
        "慢",
        {"evidence": {"seconds": 1.5}},
        "ann",
    )
    assert [one.labels for one in store.read(queries.open_episodes)] == ['{"title":"慢"}'] * 2
    assert store.read(queries.silences)[0]["pattern"] == "x"
    assert [(row["status"], len(row["tries"])) for row in store.read(queries.notifications)] == [
        ("pending", 0),
        ("sent", 1),
    ]
    assert store.read(queries.suppressed, alert_id="over")[0]["by"] == "s1"
    assert store.read(queries.alert_groups) == {"g": (fires["at"], '{"n":2}')}
    assert store.write(AcquireLeadership("alerts", "node", 60.0)) == 2
    again = store.write(BeginTry("log", "node", 60.0))
    assert isinstance(again, dict)
    assert (again["number"], again["firing"], again["labels"]) == (2, ["fires"], {"title": "慢"})


@pytest.fixture(params=["store_url", "postgres_url"])
def old_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with one optimization, before a release that adds a column and a table."""
    url = str(request.getfixturevalue(request.param))
    with Store(url) as store:
        put(store, "a")
    versions = tmp_path / "versions"
    shutil.copytree(run.VERSIONS, versions)
    (versions / "next.py").write_text(NEXT_REVISION)
    monkeypatch.setattr(run, "VERSIONS", versions)
    for module in (engine, run):
        monkeypatch.setattr(module, "HEAD", "next")
    monkeypatch.setattr(engine, "REVISIONS", (*REVISIONS, "next"))
    return url


NEXT_REVISION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "next", "{HEAD}"

def upgrade():
    op.add_column("optimization", sa.Column("mood", sa.Text(), nullable=True))
    op.create_table("weather", sa.Column("day", sa.Text(), primary_key=True))
"""


def test_an_old_store_is_upgraded_when_it_is_opened(old_store: str) -> None:
    with Store(old_store) as store, store._engine.connect() as connection:
        assert store.schema() == "next"
        assert [s.optimization_id for s in store.read(queries.page).items] == ["a"]
        found = connection.execute(text("SELECT optimization_id, mood FROM optimization")).all()
        assert [tuple(row) for row in found] == [("a", None)]
        assert inspect(connection).has_table("weather")


def test_a_failed_upgrade_leaves_the_store_unchanged(old_store: str) -> None:
    with begin(old_store) as connection:
        connection.execute(text("CREATE TABLE weather (id int)"))
    with pytest.raises(OptimizationStoreError, match="weather"):
        Store(old_store)
    with begin(old_store) as connection:
        assert engine.schema_revision(connection) == HEAD
        assert "mood" not in {column["name"] for column in inspect(connection).get_columns("optimization")}
        connection.execute(text("DROP TABLE weather"))
    with Store(old_store) as store:
        assert (store.schema(), len(store.read(queries.page).items)) == ("next", 1)


def test_a_newer_store_is_refused_and_unchanged(old_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(old_store).close()  # upgraded
    for module in (engine, run):
        monkeypatch.setattr(module, "HEAD", HEAD)
    monkeypatch.setattr(engine, "REVISIONS", REVISIONS)
    with pytest.raises(OptimizationStoreError, match="newer"):
        Store(old_store)


@contextmanager
def begin(url: str) -> Iterator[Connection]:
    """Begin a transaction on a store without opening it."""
    database = create_engine(engine.parse_url(url))
    with database.begin() as connection:
        yield connection
    database.dispose()


def differences(store: Store) -> list[object]:
    """Return the differences between the database and the tables."""
    with store._engine.connect() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def file_of(revision: str) -> Path:
    return DATA / f"store-{revision}.db"


def copy_rows(path: Path, url: str) -> None:
    """Copy the rows of a SQLite file into the new PostgreSQL store at `url`."""
    with begin(str(path)) as reading, begin(url) as writing:
        for table in metadata.sorted_tables:
            if rows := [dict(row) for row in reading.execute(select(table)).mappings()]:
                writing.execute(table.insert(), rows)
                if table.autoincrement_column is not None and "id" in rows[0]:
                    last = max(row["id"] for row in rows)
                    writing.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {last})"))


def test_one_process_opens_many_new_stores_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for store in threads.map(lambda n: Store(str(tmp_path / f"{n}.db")), range(8)):
            with store:
                assert store.schema() == HEAD


@pytest.mark.parametrize("database", ["new_store_url", "new_postgres_url"])
def test_processes_open_a_new_store_at_once(database: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(database)
    program = (
        "import sys; sys.path = sys.argv.pop().split('\\n')\n"
        "from o9.store.store import Store; from contract_steps import put\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with Store(sys.argv[1]) as store: put(store, sys.argv[2])"
    )
    openers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, url, f"a{n}", "\n".join(sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in range(3)
    ]  # fmt: skip
    for opener in openers:
        assert opener.stdout is not None
        opener.stdout.readline()
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    assert [opener.communicate(timeout=60)[1] for opener in openers] == ["", "", ""]
    with Store(url) as store:
        assert sorted(s.optimization_id for s in store.read(queries.page).items) == ["a0", "a1", "a2"]


def test_a_new_store_waits_for_a_writer_of_its_file(new_store_url: str) -> None:
    other = sqlite3.connect(new_store_url, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor() as threads:
        opening = threads.submit(Store, new_store_url)
        assert wait([opening], timeout=1.0).not_done
        other.execute("ROLLBACK")
        opening.result(timeout=30.0).close()
    other.close()


def test_opening_an_old_store_emits_no_warnings(store_url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with Store(store_url) as store:
                put(store, "a")

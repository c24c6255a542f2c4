"""Open an existing store for a command, and look up the ids that were typed."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import create_engine

from o9.model.errors import OptimizationError, OptimizationStoreError
from o9.model.optimization import OptimizationState
from o9.model.settings import STORE_BLOCK, settings
from o9.model.urls import public_url
from o9.store import queries
from o9.store.core.engine import parse_url, schema_revision
from o9.store.optimizations.queries import Filter, Holding
from o9.store.store import Store
from o9.text.escape import shown
from o9.text.suggest import did_you_mean, near

NEAR_AMONG = 1000  # newest ids that are compared with a mistyped one
NAMED = 3  # near ids in an error
SHORTEST_NAME = 3  # letters; a shorter text is not searched for in names


def store_url(given: str | None) -> str:
    """Return the URL in `--store`, or else in the settings; that of a block is read with Prefect, which is then
    imported.
    """
    url = given or settings().store_url
    return _url_in_block(url) if url.startswith(STORE_BLOCK) else url


@cache
def _url_in_block(url: str) -> str:
    from o9.aggregator.store_block import resolve_store_url

    return asyncio.run(resolve_store_url(url))


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite store; None for another database."""
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def revision_of(url: str) -> str | None:
    """Return the schema of a store without upgrading it."""
    engine = create_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            return schema_revision(connection)
    finally:
        engine.dispose()


def size_of(path: Path | None) -> int | None:
    """Return the bytes of the file and its write-ahead log; None for another database."""
    if path is None:
        return None
    return sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())


def option_for(given: str | None) -> str:
    """Return the option that makes a suggested command use the same store; a password in it is replaced by `***`."""
    return f" --store {shlex.quote(public_url(given))}" if given else ""


def place_of(store: Store) -> str:
    """Return where the store is: an absolute path, or a URL without its password."""
    return store.name if "://" in store.name else str(Path(store.name).absolute())


@contextmanager
def existing_store(given: str | None) -> Iterator[Store]:
    """Open the store. Raises OptimizationStoreError, which names the path and the remedy, if it does not exist."""
    with Store(existing_url(given)) as store:
        yield store


def existing_url(given: str | None) -> str:
    """Return `store_url`. Raises OptimizationStoreError if there is no store; creates nothing."""
    url = store_url(given)
    path = sqlite_path(url)
    if path is not None and not path.is_dir() and (not path.exists() or path.stat().st_size == 0):
        state = "is empty" if path.exists() else "does not exist"
        raise OptimizationStoreError(
            f"the store {path} {state}; create one with `o9 demo` or `o9 run FILE.yaml`, "
            "or name another with --store or O9_STORE_URL"
        )
    return url


def existing_optimization(store: Store, typed: str) -> OptimizationState:
    """Return the optimization with this id, or the only one whose id begins with it. Raises OptimizationError with near
    matches.
    """
    state = store.read(queries.get, typed)
    if state is None:
        newest = [*_containing(store, typed), *store.read(queries.page, limit=NEAR_AMONG).items]
        found = pick(typed, {each.optimization_id: each.name for each in newest}, "optimization", "o9 list", store)
        state = store.read(queries.get, found)
        assert state is not None, "it was just read"
    return state


def holding_of(store: Store, recorded: str) -> Holding:
    holding = store.read(queries.holding, recorded)
    assert holding is not None, "every recorded optimization has one"
    return holding


def existing_ids(store: Store, typed: Iterable[str]) -> list[str]:
    """Return the whole ids of `typed`, each once. Raises OptimizationError for an unknown one."""
    return list(dict.fromkeys(existing_optimization(store, each).optimization_id for each in typed))


def newest_ids(store: Store, beginning: str, limit: int) -> list[str]:
    """Return the newest ids with this beginning."""
    found = _containing(store, beginning) if beginning else store.read(queries.page, limit=limit).items
    return [each.optimization_id for each in found if each.optimization_id.startswith(beginning)][:limit]


def pick(typed: str, known: Mapping[str, str], what: str, listing: str, store: Store) -> str:
    """Return the id that was typed, or the only known id that begins with it.

    known: ids with their names or titles, in which `typed` is searched, too. Raises OptimizationError with near
    matches.
    """
    if typed in known:
        return typed
    beginning = [each for each in known if typed and each.startswith(typed)]
    if len(beginning) == 1:
        return beginning[0]
    wanted = typed.casefold()
    if beginning:
        some = ", ".join(map(shown, beginning[:NAMED]))
        more = f", and {len(beginning) - NAMED} more" if len(beginning) > NAMED else ""
        raise OptimizationError(f"{shown(repr(typed))} matches several ids: {some}{more}; type more of it")
    likely = [each for each in known if wanted and each.casefold().startswith(wanted)]
    likely += [each for each, name in known.items() if len(wanted) >= SHORTEST_NAME and wanted in name.casefold()]
    hint = did_you_mean(likely + near(typed, known, n=NAMED)) or f"`{listing}` lists them"
    raise OptimizationError(f"there is no {what} {shown(repr(typed))} in {store.name}; {hint}")


def _containing(store: Store, text: str) -> list[OptimizationState]:
    return store.read(queries.page, wanted=Filter(text=text, placebos=True), limit=NEAR_AMONG).items

"""The block that names a store, and the store that flows and tasks of this process use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import PrefectException
from pydantic import Field, HttpUrl, SecretStr

from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.model.settings import STORE_BLOCK, settings
from o9.model.urls import public_text
from o9.store.store import Store


class AggregatorStore(Block):
    """A store of O9's, by its URL: `AggregatorStore(url="postgresql://…").save("production")`.

    Commands, aggregators and workers use it with O9_STORE_URL=block:production.
    """

    _block_type_name = "O9 Aggregator Store"
    _block_type_slug = "o9-aggregator-store"
    _description = "The database in which O9 keeps its record of optimizations."
    _logo_url = HttpUrl(  # Prefect's own, for what is stored
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/"
        "block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://pypi.org/project/prefect-o9/")
    _code_example = """```python
from o9.blocks import AggregatorStore

store = AggregatorStore.load("BLOCK_NAME").open()
for state in store.list(limit=10).items:
    print(state.optimization_id, state.status.value)
```
Commands, `o9 serve` and workers use it with `O9_STORE_URL=block:BLOCK_NAME`."""

    url: SecretStr = Field(title="URL", description="A path, sqlite:///… or postgresql://…, which may hold a password.")

    def open(self) -> Store:
        """Open the store; raises OptimizationStoreError, naming what to do."""
        return Store(self.url.get_secret_value())


_lock = threading.Lock()
_in_use: list[Store] = []
_here: ContextVar[Store | None] = ContextVar("o9_store_here", default=None)


def use_store(store: Store) -> None:
    """Make flows and tasks of this process use `store`, until `release_store`; the last one given counts."""
    with _lock:
        _in_use.append(store)


def release_store(store: Store) -> None:
    with _lock:
        if store in _in_use:
            _in_use.remove(store)


@contextmanager
def using_store(store: Store) -> Iterator[None]:
    """Make flows that begin inside use `store`, whichever other ones this process uses."""
    token = _here.set(store)
    try:
        yield
    finally:
        _here.reset(token)


def store_is_named() -> bool:
    """Whether a store was set for this process's flows."""
    return _here.get() is not None or bool(_in_use) or "store_url" in settings().model_fields_set


def current_store() -> Store:
    """The store in use. Without one, opens the store that the settings name, which then stays open."""
    if (here := _here.get()) is not None:
        return here
    with _lock:
        if not _in_use:
            _in_use.append(Store(named_url(settings().store_url)))
        return _in_use[-1]


def current_url() -> str:
    """The URL of `current_store`, without opening it; may ask Prefect for a block."""
    in_use = _in_use[-1:]  # without the lock, which is held while a store is being opened
    return in_use[0].url if in_use else named_url(settings().store_url)


@cache
def named_url(url: str) -> str:
    """The URL itself, or the URL in the block that it names, which is loaded once.

    Raises OptimizationStoreError for an unknown block, StoreUnavailableError where it cannot be loaded.
    """
    if not url.startswith(STORE_BLOCK):
        return url
    name = url.removeprefix(STORE_BLOCK)
    try:
        block = AggregatorStore.load(name, _sync=True)  # type: ignore[call-arg]  # Prefect's decorator takes it
    except ValueError as error:
        remedy = f"save it with AggregatorStore(url=…).save({name!r}), or give the URL itself"
        raise OptimizationStoreError(f"the store {url}: {error}; {remedy}") from None
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        why = public_text(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise StoreUnavailableError(f"the store {url} cannot be loaded from Prefect's server ({why})") from error
    assert isinstance(block, AggregatorStore)
    return block.url.get_secret_value()

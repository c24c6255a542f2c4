"""The base of components that use a store, and iteration over all optimizations and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from operator import itemgetter

from o9.model.component import Component
from o9.model.errors import OptimizationError, OptimizationNotFoundError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.store import queries
from o9.store.core.reading import PAGE_LIMIT, paged
from o9.store.core.unit import Row
from o9.store.store import Store


def all_optimizations(
    store: Store, wanted: queries.Filter = queries.EVERYTHING, page_size: int = PAGE_LIMIT
) -> Iterator[OptimizationState]:
    """Yield all optimizations that match, newest first, reading page by page. Call it in a thread."""
    cursor: str | None = None
    while True:
        page = store.read(queries.page, wanted, page_size, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def latest_health_reports(store: Store) -> Iterator[Row]:
    """Yield each optimization's newest health report, newest first, reading page by page. Call it in a thread."""
    return paged(partial(store.read, queries.health_reports, PAGE_LIMIT), itemgetter("last_at", "optimization_id"))


class StoreComponent(Component):
    """A component with a store: a given one, or one that it opens itself.

    Without `store`, `initialize` opens the one at `storage_path`, or that of the settings, and `cleanup` closes it.
    """

    def __init__(self, store: Store | None = None, storage_path: str | None = None) -> None:
        super().__init__()
        self._given = store
        self._storage_path = storage_path
        self._store = store

    def use(self, store: Store) -> None:
        """Use `store`, which the caller opens and closes."""
        self._given = self._store = store

    @property
    def store(self) -> Store:
        """The store in use. Raises OptimizationError before `initialize`."""
        if self._store is None:
            raise OptimizationError(f"{type(self).__name__} is not open: call initialize() first")
        return self._store

    async def get_optimization_status(self, optimization_id: str) -> OptimizationState | None:
        """Return the present state, also of an ended optimization; None if there is none."""
        return await self.store.read_async(queries.get, optimization_id)

    async def existing(self, optimization_id: str) -> OptimizationState:
        """Return the present state. Raises OptimizationNotFoundError."""
        state = await self.get_optimization_status(optimization_id)
        if state is None:
            raise OptimizationNotFoundError(f"there is no optimization {optimization_id!r}; `o9 list` lists them")
        return state

    async def _open(self) -> None:
        if self._store is None:
            self._store = await asyncio.to_thread(Store, self._storage_path or settings().store_url)

    async def _close(self) -> None:
        if self._given is None and self._store is not None:
            store, self._store = self._store, None
            await asyncio.to_thread(store.close)

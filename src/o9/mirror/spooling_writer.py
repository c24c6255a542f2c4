"""Writes the states of a process to a store: directly, or to the spool while the store is away.

Contract. `write` never raises because the store is away, and delays its caller once, by PATIENCE_SECONDS at most. When
the store fails or does not answer in time, everything goes to the spool until a thread of the writer has delivered it,
so that the order is kept. Any event loop and any thread may call it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from o9.mirror.spool import Spool, deliver, store_key
from o9.model.errors import OptimizationStoreError, StaleAttemptError
from o9.model.loops import Backoff
from o9.store.core.unit import Operation
from o9.store.store import Store

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 2.0
RETRY = Backoff(0.5, 5.0)


class SpoolingWriter:
    """For the store at `url`. A thread calls `open_store`, which may block, and raise OptimizationError."""

    def __init__(self, url: str, open_store: Callable[[], Store]) -> None:
        self._url = url
        self._open_store = open_store
        self._spool = Spool(url)
        self._store: Store | None = None
        self._opening: concurrent.futures.Future[Store] = concurrent.futures.Future()
        self.is_away = False  # writes go to the spool
        self._lock = threading.Lock()
        self._helper: threading.Thread | None = None
        self._leave = threading.Event()

    async def write(self, operation: Operation[Any]) -> Any:
        """The store's answer; None where the operation waits in the spool. Raises what the operation itself raises."""
        if not self.is_away:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    if (store := self._store) is None:
                        self._call_helper()
                        store = await asyncio.shield(asyncio.wrap_future(self._opening))
                    answer = store.write_async(operation)
                    answer.add_done_callback(_log_failure)  # it may come when nobody waits any more
                    return await asyncio.shield(answer)
            except TimeoutError:
                self._went_away(f"no answer within {PATIENCE_SECONDS:g} s")
            except StaleAttemptError:
                raise
            except OptimizationStoreError as error:
                self._went_away(str(error))
        try:
            self._spool.append(operation)
        except OSError:
            logger.exception("a state reached neither the store nor the spool; the reconciler reads it from Prefect")
        self._call_helper()
        return None

    def use(self, store: Store) -> None:
        """Set the open store."""
        self._store = store

    def close(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Try to deliver the spool within `seconds`; the rest is left to other processes of this machine."""
        self._leave.set()
        if self._store is not None and len(self._spool):
            last = threading.Thread(target=self._last_try, name="o9-spooling-writer-last", daemon=True)
            last.start()
            last.join(seconds)
        self._spool.close()

    def disown(self) -> None:
        """Forget the parent's spool file in a forked child."""
        self._spool.disown()

    def _went_away(self, why: str) -> None:
        with self._lock:
            known, self.is_away = self.is_away, True
        if not known:
            logger.warning("the store is unavailable; states go to the spool: %s", why)

    def _call_helper(self) -> None:
        with self._lock:
            if self._helper is None and not self._leave.is_set():
                self._helper = threading.Thread(target=self._help, name="o9-spooling-writer", daemon=True)
                self._helper.start()

    def _help(self) -> None:
        """Open the store and deliver the spool, retrying until that succeeds."""
        failures = 0
        while not self._helped():
            failures += 1
            if self._leave.wait(RETRY.pause(failures)):
                return

    def _helped(self) -> bool:
        try:
            if self._store is None:
                self._store = self._open_store()
                if not self._opening.done():
                    self._opening.set_result(self._store)
                deliver(self._store)
            delivered = self._spool.deliver(self._store)
        except Exception as error:  # noqa: BLE001 - nothing may disturb a user's flow
            if not self._opening.done():
                self._opening.set_exception(OptimizationStoreError(f"it cannot be opened: {error}"))
            logger.debug("the store is still unavailable: %s", error)
            return False
        with self._lock:
            if len(self._spool):
                return False
            if delivered:
                logger.warning("the store is available again; %d states were delivered from the spool", delivered)
            self.is_away, self._helper = False, None
        return True

    def _last_try(self) -> None:
        assert self._store is not None
        try:
            self._spool.deliver(self._store)
        except Exception as error:  # noqa: BLE001 - it stays in the spool
            logger.warning("the store is still unavailable; another process will deliver the spool: %s", error)


def _log_failure(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        logger.debug("a write failed, perhaps after its caller stopped waiting: %s", error)


_writers: dict[str, SpoolingWriter] = {}
_guard = threading.Lock()


def writer_of(store: Store) -> SpoolingWriter:
    """The writer of an open store."""
    return writer_at(store.url, lambda: store, store)


def writer_at(url: str, open_store: Callable[[], Store], store: Store | None = None) -> SpoolingWriter:
    """The writer for the store at `url`, which need not be open. Raises OptimizationStoreError for an invalid URL."""
    key = store_key(url)
    with _guard:
        writer = _writers.get(key)
        if writer is None:
            writer = _writers[key] = SpoolingWriter(url, open_store)
        if store is not None:
            writer.use(store)
        return writer


def close_writer(store: Store) -> None:
    """Close the writer of `store`, before that is closed: deliver its spool, or leave it to others."""
    with _guard:
        writer = _writers.pop(store_key(store.url), None)
    if writer is not None:
        writer.close()


@atexit.register
def close_writers() -> None:
    """Try a last time to deliver the spool, at the end of the process, before its nodes leave."""
    for key in list(_writers):
        _writers.pop(key).close()


def _forget_parent() -> None:
    """In a forked child, which has none of its parent's threads, and must not hold the parent's locks."""
    global _guard
    _guard = threading.Lock()
    for writer in _writers.values():
        writer.disown()
    _writers.clear()


os.register_at_fork(after_in_child=_forget_parent)

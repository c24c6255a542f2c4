"""Limits the concurrent evaluations of this process, over all its optimizations, to the number of processors.

Contract. `hold` waits for a place. There are as many places as processors that this process may use. The optimization
that holds the fewest places gets the next one; of equals, the one that has waited longest. A child process that only
waits (for a network, a lock, a GPU) lends its place: after IDLE_SECONDS in which it used less than IDLE_SHARE of a
processor, another evaluation starts. If the system does not report processor time, it keeps its place.

Async objectives need no place: they share the event loop. Processes on one machine do not coordinate. Thread-safe; each
caller waits in its own event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from o9.workers.pool import processors

IDLE_SECONDS = 0.2
IDLE_SHARE = 0.5
POLL_SECONDS = 0.1  # how often a waiting caller checks for idle processes


@dataclass(eq=False)
class _Place:
    """A place that is held, or waited for until `turn` is done.

    used: returns the processor seconds of its process, or None if unknown. checked_at, seconds: of the last check.
    """

    owner: object
    used: Callable[[], float | None]
    turn: asyncio.Future[None]
    checked_at: float = 0.0
    seconds: float | None = None
    lent: bool = False


class Cores:
    """`count` places; 0: as many as there are processors at that moment."""

    def __init__(self, count: int = 0) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._held: list[_Place] = []
        self._waiting: list[_Place] = []  # in the order of their arrival

    @asynccontextmanager
    async def hold(self, owner: object, used: Callable[[], float | None] = lambda: None) -> AsyncIterator[None]:
        """Hold a place for one evaluation of `owner`; owners share fairly."""
        place = _Place(owner, used, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(place)
            self._serve()
        try:
            while place not in self._held:
                await asyncio.wait({place.turn}, timeout=POLL_SECONDS)
                if place not in self._held:
                    self._lend()
            yield
        finally:
            with self._lock:
                (self._held if place in self._held else self._waiting).remove(place)
                self._serve()

    @property
    def held(self) -> int:
        """The number of places in use, without those that were lent."""
        with self._lock:
            return self._busy()

    def _lend(self) -> None:
        """Lend the places of idle processes."""
        now = time.monotonic()
        with self._lock:
            due = [place for place in self._held if not place.lent and now - place.checked_at >= IDLE_SECONDS]
            for place in due:
                before, seconds, elapsed = place.seconds, place.used(), now - place.checked_at
                place.checked_at, place.seconds = now, seconds
                if before is not None and seconds is not None:
                    place.lent = 0 <= seconds - before < IDLE_SHARE * elapsed
            self._serve()

    def _serve(self) -> None:
        """Assign free places to waiting callers. Call with the lock held."""
        while self._waiting and self._busy() < (self._count or processors()):
            shares = Counter(place.owner for place in self._held if not place.lent)
            first = min(self._waiting, key=lambda place: shares[place.owner])  # of equals, the first
            self._waiting.remove(first)
            with suppress(RuntimeError):  # its loop is closed
                first.turn.get_loop().call_soon_threadsafe(_wake, first.turn)
                first.checked_at = time.monotonic()
                self._held.append(first)

    def _busy(self) -> int:
        return sum(not place.lent for place in self._held)


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


CORES = Cores()

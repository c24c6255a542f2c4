"""One budget of processors for all that is evaluated in this process, whatever optimization it belongs to.

Contract. `hold` waits for a place, and gives it back. There are as many places as processors that this process may use.
Who waits is served in turns: the optimization that holds the fewest places first, of equals the one that has waited for
longest. A child process that only waits (for a network, a lock, a GPU, or for ever) uses no processor: after
IDLE_SECONDS in which it used less than IDLE_SHARE of one, somebody else gets its place, and it goes on beside. So
nothing that hangs keeps others from work, and what computes never has more processes than processors, but for those
moments. Where the system does not tell what a process uses, it keeps its place.

Async objectives need no place: they share the event loop, which is one thread. Several processes on one machine know
nothing of each other. Thread-safe; each waits in its own event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from o9.workers.pool import processors

IDLE_SECONDS = 0.2
IDLE_SHARE = 0.5
LOOK_SECONDS = 0.1  # how often who waits looks for a place that is not used


@dataclass(eq=False)
class _Place:
    """One that is held. `used` tells the processor seconds of its process, or None where they are not known."""

    owner: object
    used: Callable[[], float | None]
    looked_at: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    lent: bool = False


@dataclass(eq=False)
class _Waiting:
    owner: object
    number: int
    loop: asyncio.AbstractEventLoop
    turn: asyncio.Future[None]


class Cores:
    """`count` places; 0: as many as there are processors, looked up each time."""

    def __init__(self, count: int = 0) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._held: list[_Place] = []
        self._promised: Counter[object] = Counter()  # places given to who has not woken up yet, by owner
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def hold(self, owner: object, used: Callable[[], float | None] = lambda: None) -> AsyncIterator[None]:
        """A place for one evaluation of `owner`, which is whatever shares fairly with others."""
        place = _Place(owner, used)
        with self._lock:
            at_once = not self._waiting and self._busy() < self._places()
            if at_once:
                self._held.append(place)
        if not at_once:
            await self._turn(owner)
            with self._lock:
                self._take_back(owner)
                place.looked_at = time.monotonic()
                self._held.append(place)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(place)
                self._serve()

    @property
    def held(self) -> int:
        """How many places are taken, without those that were lent."""
        with self._lock:
            return self._busy()

    async def _turn(self, owner: object) -> None:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(owner, next(self._numbers), loop, loop.create_future())
        with self._lock:
            self._waiting.append(waiting)
            self._serve()
        try:
            while not waiting.turn.done():
                await asyncio.wait({waiting.turn}, timeout=LOOK_SECONDS)
                if not waiting.turn.done():
                    self._lend()
        except asyncio.CancelledError:
            with self._lock:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                else:  # its turn came in this moment
                    self._take_back(owner)
                    self._serve()
            raise

    def _lend(self) -> None:
        """Free the places of those that use no processor."""
        now = time.monotonic()
        with self._lock:
            due = [place for place in self._held if not place.lent and now - place.looked_at >= IDLE_SECONDS]
            for place in due:
                before, seconds, elapsed = place.seconds, place.used(), now - place.looked_at
                place.looked_at, place.seconds = now, seconds
                if before is not None and seconds is not None:
                    place.lent = 0 <= seconds - before < IDLE_SHARE * elapsed
            self._serve()

    def _serve(self) -> None:
        """Give free places to who waits. Called with the lock."""
        while self._waiting and self._busy() < self._places():
            shares = Counter(place.owner for place in self._held if not place.lent) + self._promised
            first = min(self._waiting, key=lambda waiting: (shares[waiting.owner], waiting.number))
            self._waiting.remove(first)
            self._promised[first.owner] += 1
            with suppress(RuntimeError):  # its loop was closed: nobody will come, and the place is taken back below
                first.loop.call_soon_threadsafe(_wake, first.turn)
                continue
            self._take_back(first.owner)

    def _places(self) -> int:
        return self._count or processors()

    def _busy(self) -> int:
        return sum(not place.lent for place in self._held) + self._promised.total()

    def _take_back(self, owner: object) -> None:
        self._promised[owner] -= 1
        if not self._promised[owner]:
            del self._promised[owner]


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


CORES = Cores()

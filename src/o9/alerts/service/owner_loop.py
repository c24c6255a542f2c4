"""The event loop that owns a component, as callers in other loops and threads see it.

Contract. No caller waits for a loop that has ended: it learns that the work was not done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

LOOK_SECONDS = 0.5  # whether it still runs


class OwnerLoop:
    """Without an owner until `settle`; until then every caller is at home."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def settle(self) -> None:
        """It is the loop that runs here."""
        self._loop = asyncio.get_running_loop()

    def call(self, function: Callable[[], object]) -> bool:
        """Call it there: at once where that is here, else soon. False: that loop does not run any more."""
        home = self._loop
        if home is None or home is _here():
            function()
            return True
        if not home.is_running():
            return False
        try:
            home.call_soon_threadsafe(function)
        except RuntimeError:  # closed meanwhile
            return False
        return True

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Await it there; cancelling the caller does not undo it. False: that loop ended before it was done."""
        home = self._loop
        if home is None or home is _here():
            await work()
            return True
        if not home.is_running():
            return False
        begun = work()
        try:
            handed = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begun, home))
        except RuntimeError:  # closed meanwhile
            begun.close()
            return False
        while not handed.done():
            await asyncio.wait({handed}, timeout=LOOK_SECONDS)
            if not handed.done() and not home.is_running():
                return False
        if handed.cancelled():  # as a loop does that ends
            return False
        handed.result()
        return True


def _here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

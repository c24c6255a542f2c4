"""Ctrl-C and SIGTERM: the first one asks, the second one leaves at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from o9.cli.failures import INTERRUPTED

logger = logging.getLogger(__name__)
LEAVING_SECONDS = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """Within it, in the main thread, a first SIGINT or SIGTERM sets `asked`; a second one ends the process.

    `on_leaving` is then called in a thread of its own, for LEAVING_SECONDS at most.
    `terminated` tells that the first was SIGTERM: a machine asks, which waits no longer than it must.

    Enter it outside of the event loop, so that asyncio leaves the signals alone, and `attach` inside.
    """

    def __init__(self, farewell: str) -> None:
        """`farewell` is printed on leaving at once."""
        self._farewell = farewell
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.asked = asyncio.Event()
        self.terminated = False
        self.on_leaving: Callable[[], None] = lambda: None

    def attach(self) -> None:
        """Called in the event loop; what came before counts."""
        self._loop = asyncio.get_running_loop()
        if self._count:
            self.asked.set()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _leave(self) -> None:
        try:
            self.on_leaving()
        except Exception:  # the process ends in any case, and others find that out
            logger.debug("could not take leave", exc_info=True)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self.terminated = number == signal.SIGTERM
        if self._count > 1:
            # Written past every lock and buffer: whatever was interrupted may hold them.
            cursor = SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}\no9: {self._farewell}\n".encode())
            leaving = threading.Thread(target=self._leave, name="o9-leaving", daemon=True)
            leaving.start()  # not here: what was interrupted may hold any lock
            leaving.join(LEAVING_SECONDS)
            os._exit(INTERRUPTED)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.asked.set)

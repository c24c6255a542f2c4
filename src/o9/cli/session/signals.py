"""Ctrl-C and SIGTERM: the first signal requests a stop, the second exits at once."""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType
from typing import Self

from o9.cli.failures import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """Handles SIGINT and SIGTERM in the main thread: the first one sets `asked`, the second one ends the process.

    `terminated`: the first was SIGTERM, from a supervisor that waits only briefly.

    Enter it outside of the event loop, so that asyncio leaves the signals alone, and call `attach` inside.
    """

    def __init__(self, farewell: str) -> None:
        """`farewell` is printed on exiting at once."""
        self._farewell = farewell
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.asked = asyncio.Event()
        self.terminated = False

    def attach(self) -> None:
        """Bind to the running event loop. A signal that came before counts."""
        self._loop = asyncio.get_running_loop()
        if self._count:
            self.asked.set()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            self.terminated = number == signal.SIGTERM
        if self._count > 1:
            # Bypasses locks and buffers, which the interrupted code may hold.
            cursor = SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}\no9: {self._farewell}\n".encode())
            os._exit(INTERRUPTED)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.asked.set)

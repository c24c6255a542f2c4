"""The leader's clock: it advances by itself and never goes backwards, whatever the wall clock does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from o9.model.optimization import utc_now

JUMP = timedelta(seconds=5)


class Clock:
    """Goes on with the machine's uptime; where the wall clock is ahead of that by a jump, it is followed."""

    def __init__(self, wall: Callable[[], datetime] = utc_now, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._base, self._began = wall(), steady()

    def now(self) -> datetime:
        passed = self._base + timedelta(seconds=self._steady() - self._began)
        wall = self._wall()
        if wall - passed > JUMP:
            self._base, self._began = wall, self._steady()
            return wall
        return passed

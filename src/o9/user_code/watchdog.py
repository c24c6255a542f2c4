"""A thread that detects code that blocks the event loop, and logs which code and where.

Users' coroutine strategies and async objectives run in the event loop. While one does not await (`while True: pass`,
`time.sleep(3600)`), nothing else runs: no commit, no cancellation, no other optimization.

Contract. Once a second the watchdog asks the loop for a tick. After `warn_seconds` without one it logs a warning with
the blocking line, and with whose code it is if it was awaited by `run_user_code`. When one call has blocked the loop
for `give_up_seconds`, the watchdog logs an error and calls `on_blocked` in its own thread, then again every minute.
`is_blocked` is true until the loop ticks; meanwhile the process does not renew its leases. Nothing is interrupted.

Time is counted by the watchdog's own wake-ups, so time in which the process was frozen (SIGSTOP, a closed lid) does not
count. Neither does C code that keeps the interpreter's lock, which stops the watchdog, too.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import sysconfig
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import FrameType
from typing import ParamSpec, TypeVar

from o9.model.logs import bound_ids
from o9.model.loops import ErrorBoundary
from o9.model.optimization import utc_now

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)
TICK_SECONDS = 1.0
AGAIN_SECONDS = 60.0
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


async def run_user_code(what: str, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Await `function(…)`. A watchdog reads `what` and the ids from this frame to name the code."""
    ids = bound_ids()  # noqa: F841
    return await function(*args, **kwargs)


@dataclass(frozen=True)
class Blocked:
    """Code that blocks the loop. `ids`: the log's ids where it was called."""

    message: str
    since: datetime
    ids: Mapping[str, str]


class Watchdog:
    """Watches the event loop that calls `start` until `stop`, from any thread. Repeated calls do nothing."""

    def __init__(
        self,
        warn_seconds: float = 5.0,
        give_up_seconds: float = 30.0,
        on_blocked: Callable[[Blocked], object] = lambda _: None,
    ) -> None:
        self._warn_seconds = warn_seconds
        self._give_up_seconds = give_up_seconds
        self._on_blocked = on_blocked
        self._tick_seconds = min(TICK_SECONDS, warn_seconds / 4, give_up_seconds / 4)
        self._ticked = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._forget()

    @property
    def is_blocked(self) -> bool:
        """Whether one call has blocked the loop for `give_up_seconds`, and still does."""
        return self._blocked is not None

    def start(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._loop_thread = threading.get_ident()
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, name="o9-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
            self._forget()

    def _forget(self) -> None:
        self._held = 0.0
        self._blocked: Blocked | None = None
        self._report_after = self._give_up_seconds
        self._warned = False
        # The call that blocks it, and when it was first seen, in seconds since the last tick.
        self._holder: FrameType | None = None
        self._holder_since = 0.0

    def _watch(self) -> None:
        boundary = ErrorBoundary(logger, "watching the event loop")
        while not self._stop.is_set() and not self._loop.is_closed():
            with boundary:
                self._watch_one_tick()
            self._stop.wait(self._tick_seconds)

    def _watch_one_tick(self) -> None:
        self._ticked.clear()
        try:
            self._loop.call_soon_threadsafe(self._ticked.set)
        except RuntimeError:
            return  # the loop is closed
        while not self._ticked.wait(self._tick_seconds):
            if self._stop.is_set() or self._loop.is_closed():
                return
            self._held += self._tick_seconds  # not the elapsed time, which includes that of a frozen process
            self._check()
        if self._warned:
            logger.warning("the event loop runs again, after %.1f s", self._held)
        self._forget()

    def _check(self) -> None:
        """Find the blocking call, and report it when it is due."""
        now, frame = self._held, sys._current_frames().get(self._loop_thread)
        if frame is None or now < min(self._warn_seconds, self._give_up_seconds) / 2:
            return
        call = _user_call(frame)
        if call is not self._holder:
            # Many short calls in turn may block the loop, none of them for too long.
            self._holder, self._holder_since = call, now
        what, ids = _culprit(call)
        if now >= self._warn_seconds and not self._warned:
            self._warned = True
            logger.warning("%s has blocked the event loop for %.1f s: %s", what, now, _line(frame), extra={"o9": ids})
        held = now - self._holder_since
        if held < self._report_after:
            return
        self._report_after = held + AGAIN_SECONDS
        if self._blocked is None:
            message = (
                f"{what} blocks the event loop: until it awaits, this process does not renew its leases, and other "
                "nodes take over its optimizations; add an `await`, or make the objective sync, to run it in its own "
                f"process: {_line(frame)}"
            )
            self._blocked = Blocked(message, utc_now() - timedelta(seconds=held), ids)
            logger.error("%s (for %.0f s)", message, held, extra={"o9": ids})
        self._on_blocked(self._blocked)


def _user_call(frame: FrameType | None) -> FrameType | None:
    """Return the frame of `run_user_code` that `frame` is in, if any."""
    while frame is not None and frame.f_code is not run_user_code.__code__:
        frame = frame.f_back
    return frame


def _culprit(call: FrameType | None) -> tuple[str, dict[str, str]]:
    """Return a name for the code, and the log's ids where it was called."""
    if call is None:
        return "some code", {}
    ids: dict[str, str] = call.f_locals.get("ids", {})
    of = f" of optimization {ids['optimization']!r}" if "optimization" in ids else ""
    return f"{call.f_locals['what']}{of}", ids


def _line(innermost: FrameType) -> str:
    """Return the blocking line: the innermost one outside libraries, else the innermost one."""
    frame: FrameType | None = innermost
    while frame is not None and frame.f_code is not run_user_code.__code__ and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None or frame.f_code is run_user_code.__code__:
        frame = innermost
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number} in {frame.f_code.co_name}: {linecache.getline(name, number).strip()}".rstrip(": ")


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<frozen"))

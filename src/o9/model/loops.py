"""Helpers for background loops: periodic work, error boundaries, retries, cancellation, and the owning event loop.

`is_exhausted` says whether an error means that the machine has run out of descriptors, processes or memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from o9.model.errors import OptimizationError

T = TypeVar("T")
MIN_INTERVAL_SECONDS = 0.5  # the shortest interval of a loop, whatever a user gives


class ErrorBoundary:
    """A context manager for each pass of a loop that must survive every error: `with boundary:`.

    Of consecutive failures of one kind, only the first is logged above DEBUG. Cancellation and interrupts propagate.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        """`what` begins the log message: `reading events` failed."""
        self._logger = logger
        self._what = what
        self.error: Exception | None = None  # of the last pass

    def __enter__(self) -> None:
        """A boundary belongs to one loop: its passes never overlap."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None:
            self.note(error)
        self.error = error
        return error is not None

    def note(self, error: Exception, failures: int = 1) -> None:
        """Log a failed pass; at DEBUG if the previous failure was of the same kind."""
        if type(error) is type(self.error):
            self._logger.debug("%s still fails: %s", self._what, error)
        elif isinstance(error, OptimizationError):
            self._logger.warning("%s failed, trying again: %s", self._what, error)
        else:
            self._logger.error("%s failed, trying again: %r", self._what, error, exc_info=error)
        self.error = error


async def periodic(
    act: Callable[[], Awaitable[object]],
    seconds: float,
    boundary: ErrorBoundary,
    *,
    at_once: bool = False,
    wake: asyncio.Event | None = None,
) -> None:
    """Await `act` every `seconds` until cancelled, within `boundary`.

    wake: setting it starts the next pass at once. at_once: begin with a pass instead of a pause.
    """
    while True:
        if at_once:
            if wake is not None:
                wake.clear()
            with boundary:
                await act()
        at_once = True
        if wake is None:
            await asyncio.sleep(seconds)
        else:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wake.wait()


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None, seconds: float | None = None) -> None:
    """Cancel the tasks, and wait until they have ended, for `seconds` at most."""
    waiting = [task for task in tasks if task is not None]
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting, timeout=seconds)


def check_loop(owner: asyncio.AbstractEventLoop | None, what: str) -> None:
    """Raise OptimizationError if `what` belongs to another event loop, `owner`, that is still open."""
    if owner is not None and not owner.is_closed() and asyncio.get_running_loop() is not owner:
        raise OptimizationError(
            f"{what} belongs to the event loop that started it: from another one, call it by "
            "asyncio.run_coroutine_threadsafe(…, loop)"
        )


@dataclass(frozen=True)
class Backoff:
    """Exponential pauses between tries, in seconds: each twice the previous one, from `first` to `most`."""

    first: float
    most: float

    def pause(self, failures: int) -> float:
        """The pause after `failures` in a row, 1 or more."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30))


async def with_retries(
    access: Callable[[], Awaitable[T]],
    error: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    on_failure: Callable[[Exception, int], object],
) -> T:
    """Return the result of `access`, which is called again while it raises `error`; other errors propagate.

    on_failure: called before each pause, with the error and the number of failures so far.
    """
    failures = 0
    while True:
        try:
            return await access()
        except error as failure:
            failures += 1
            on_failure(failure, failures)
        await asyncio.sleep(backoff.pause(failures))


EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_TEXTS = tuple(os.strerror(number) for number in EXHAUSTED)  # all that an error in loading a shared library says


def is_exhausted(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, says that the machine has run out of a resource."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        if isinstance(error, ImportError) and str(error).endswith(_TEXTS):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False

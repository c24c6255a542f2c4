"""A thread that sees when users' code holds the event loop, says where, and in the end interrupts it.

What users write as a coroutine, a strategy or an async objective, runs in the event loop, and where it does not await
(`while True: pass`, `time.sleep(3600)`), nothing else does: no commit, no cancellation, no other optimization.

Contract. Once a second the watchdog asks the loop for a tick. Where none comes for `warn_seconds`, it logs one warning
with the line that holds the loop. Where one call through `run_user_code` holds it for `give_up_seconds`, the watchdog
raises an exception in it, so that this call fails with OptimizationStrategyError and the loop goes on. It tries again
where the code swallows that, every `warn_seconds`. What cannot be interrupted, because it blocks in C or is not users'
code, makes `is_blocked` true until the loop ticks again: whoever renews this process's leases is to stop then. C code
that returns after all meets the exception there.

What counts is time in which the loop's thread ran or blocked. On Linux, time in which it was ready to run and had no
CPU does not count: code that is slow because the machine has too much to do is left alone. The kernel tells of such a
wait when it is over; until then it counts. Where the system does not tell (macOS, Linux without scheduler statistics),
all time counts, and so does time that a hypervisor takes. A wait for the interpreter's lock counts, as it looks like a
wait for any other lock; not so one for the watchdog itself, which may have the lock and no CPU. It matters where other
threads of the process compute in Python all the time; those that wake now and then take a few percent.

Time is counted by the watchdog's own waking, so that a process that was frozen (SIGSTOP, a laptop's lid) is not taken
for one that held its loop; the same goes for C code that keeps the interpreter's lock, which holds the watchdog, too.

What is sure, in CPython with the interpreter's lock: that users' code runs is read, and the exception is set, with no
chance for the loop's thread to run in between (`_raise_in`); that thread waits either where it raises the exception at
once, or in C that users' code called. What is not: the exception may hit a library that users' code called between two
steps that belong together, as Ctrl-C would; code that a generator's or an object's finalizer runs swallows it; a user's
task or callback that was not awaited through `run_user_code` is warned of, never interrupted.
"""

from __future__ import annotations

import asyncio
import ctypes
import linecache
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from o9.model.errors import OptimizationStrategyError
from o9.model.ids import bound_ids
from o9.model.loops import ErrorBoundary

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)
TICK_SECONDS = 1.0
OVERDUE = 0.1  # of the time between two ticks; nothing is read of a loop that ticks by then
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)


class _Interrupted(BaseException):
    """Raised in code that holds the event loop; no Exception, so that `except Exception` does not keep it."""


class UserCode:
    """One call of what a user wrote: `what` it is, in words, and the log's ids where it was called."""

    __slots__ = ("coroutine", "held_seconds", "ids", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.ids = bound_ids()
        self.held_seconds = 0.0
        self.coroutine: Coroutine[Any, Any, Any]


async def run_user_code(what: str, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """`await function(…)`, so that a watchdog knows whose code it is. `what` names it in errors.

    Raises OptimizationStrategyError where a watchdog interrupted it; else what it raises.
    """
    code = UserCode(what)
    code.coroutine = awaiting = _awaited(code, function, *args, **kwargs)
    try:
        return await awaiting
    except (_Interrupted, BaseExceptionGroup) as raised:  # a group is what a TaskGroup makes of it
        if isinstance(raised, BaseExceptionGroup) and raised.subgroup(_Interrupted) is None:
            raise
        error = OptimizationStrategyError(
            f"{what} held the event loop for {code.held_seconds:.0f} s without awaiting: let it await, or make the "
            "objective sync, then it runs in a process of its own"
        )
        raise error.with_traceback(raised.__traceback__) from None


async def _awaited(code: UserCode, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """A frame of its own, by which the watchdog knows what it finds above it on the stack."""
    try:
        return await function(*args, **kwargs)
    finally:
        _deliver()


def _deliver() -> None:
    """To be called: the interpreter raises what was set for this thread at the latest where a function begins."""


class Verdict(Enum):
    """What is to be done about a loop that does not tick, and why."""

    WAIT = "it has not been held for long, or was interrupted just now"
    INTERRUPT = "users' code has held it for too long"
    BLOCKED = "what holds it cannot be interrupted, or was and holds it still"


def decide(
    held: float, *, users: bool, interrupted: float | None, tick: float, warn: float, give_up: float
) -> tuple[Verdict, bool]:
    """What to do where one and the same thing has held the loop for `held` seconds; and whether to interrupt it again.

    `users`: it is users' code. `interrupted`: how long ago it was told to end.
    """
    if held < give_up:
        return Verdict.WAIT, False
    if not users:
        return Verdict.BLOCKED, False
    if interrupted is None:
        return Verdict.INTERRUPT, False
    # One interval later it had its chance; it may have swallowed the exception, or blocks in C.
    return Verdict.BLOCKED if interrupted > tick else Verdict.WAIT, interrupted >= warn


@dataclass(frozen=True)
class Held:
    """For how long the loop has been held, in seconds: its thread `ran`, or was `blocked`."""

    ran: float = 0.0
    blocked: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ran + self.blocked

    def after(self, *, elapsed: float, ran: float, queued: float, tick: float) -> Held:
        """The same when no tick has come for `elapsed` seconds more, of which the loop's thread has run for `ran`.

        `queued`: how long it waited for a CPU, and the watchdog, to which it may have left the interpreter's lock. What
        is known late, and was taken for a block, is taken back.
        """
        # Not all that has passed: a process that was frozen comes back here, too.
        most = 2 * tick
        ran = min(ran, most)
        return Held(self.ran + ran, max(0.0, self.blocked + min(elapsed - ran - queued, most - ran)))


def cpu_seconds(native_id: int | None) -> tuple[float, float]:
    """How long this thread of the process has run, and waited for a CPU; zeros where the system does not tell."""
    try:
        with open(f"/proc/self/task/{native_id}/schedstat") as file:
            ran, queued, _ = file.read().split()
    except OSError:
        return 0.0, 0.0
    return int(ran) / 1e9, int(queued) / 1e9


class Watchdog:
    """Watches `loop` from `start` to `stop`, both of which any thread may call, and a second time, too."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, warn_seconds: float = 5.0, give_up_seconds: float = 30.0
    ) -> None:
        self._loop = loop
        self._warn_seconds = warn_seconds
        self._give_up_seconds = give_up_seconds
        self._tick_seconds = min(TICK_SECONDS, warn_seconds / 4, give_up_seconds / 4)
        self._loop_thread: int | None = None
        self._loop_native_id: int | None = None
        self._ticked = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._forget()

    @property
    def blocked_seconds(self) -> float:
        """For how long the loop has been held by now; 0.0 while it ticks."""
        return self._held.seconds

    @property
    def is_blocked(self) -> bool:
        """Whether one thing has held the loop for `give_up_seconds`, and interrupting it did not help or cannot."""
        return self._is_blocked

    def start(self) -> None:
        if self._thread is None:
            if _runs_here(self._loop):
                self._know_thread()
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
        self._held = Held()
        # The clocks up to which it is counted; None where no tick is overdue.
        self._counted: tuple[float, float, float] | None = None
        self._is_blocked = False
        self._warned = False
        # Who holds it; when that was first seen, and told to end, in seconds since the last tick.
        self._holder: UserCode | None = None
        self._holder_since = 0.0
        self._interrupted_at: float | None = None

    def _watch(self) -> None:
        boundary = ErrorBoundary(logger, "watching the event loop")
        while not self._stop.is_set() and not self._loop.is_closed():
            with boundary:
                self._watch_one_tick()
            self._stop.wait(self._tick_seconds)

    def _watch_one_tick(self) -> None:
        self._ticked.clear()
        try:
            self._loop.call_soon_threadsafe(self._tick)
        except RuntimeError:
            return  # the loop is closed
        while not self._waited_for_tick():
            if self._stop.is_set() or self._loop.is_closed():
                return
            self._look()
        if self._warned:
            logger.warning("the event loop goes on, after %.1f s", self._held.seconds)
        self._forget()

    def _waited_for_tick(self) -> bool:
        if self._counted is None:
            if self._ticked.wait(self._tick_seconds * OVERDUE):
                return True
            self._counted = self._clocks()
        ticked = self._ticked.wait(self._tick_seconds)
        before, self._counted = self._counted, self._clocks()
        elapsed, ran, queued = (now - then for now, then in zip(self._counted, before, strict=True))
        self._held = self._held.after(elapsed=elapsed, ran=ran, queued=queued, tick=self._tick_seconds)
        return ticked

    def _clocks(self) -> tuple[float, float, float]:
        """What time it is, how long the loop's thread has run, and how long that or the watchdog waited for a CPU."""
        ran, queued = cpu_seconds(self._loop_native_id)
        _, own = cpu_seconds(threading.get_native_id())
        return time.monotonic(), ran, queued + own

    def _tick(self) -> None:
        self._know_thread()
        self._ticked.set()

    def _know_thread(self) -> None:
        """Called in the loop's thread."""
        self._loop_thread, self._loop_native_id = threading.get_ident(), threading.get_native_id()

    def _look(self) -> None:
        """The loop has not ticked for one more interval."""
        thread, now = self._loop_thread, self._held.seconds
        frame = sys._current_frames().get(thread) if thread is not None else None
        if thread is None or frame is None or now < min(self._warn_seconds, self._give_up_seconds) / 2:
            return
        code = _user_code(frame)
        if code is not self._holder:
            # Many that run in turn, each for a short time, hold the loop together, and none of them for too long.
            self._holder, self._holder_since, self._interrupted_at = code, now, None
        if now >= self._warn_seconds and not self._warned:
            self._warned = True
            what, ids = (f"{code.what}{_of_optimization(code)}", code.ids) if code else ("something", {})
            logger.warning("%s holds the event loop, for %.1f s by now: %s", what, now, _line(frame), extra={"o9": ids})
        verdict, again = decide(
            now - self._holder_since,
            users=code is not None,
            interrupted=None if self._interrupted_at is None else now - self._interrupted_at,
            tick=self._tick_seconds,
            warn=self._warn_seconds,
            give_up=self._give_up_seconds,
        )
        if code is not None and (again or verdict is Verdict.INTERRUPT):
            self._interrupted_at = now
            code.held_seconds = now - self._holder_since
            if _raise_in(thread, code.coroutine) and not again:
                logger.error("interrupted %s%s", code.what, _of_optimization(code), extra={"o9": code.ids})
        if verdict is Verdict.BLOCKED and not self._is_blocked:
            logger.error("the event loop is blocked by what cannot be interrupted: %s", _line(frame))
            self._is_blocked = True


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _raise_in(thread: int, coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Raise _Interrupted in the thread that runs the coroutine, if it does run.

    The interpreter changes threads only behind a call, where a function begins, and where a loop turns: none of these
    lies between the look and the call, and `pythonapi` keeps the lock. Keep it in one line.
    """
    wanted, set_async_exc = _Interrupted, _set_async_exc
    return bool(coroutine.cr_running and set_async_exc(thread, wanted))  # type: ignore[attr-defined]


def _user_code(frame: FrameType | None) -> UserCode | None:
    """The call of a user's code that `frame` is in, if any."""
    while frame is not None:
        if frame.f_code is _awaited.__code__:
            code: UserCode | None = frame.f_locals.get("code")  # None: it has ended since
            return code
        frame = frame.f_back
    return None


def _line(innermost: FrameType) -> str:
    """Where it is held: the innermost line that is no library's, else the innermost one."""
    frame: FrameType | None = innermost
    while frame is not None and frame.f_code is not _awaited.__code__ and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None or frame.f_code is _awaited.__code__:
        frame = innermost
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number} in {frame.f_code.co_name}: {linecache.getline(name, number).strip()}".rstrip(": ")


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<frozen"))


def _of_optimization(code: UserCode) -> str:
    name = code.ids.get("optimization")
    return f" of optimization {name!r}" if name else ""

"""Calls of code that may hang: with a time limit, after which a call is abandoned, and a limited number at once.

Contract. `Calls.run` never blocks the event loop. A plain function runs in its own daemon thread, so that the process
can end while it hangs; a coroutine function runs in the event loop, which the watchdog covers. An abandoned call holds
one of the `at_once` places until it returns, and its result is dropped. If all places are held by abandoned calls,
`run` raises Busy at once.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from o9.user_code.watchdog import run_user_code

AT_ONCE = 4


class Unanswered(Exception):
    """A call was abandoned or not begun. `seconds`: its time limit."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


class Busy(Unanswered):
    """The call was not begun, because every place is held by a call that hangs."""


class TooLong(Unanswered):
    """The call did not return in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s", seconds)


@dataclass(eq=False)
class _Call:
    function: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)
    context: Context = field(default_factory=copy_context)
    began: float | None = None
    abandoned: bool = False


class Calls:
    """`name` appears in logs and thread names: `channel desk`."""

    def __init__(self, name: str, at_once: int = AT_ONCE) -> None:
        self._name = name
        self._at_once = at_once
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Call] = set()
        self._hanging: set[asyncio.Task[Any]] = set()

    @property
    def abandoned(self) -> int:
        """The number of abandoned calls that still run."""
        with self._lock:
            return sum(call.abandoned for call in self._running) + len(self._hanging)

    async def run(self, function: Callable[[], Any], seconds: float, *, awaits: bool = False) -> Any:
        """Call `function`, and return its result or raise its exception. `seconds` includes the wait for a place.

        awaits: it is a coroutine function. If a plain function returns an awaitable, it is awaited. Raises Unanswered.
        """
        if awaits:
            return await self._in_the_loop(function, seconds)
        answer = await self._in_a_thread(function, seconds)
        return await self._in_the_loop(lambda: answer, seconds) if inspect.isawaitable(answer) else answer

    async def _in_the_loop(self, function: Callable[[], Any], seconds: float) -> Any:
        self._hanging = {task for task in self._hanging if not task.get_loop().is_closed()}
        if len(self._hanging) >= self._at_once:
            raise Busy(f"{len(self._hanging)} earlier calls hang", seconds)
        task = asyncio.ensure_future(run_user_code(f"the {self._name}", function))
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                self._hanging.add(task)
                task.add_done_callback(self._returned)
        if not task.done():
            raise TooLong(seconds)
        if task.cancelled():
            raise RuntimeError("it cancelled itself")
        return task.result()

    def _returned(self, task: asyncio.Task[Any]) -> None:
        self._hanging.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it: the call was reported as hanging

    async def _in_a_thread(self, function: Callable[[], Any], seconds: float) -> Any:
        call = _Call(function)
        answer = asyncio.wrap_future(call.answer)
        self._enter(call, seconds)
        try:
            await asyncio.wait({answer}, timeout=seconds)
        finally:
            self._leave(call)
        if answer.done():
            return answer.result()
        if call.began is None:
            raise Busy(f"earlier calls did not return within {seconds:g} s", seconds)
        raise TooLong(seconds)

    def _enter(self, call: _Call, seconds: float) -> None:
        with self._lock:
            hanging = [each.began for each in self._running if each.abandoned and each.began is not None]
            if len(hanging) >= self._at_once:
                ago = time.monotonic() - min(hanging)
                raise Busy(f"{len(hanging)} earlier calls hang, the first for {ago:.0f} s", seconds)
            if len(self._running) < self._at_once:
                self._start(call)
            else:
                self._waiting.append(call)

    def _leave(self, call: _Call) -> None:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            call.abandoned = call in self._running
        call.answer.cancel()  # does nothing if it is set

    def _start(self, call: _Call) -> None:
        """Call with the lock held."""
        call.began = time.monotonic()
        self._running.add(call)
        threading.Thread(target=self._work, args=(call,), name=f"o9-{self._name}", daemon=True).start()

    def _work(self, call: _Call) -> None:
        result, error = None, None
        try:
            result = call.context.run(call.function)
        except BaseException as raised:  # noqa: BLE001 - a user's SystemExit, too, ends only its call
            plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration)  # a future rejects that
            error = raised if plain else RuntimeError(f"{type(raised).__name__}: {raised}")
        with self._lock:
            self._running.discard(call)
            if self._waiting:
                self._start(self._waiting.popleft())
        with suppress(InvalidStateError):  # it was abandoned
            call.answer.set_result(result) if error is None else call.answer.set_exception(error)

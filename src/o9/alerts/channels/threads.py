"""Where channels work: in a few daemon threads of their own, each send for a limited time.

Contract. `run` never holds the event loop. A call that does not come back in time is left behind: its thread goes on,
holds one of the channel's `at_once` places until it returns, and its result is dropped. Where all
places are held by such calls, `run` raises Busy at once, until one of them returns. A process may end while they hang.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from o9.alerts.channels.outcome import Failed, Sent, failed

R = TypeVar("R")
AT_ONCE = 4


class NotBack(Exception):
    """A call whose result is dropped, or that was not begun. `failure` is what it means for a send."""

    failure: Failed


class Busy(NotBack):
    """Nothing was begun: every place is held by a call that hangs."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.failure = failed(f"busy: {why}", retry_after=timedelta(seconds=seconds))


class LeftBehind(NotBack):
    """The call was begun, and did not come back in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.failure = failed(f"no answer within {seconds:g} s", in_doubt=True)


@dataclass(eq=False)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    context: Any = field(default_factory=copy_context)
    began: float | None = None
    left: bool = False

    def deliver(self, result: Any, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set, result, error)
        except RuntimeError:
            return  # the loop is closed: no caller waits any more

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class Threads:
    """The places of one channel; may be used from several event loops."""

    def __init__(self, name: str, at_once: int = AT_ONCE) -> None:
        self._name = name
        self._at_once = at_once
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Call] = set()

    @property
    def left_behind(self) -> int:
        """How many calls hang by now."""
        with self._lock:
            return sum(call.left for call in self._running)

    async def run(self, function: Callable[[], R], seconds: float) -> R:
        """What `function` returns or raises; it waits for its place and works for `seconds` altogether."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future())
        self._enter(call, seconds)
        try:
            await asyncio.wait({call.answer}, timeout=seconds)
        finally:
            self._leave(call)
        if not call.answer.cancelled():
            result: R = call.answer.result()
            return result
        if call.began is None:
            raise Busy(f"no answer to those before it within {seconds:g} s", seconds)
        raise LeftBehind(seconds)

    async def outcome(self, send: Callable[[], Sent | Failed], seconds: float) -> Sent | Failed:
        """What `send` answers, or what its not coming back means."""
        try:
            return await self.run(send, seconds)
        except NotBack as error:
            return error.failure

    def _enter(self, call: _Call, seconds: float) -> None:
        with self._lock:
            hanging = [each.began for each in self._running if each.left and each.began is not None]
            if len(hanging) >= self._at_once:
                ago = time.monotonic() - min(hanging)
                raise Busy(f"{len(hanging)} sends before it hang, the first for {ago:.0f} s", seconds)
            if len(self._running) < self._at_once:
                self._start(call)
            else:
                self._waiting.append(call)

    def _leave(self, call: _Call) -> None:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            call.left = call in self._running
        call.answer.cancel()  # does nothing where it has been set

    def _start(self, call: _Call) -> None:
        """With the lock held."""
        call.began = time.monotonic()
        self._running.add(call)
        threading.Thread(target=self._work, args=(call,), name=f"o9-channel-{self._name}", daemon=True).start()

    def _work(self, call: _Call) -> None:
        result, error = None, None
        try:
            result = call.context.run(call.function)
        except BaseException as raised:  # noqa: BLE001 - also SystemExit of a user's function, which ends only its call
            plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration)  # no future takes that
            error = raised if plain else RuntimeError(f"{type(raised).__name__}: {raised}")
        with self._lock:
            self._running.discard(call)
            if self._waiting:
                self._start(self._waiting.popleft())
        call.deliver(result, error)

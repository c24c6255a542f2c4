"""The base class of all components: a lifecycle of four methods, and callbacks.

Contract. `initialize`, `start`, `stop` and `cleanup` do nothing when they are called again. `start` initializes the
component if needed, and `cleanup` stops it. `register_callback` takes effect at once; its result may be awaited or not,
because users write it both ways. A started component belongs to the event loop that started it: `stop` and `cleanup`
raise OptimizationError in another one. A callback that raises, exits or awaits for longer than CALLBACK_SECONDS is
logged and affects nothing else. It may stop its component, and start it again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, ClassVar

from o9.model.errors import OptimizationValidationError
from o9.model.loops import ErrorBoundary, cancel_and_wait, check_loop

logger = logging.getLogger(__name__)
CALLBACK_SECONDS = 30.0


class Registered:
    """A registration that has taken effect. Awaiting it does nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Component:
    """Subclasses override `_open`, `_begin`, `_end` and `_close`; each is called once in a lifecycle."""

    events: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._initialized = False
        self._started = False
        self._callbacks: dict[str, list[Callable[..., Any]]] = {}
        self._repeating: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it was started

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return self._started

    async def initialize(self) -> None:
        """Open the resources. From now on the component can be queried."""
        if not self._initialized:
            await self._open()
            self._initialized = True

    async def start(self) -> None:
        """Initialize the component if needed, and start its background work."""
        await self.initialize()
        if not self._started:
            await self._begin()
            self._started, self._loop = True, asyncio.get_running_loop()

    async def stop(self) -> None:
        """Stop the background work; `start` resumes it."""
        if self._started:
            check_loop(self._loop, type(self).__name__)
            self._started = False
            repeating, self._repeating = self._repeating, []
            # A callback may have called this from one of the tasks; that task ends by itself.
            await cancel_and_wait(*(task for task in repeating if task is not asyncio.current_task()))
            await self._end()

    async def cleanup(self) -> None:
        """Stop the component, and close what `initialize` opened."""
        await self.stop()
        if self._initialized:
            self._initialized = False
            await self._close()

    def register_callback(self, event: str, callback: Callable[..., Any]) -> Registered:
        """Call `callback` (sync or async) at each `event`. Raises OptimizationValidationError for an unknown one."""
        if event not in self.events:
            known = ", ".join(self.events) or "none"
            raise OptimizationValidationError(
                "event", f"{event!r} is not an event of {type(self).__name__}; events: {known}"
            )
        if not callable(callback):
            raise OptimizationValidationError("callback", f"{callback!r} is not callable")
        self._callbacks.setdefault(event, []).append(callback)
        return Registered()

    def callbacks_of(self, event: str) -> list[Callable[..., Any]]:
        """The callbacks of `event`, in the order of their registration."""
        return list(self._callbacks.get(event, ()))

    async def emit(self, event: str, *args: Any) -> None:
        """Call the callbacks of `event` in the order of their registration."""
        for callback in self.callbacks_of(event):
            try:
                await call_callback(callback, *args)
            except (Exception, SystemExit):  # a user's callback must not disturb what called it
                logger.exception("a callback of %s's event %r failed", type(self).__name__, event)

    def _repeat(self, action: Callable[[], Awaitable[None]], seconds: float, what: str) -> None:
        """Await `action` every `seconds` until `stop`; called by `_begin`. If it raises, the log says `what` failed."""
        boundary = ErrorBoundary(logger, what)

        async def repeat() -> None:
            while asyncio.current_task() in self._repeating:
                await asyncio.sleep(seconds)
                with boundary:
                    await action()

        self._repeating.append(asyncio.create_task(repeat(), name=f"o9-{type(self).__name__}"))

    async def _open(self) -> None: ...

    async def _begin(self) -> None: ...

    async def _end(self) -> None: ...

    async def _close(self) -> None: ...


async def call_callback(callback: Callable[..., Any], *args: Any) -> None:
    """Call a sync or async callback, and wait for it for CALLBACK_SECONDS at most.

    Raises what the callback raises, TimeoutError if it takes longer, and RuntimeError if it cancels itself.
    """
    try:
        answer = callback(*args)
        if inspect.isawaitable(answer):
            async with asyncio.timeout(CALLBACK_SECONDS):
                await answer
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("it was cancelled from within") from error

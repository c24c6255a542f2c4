"""Strategies written as coroutine functions that change the optimization's attributes.

Contract. The coroutine gets its own copy of the state. When that has changed, `observe` is awaited with a copy, at most
once per interval, one call at a time, and a last time at the end. Nothing is committed here. An exception of the
coroutine is raised after the last observation; an exception of `observe` cancels the coroutine. Cancelling `run`
cancels the coroutine, waits for it (but not for one that swallows its cancellation), and observes a last time.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

from o9.model.errors import OptimizationError, OptimizationStrategyError
from o9.model.loops import cancel_and_wait
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus
from o9.strategies.evaluation import CUT_OFF_SECONDS
from o9.strategies.registry import ResolvedStrategy
from o9.user_code.watchdog import run_user_code
from o9.workers.answers import failure_text

logger = logging.getLogger(__name__)
Observe = Callable[[OptimizationState], Awaitable[None]]


class CoroutineAttempt:
    """One attempt with a user's coroutine."""

    kind: ClassVar[Literal["coroutine"]] = "coroutine"
    team: ClassVar[None] = None  # it has no child processes

    def __init__(self, strategy: ResolvedStrategy, total_steps: int) -> None:
        self.total_steps = total_steps
        self._name = strategy.name
        self._function: Callable[[OptimizationState], Awaitable[Any]] = strategy.target

    async def run(self, state: OptimizationState, observe: Observe, interval: float) -> bool:
        """Run it on a copy of `state`, and `observe` its changes every `interval` seconds.

        Returns whether it asked for a pause. Its exceptions are raised as OptimizationStrategyError.
        """
        own, name = copy.deepcopy(state), self._name
        seen = _snapshot(own, name)
        task = asyncio.create_task(_run(self._function, own, name))
        try:
            ended = False
            while not ended:
                await asyncio.wait({task}, timeout=interval)
                ended = task.done()  # before the snapshot: it may make its last changes during `observe`
                now = _snapshot(own, name)
                if now != seen:
                    await observe(copy.deepcopy(own))
                    seen = now
        except asyncio.CancelledError:
            await cancel_and_wait(task, seconds=CUT_OFF_SECONDS)
            if _snapshot(own, name) != seen:
                try:
                    await observe(copy.deepcopy(own))
                except OptimizationError as error:
                    logger.warning("the last changes of strategy %r are lost: %s", name, error)
            raise
        finally:
            await cancel_and_wait(task, seconds=CUT_OFF_SECONDS)
        task.result()
        return _asks_for_pause(own, state.status, name)


def _asks_for_pause(own: OptimizationState, begun_as: Any, name: str) -> bool:
    """Read the status that it left. Raises OptimizationStrategyError for FAILED, and for one that only O9 may set."""
    status: Any = own.status
    if status is OptimizationStatus.FAILED:
        why = str(own.issues[-1]) if own.issues else "no reason in issues"
        raise OptimizationStrategyError(f"strategy {name!r} has failed: {why}")
    if status not in (begun_as, OptimizationStatus.RUNNING, OptimizationStatus.COMPLETED, OptimizationStatus.PAUSED):
        raise OptimizationStrategyError(
            f"strategy {name!r} set its status to {status!r}; it may set PAUSED, COMPLETED or FAILED, and return"
        )
    return status is OptimizationStatus.PAUSED


async def _run(function: Callable[[OptimizationState], Awaitable[Any]], state: OptimizationState, name: str) -> None:
    """Await it in its task. sys.exit would otherwise end the event loop."""
    task = asyncio.current_task()
    assert task is not None
    try:
        await run_user_code(f"strategy {name!r}", function, state)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if task.cancelling():
            raise
        raise OptimizationStrategyError(f"strategy {name!r} failed: {failure_text(error)}") from error


def _snapshot(state: OptimizationState, name: str) -> str:
    """Return the state as text. Compared as values, a NaN would always be a change, and an array would raise."""
    try:
        return json.dumps(state.to_dict(), default=repr)
    except (TypeError, ValueError, RecursionError) as error:
        raise OptimizationStrategyError(
            f"strategy {name!r} assigned a value to the optimization that cannot be copied: {error}"
        ) from error

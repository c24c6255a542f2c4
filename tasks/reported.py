"""A coroutine strategy among Prefect tasks: it runs through, and each step that it reports is a task of its own.

Contract. What it assigns is committed as it is seen, whichever task waits. A step is reported by `completed_steps`, or
by `progress` of `total_steps` where the strategy leaves `completed_steps` alone, which then follows. The task of a step
ends when its report is committed; the last one, when the coroutine has ended. An error fails the task of the step that
was not reported yet.
"""

from __future__ import annotations

import asyncio
import logging
import math

from o9.lifecycle.effect import direction_of, improvement
from o9.model.optimization import OptimizationState
from o9.model.validation import validate_changes
from o9.store.optimizations.commit_step import AMENDABLE
from o9.strategies.coroutine import CoroutineAttempt
from o9.tasks.attempt import Attempt, Continuation, continuation

logger = logging.getLogger(__name__)
# All that may be amended: what a strategy leaves in any of them, it finds there after a resume.
_OBSERVED = tuple(sorted(AMENDABLE))
MOST_AT_ONCE = 100  # steps; a task costs Prefect some 30 ms, and a strategy may report thousands a second


class ReportedSteps:
    """Begins the coroutine. Owned by the event loop of its attempt; one task waits at a time.

    It reads no intent by itself. Where people or the node want it to end, the attempt is interrupted behind the
    assignments that were just committed.
    """

    def __init__(self, attempt: Attempt, strategy: CoroutineAttempt, state: OptimizationState) -> None:
        self._attempt = attempt
        self._committed = state
        self._began_with = self._count = state.completed_steps
        self._news = asyncio.Event()
        self.running: asyncio.Task[bool] = asyncio.create_task(
            strategy.run(state, self._observe, attempt.observe_seconds), context=attempt.context
        )
        self.running.add_done_callback(self._stopped)

    async def step(self, number: int) -> Continuation:
        """Wait until step `number` is reported, or the coroutine has ended. Raises what it raised."""
        while not self.running.done() and (self._count <= number or self._is_last(number)):
            self._news.clear()
            await self._news.wait()
        if self._count - number > MOST_AT_ONCE:
            logger.info("steps %d to %d were reported at once: one task stands for them", number, self._count - 1)
            number = self._count - 1
            self._attempt.next_step = self._count
        if not self.running.done() or self._count > number + 1:
            return Continuation.GO_ON
        failed = not self.running.cancelled() and self.running.exception() is not None
        if failed and self._count > number and not self._is_last(number):
            return Continuation.GO_ON  # it failed in the step after this one
        return Continuation.PAUSE if self.running.result() else Continuation.DONE

    def ended(self) -> Continuation | None:
        """How it ended by itself; None where it runs or was cut off. Raises what it raised."""
        if not self.running.done() or self.running.cancelled():
            return None
        return Continuation.PAUSE if self.running.result() else Continuation.DONE

    async def _observe(self, seen: OptimizationState) -> None:
        changes = {
            name: value for name in _OBSERVED if (value := getattr(seen, name)) != getattr(self._committed, name)
        }
        if "current_performance" in changes and "performance_improvement" not in changes:
            gain = improvement(seen.current_performance, seen.baseline_performance, direction_of(seen))
            changes["performance_improvement"] = gain
        validate_changes(changes)
        count = self._reported(seen)
        if count > self._count and "completed_steps" not in changes:
            changes["completed_steps"] = count
        acknowledged = await self._attempt.amend(**changes)
        self._committed = seen
        self._count = max(self._count, count)
        wanted = continuation(acknowledged.intent, stopping=self._attempt.stopping, done=False)
        if wanted is not Continuation.GO_ON:
            self._attempt.interrupt(wanted)
        self._news.set()  # the last thing: where the coroutine has ended, `running` is done before anybody wakes

    def _reported(self, seen: OptimizationState) -> int:
        if seen.completed_steps != self._began_with:
            return seen.completed_steps
        return max(seen.completed_steps, math.floor(seen.progress * seen.total_steps + 1e-6))

    def _is_last(self, number: int) -> bool:
        total = self._committed.total_steps
        return bool(total) and number + 1 >= total

    def _stopped(self, running: asyncio.Task[bool]) -> None:
        if not running.cancelled():
            running.exception()  # an attempt that was cut off asks for it no more, and asyncio would complain
        self._news.set()

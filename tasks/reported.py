"""Runs a coroutine strategy beside Prefect tasks, one of which waits for each step that the strategy reports.

Contract. Assignments are committed when they are seen, whichever task waits. The strategy reports a step by
`completed_steps`, or else by `progress` of `total_steps`, from which `completed_steps` then follows. The task of a step
ends when its report is committed, the last one when the coroutine has ended. An error fails the task of the first step
that was not reported.
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
# All that may be amended: after a resume, a strategy finds in them what it assigned.
_OBSERVED = tuple(sorted(AMENDABLE))
MOST_AT_ONCE = 100  # steps; a task takes Prefect 30 ms, and a strategy may report thousands of steps a second


class ReportedSteps:
    """Starts the coroutine. Owned by the event loop of its attempt; one task waits at a time.

    A commit's answer has the present intent: if the strategy must end, the attempt is interrupted after the commit.
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
            logger.info("steps %d to %d were reported at once and have one task", number, self._count - 1)
            number = self._count - 1
            self._attempt.next_step = self._count
        if not self.running.done() or self._count > number + 1:
            return Continuation.GO_ON
        failed = not self.running.cancelled() and self.running.exception() is not None
        if failed and self._count > number and not self._is_last(number):
            return Continuation.GO_ON  # it failed in the next step
        return Continuation.PAUSE if self.running.result() else Continuation.DONE

    def ended(self) -> Continuation | None:
        """How it ended by itself; None if it runs or was cut off. Raises what it raised."""
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
        self._news.set()  # last: if the coroutine has ended, `running` is done before a task wakes

    def _reported(self, seen: OptimizationState) -> int:
        if seen.completed_steps != self._began_with:
            return seen.completed_steps
        return max(seen.completed_steps, math.floor(seen.progress * seen.total_steps + 1e-6))

    def _is_last(self, number: int) -> bool:
        total = self._committed.total_steps
        return bool(total) and number + 1 >= total

    def _stopped(self, running: asyncio.Task[bool]) -> None:
        if not running.cancelled():
            running.exception()  # otherwise asyncio would warn of an error that an interrupted attempt never reads
        self._news.set()

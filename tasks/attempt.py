"""One attempt at an optimization while it lives in this process: its claim, its strategy, and what cuts it off.

Flow and tasks hand each other plain tickets; the live parts are looked up here by the flow run's id. Another
process that is given the same ticket would open its own: nothing here is needed that the store does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from o9.lifecycle.effect import Best
from o9.model.errors import OptimizationCoordinationError
from o9.model.optimization import OptimizationState, utc_now
from o9.store.leases import Claimed
from o9.store.store import Store
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.factory import StepAttempt

T = TypeVar("T")


class Verdict(str, Enum):
    """What follows a step: the next one, or one of the ways in which an attempt ends."""

    GO_ON = "go on"
    DONE = "done"
    PAUSE = "pause"
    CANCEL = "cancel"
    TIME_OUT = "time out"
    REQUEUE = "requeue"


class Interrupted(Exception):
    """The step in flight was cut off; nothing of it was committed."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.value)
        self.verdict = verdict


@dataclass
class Attempt:
    """Owned by the event loop that runs the flow; `interrupt` and `stop_after_step` may be called from it alone."""

    store: Store
    claimed: Claimed
    node: str
    strategy: StepAttempt | CoroutineAttempt | None = None
    checkpoint: dict[str, Any] | None = None
    best: Best | None = None
    deadline: datetime | None = None
    stopping: bool = False
    observe_seconds: float = 1.0
    _cut_off: asyncio.Future[Verdict] | None = field(default=None, repr=False)
    _wanted: Verdict | None = None

    def stop_after_step(self) -> None:
        """Its node stops in good order: commit the step in flight, then wait for the next attempt elsewhere."""
        self.stopping = True

    def interrupt(self, verdict: Verdict) -> None:
        """Cut off what is in flight."""
        self._wanted = verdict
        if self._cut_off is not None and not self._cut_off.done():
            self._cut_off.set_result(verdict)

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`; raises Interrupted when it was cut off by `interrupt` or by the deadline."""
        self._cut_off = asyncio.get_running_loop().create_future()
        if self._wanted is not None:
            self._cut_off.set_result(self._wanted)
        task = asyncio.ensure_future(work)
        left = None if self.deadline is None else max(0.0, (self.deadline - utc_now()).total_seconds())
        try:
            waiting: set[asyncio.Future[Any]] = {task, self._cut_off}
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Interrupted(self._cut_off.result() if self._cut_off.done() else Verdict.TIME_OUT)
        finally:
            self._cut_off.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


_live: dict[str, Attempt] = {}


def register(flow_run_id: Any, attempt: Attempt) -> None:
    _live[str(flow_run_id)] = attempt


def forget(flow_run_id: Any) -> None:
    _live.pop(str(flow_run_id), None)


def find(flow_run_id: Any) -> Attempt | None:
    return _live.get(str(flow_run_id))


def attempt_of(flow_run_id: Any) -> Attempt:
    attempt = find(flow_run_id)
    if attempt is None:
        raise OptimizationCoordinationError(f"flow run {flow_run_id} has no attempt in this process")
    return attempt


def deadline_of(state: OptimizationState) -> datetime | None:
    """When `metadata.timeout_seconds` of running is used up; what earlier attempts ran counts."""
    seconds = state.metadata.get("timeout_seconds")
    return None if seconds is None else utc_now() + timedelta(seconds=float(seconds) - state.execution_time)

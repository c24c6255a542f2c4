"""An attempt at an optimization in this process: its claim, its strategy, and its interruption.

Flow and tasks pass plain data to each other, and find the attempt by the flow run's id. Another process with the same
data could make its own: everything here can be made from the store.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from o9.lifecycle.effect import Best, Streak
from o9.mirror.observed_state import Run
from o9.mirror.run_registry import RUNS, LiveRun
from o9.mirror.spooling_writer import writer_of
from o9.model.errors import OptimizationCoordinationError, StoreUnavailableError
from o9.model.loops import Backoff, with_retries
from o9.model.optimization import OptimizationState
from o9.model.states import Intent, OptimizationStatus
from o9.monitor.resources import Meter
from o9.store.core.unit import Operation
from o9.store.optimizations.commit_step import Acknowledged, Amend
from o9.store.queue.claims import Claimed
from o9.store.store import Store
from o9.strategies.coroutine import CoroutineAttempt
from o9.strategies.factory import StepAttempt
from o9.strategies.optuna_strategy import OptunaStrategy

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

    from o9.tasks.reported import ReportedSteps

T = TypeVar("T")
P = ParamSpec("P")
Guard = Callable[[str, OptimizationStatus], Awaitable[None]]
logger = logging.getLogger(__name__)
CUT_OFF_SECONDS = 7.0  # longer than strategies wait for what they cut off
STORE_BACKOFF = Backoff(0.2, 2.0)


class Continuation(str, Enum):
    """What follows a step: the next one, or an end of the attempt."""

    GO_ON = "go on"
    DONE = "done"
    PAUSE = "pause"
    SUSPEND = "suspend"
    CANCEL = "cancel"
    TIME_OUT = "time out"
    REQUEUE = "requeue"
    REPLACED = "replaced"


# The intents that do not wait for the step in flight.
CUTS_OFF = {
    Intent.CANCEL: Continuation.CANCEL,
    Intent.TIME_OUT: Continuation.TIME_OUT,
    Intent.SUSPEND: Continuation.SUSPEND,
}
INTENDED = {**CUTS_OFF, Intent.PAUSE: Continuation.PAUSE}


def continuation(intent: Intent, *, stopping: bool, done: bool) -> Continuation:
    """What follows a step: a finished optimization is done; else people's intents come first, then the node's stop."""
    if done:
        return Continuation.DONE
    if intent in INTENDED:
        return INTENDED[intent]
    return Continuation.REQUEUE if stopping else Continuation.GO_ON


class StepInterrupted(Exception):
    """The step in flight was cut off, and nothing of it was committed."""

    def __init__(self, following: Continuation) -> None:
        super().__init__(following.value)
        self.following = following


@dataclass
class Attempt:
    """Owned by the event loop that runs the flow; only that may call `interrupt` and `stop_after_step`."""

    store: Store
    claimed: Claimed
    node: str
    state: OptimizationState | None = None  # as of the last commit
    strategy: StepAttempt | CoroutineAttempt | None = None
    checkpoint: dict[str, Any] | None = None
    best: Best | None = None
    streak: Streak = field(default_factory=Streak)
    deadline: float | None = None  # of the monotonic clock
    stopping: bool = False
    meter: Meter | None = None
    asked_by: str = ""  # who requested its end
    observe_seconds: float = 1.0
    guard: Guard | None = None  # called before a change of status, which it forbids by raising
    task_runner: TaskRunner[Any] | None = None  # evaluates the trials; None: this process and its children
    reported: ReportedSteps | None = None  # of a coroutine strategy, once it runs
    next_step: int = 0  # all earlier steps are done
    # The flow's: a coroutine strategy, which runs through all tasks, must not have the context of the first one.
    context: contextvars.Context | None = field(default=None, repr=False)
    _cut_off: asyncio.Future[Continuation] | None = field(default=None, repr=False)
    _wanted: Continuation | None = None

    @property
    def holds_out(self) -> bool:
        """Whether the best is evaluated on held-out periods after the last step."""
        return isinstance(self.strategy, OptunaStrategy) and self.strategy.holds_out

    def live_run(self, flow_run_id: Any, *, by_prefect: bool = False) -> LiveRun:
        """The entry for the run registry; hooks record the states of the flow runs in it."""
        run = Run(str(flow_run_id), self.claimed.optimization_id, self.claimed.attempt)
        return LiveRun(run, self.node, self, writer_of(self.store), by_prefect)

    async def write(self, operation: Operation[T]) -> T:
        """Write durably; wait while the store is away, so that no result is lost."""
        return await wait_for_store(lambda: self.store.write_async(operation), self.claimed.optimization_id)

    async def amend(self, **changes: Any) -> Acknowledged:
        acknowledged = await self.write(Amend(self.claimed.optimization_id, changes, fence=self.claimed.fence))
        for name, value in changes.items():
            setattr(self.state, name, value)
        return acknowledged

    async def read(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await wait_for_store(lambda: self.store.read_async(query, *args, **kwargs), self.claimed.optimization_id)

    def stop_after_step(self) -> None:
        """Commit the step in flight, then queue the optimization again, because the node stops."""
        self.stopping = True

    def apply_intent(self, intent: Intent) -> None:
        """Act on an intent. A strategy with steps reads a pause from its next commit, a coroutine strategy here."""
        if following := CUTS_OFF.get(intent):
            self.interrupt(following)
        elif intent is Intent.PAUSE and self.strategy is not None and self.strategy.kind == "coroutine":
            self.interrupt(Continuation.PAUSE)

    def interrupt(self, following: Continuation) -> None:
        """Cut off the step in flight, or else the next one."""
        self._wanted = following
        if self._cut_off is not None and not self._cut_off.done():
            self._cut_off.set_result(following)

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`; raises StepInterrupted if `interrupt` or the deadline cuts it off."""
        self._cut_off = asyncio.get_running_loop().create_future()
        if self._wanted is not None:
            self._cut_off.set_result(self._wanted)
        task = asyncio.ensure_future(work)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        try:
            waiting: set[asyncio.Future[Any]] = {task, self._cut_off}
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise StepInterrupted(self._cut_off.result() if self._cut_off.done() else Continuation.TIME_OUT)
        finally:
            self._cut_off.cancel()
            await self.end(task)

    async def end(self, task: asyncio.Future[Any]) -> None:
        """Cancel `task` and wait for it; abandon it if the user's code ignores its cancellation."""
        if task.done():
            return
        task.cancel()
        await asyncio.wait({task}, timeout=CUT_OFF_SECONDS)
        if not task.done():
            logger.warning("%s: its code ignores its cancellation; abandoned", self.claimed.optimization_id)
            RUNS.abandoned.add(task)
            task.add_done_callback(RUNS.abandoned.discard)

    async def end_reported(self) -> None:
        """Cut off a coroutine strategy, if it still runs."""
        if self.reported is not None:
            await self.end(self.reported.running)

    async def close(self) -> None:
        """End what the strategy started. Called once."""
        await self.end_reported()
        if self.strategy is not None and self.strategy.kind == "steps":
            await self.strategy.close()


async def wait_for_store(access: Callable[[], Awaitable[T]], name: str) -> T:
    """The result of `access`, which is repeated while the store is away. Any other error is raised at once."""

    def log_wait(error: Exception, failures: int) -> None:
        logger.log(logging.WARNING if failures == 1 else logging.DEBUG, "%s waits for the store: %s", name, error)

    return await with_retries(access, StoreUnavailableError, STORE_BACKOFF, log_wait)


def has_abandoned_code() -> bool:
    """Whether users' code that ignored its cancellation still runs in this process's event loops."""
    return bool(RUNS.abandoned)


def attempt_of(flow_run_id: Any) -> Attempt:
    """The attempt of this flow run. Raises OptimizationCoordinationError where this process has none."""
    live = RUNS.find(flow_run_id)
    if live is None or not isinstance(live.work, Attempt):
        raise OptimizationCoordinationError(f"flow run {flow_run_id} has no attempt in this process")
    return live.work


def deadline_of(state: OptimizationState) -> float | None:
    """When `metadata.timeout_seconds` are used up, by `time.monotonic`; the time of earlier attempts counts."""
    seconds = state.metadata.get("timeout_seconds")
    return None if seconds is None else time.monotonic() + float(seconds) - state.execution_time

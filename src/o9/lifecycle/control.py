"""Submits, starts, pauses, resumes, cancels, times out and retries optimizations: the only module that does.

Contract. The aggregator, the coordinator, the lifecycle manager, the API, the command line and actions in Prefect all
call it: the same verb gives the same result, calls the same hooks and raises the same errors. A running attempt carries
out what is asked; what nobody works on is moved at once. A verb without effect is no error. The hooks are the callbacks
of `component`; those of other processes are not called.

Raises OptimizationNotFoundError for an unknown id, OptimizationStateError where the present state forbids it,
OptimizationLifecycleError where a `before` hook does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from o9.lifecycle.heartbeat import warn_if_nobody_works
from o9.lifecycle.placebos import RUNS, submit_placebos
from o9.lifecycle.submission import retry, submit
from o9.model.component import CALLBACK_SECONDS, call_callback
from o9.model.errors import OptimizationLifecycleError
from o9.model.loops import check_loop
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import Intent, OptimizationStatus, TransitionReason
from o9.store import queries
from o9.store.core.component import StoreComponent
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


class Verb(str, Enum):
    """What a person asks for; the values are the names of commands and routes."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    START = "start"

    @property
    def intent(self) -> Intent:
        return {Verb.PAUSE: Intent.PAUSE, Verb.CANCEL: Intent.CANCEL}.get(self, Intent.RUN)


# The status that an intent leads to, and whose `before` hooks are asked.
_LEADS_TO = {
    Intent.RUN: OptimizationStatus.CREATED, Intent.PAUSE: OptimizationStatus.PAUSED,
    Intent.CANCEL: OptimizationStatus.CANCELLED, Intent.TIME_OUT: OptimizationStatus.TIMEOUT,
}  # fmt: skip


def control_of(store: Store) -> Control:
    """For a process without hooks, which reports by itself whether anybody runs what it queues."""
    return Control(StoreComponent(store), warns=False)


class Control:
    """Where no process runs what is queued, the log warns of it, unless `warns` is False.

    While `follows_record` answers True, the reader of the record calls the `after` hooks.
    """

    def __init__(self, component: StoreComponent, *, warns: bool = True) -> None:
        self._component = component
        self._warns = warns
        self._wake: Callable[[], None] | None = None
        self._takes: Callable[[str], bool] = lambda _: True
        self._loop: asyncio.AbstractEventLoop | None = None
        self.follows_record: Callable[[], bool] = lambda: False

    def run_by(self, wake: Callable[[], None] | None, takes: Callable[[str], bool] = lambda _: True) -> None:
        """From now on what is queued runs in this process, at once after `wake()`; None: no longer.

        takes: whether this process claims an id. Calls from another event loop then raise OptimizationError.
        """
        self._takes = takes
        self._wake, self._loop = wake, asyncio.get_running_loop() if wake else None

    @property
    def _store(self) -> Store:
        check_loop(self._loop, "the aggregator")
        return self._component.store

    async def submit(
        self,
        state: OptimizationState,
        *,
        hold: bool = False,
        allowed_imports: tuple[str, ...] | None = None,
    ) -> OptimizationState:
        """Record it, durably; returns what was recorded. See `o9.lifecycle.submission.submit`."""
        recorded = await submit(self._store, state, allowed_imports=allowed_imports, hold=hold)
        return await self._created(recorded, hold=hold)

    async def retry(
        self, optimization_id: str, from_step: int | None, new_id: str | None, *, hold: bool = False
    ) -> OptimizationState:
        """Record it once more, under a new id. See `o9.lifecycle.submission.retry`."""
        recorded = await retry(self._store, optimization_id, from_step=from_step, new_id=new_id, hold=hold)
        return await self._created(recorded, hold=hold)

    async def placebo(
        self, optimization_id: str, runs: int, *, allowed_imports: tuple[str, ...] | None = None
    ) -> list[OptimizationState]:
        """Queue placebo runs of it. See `o9.lifecycle.placebos.submit_placebos`."""
        found = await submit_placebos(self._component.store, optimization_id, runs, allowed_imports=allowed_imports)
        return [await self._created(state) for state in found]

    async def carry_out(self, verb: Verb, optimization_id: str, by: str) -> OptimizationStatus:
        """The status afterwards. START moves what was initialized by hand to running; else it is the same as RESUME."""
        store = self._store
        if verb is Verb.START:
            holding = await store.read_async(queries.holding, optimization_id)
            initializing = OptimizationStatus.INITIALIZING.value
            # What a node has a lease on its attempt prepares, and moves by itself.
            if holding is not None and (holding.status, holding.lease_node) == (initializing, None):
                await self.move(optimization_id, OptimizationStatus.RUNNING, version=holding.version)
                return OptimizationStatus.RUNNING
        return await self.request(optimization_id, verb.intent, by)

    async def request(self, optimization_id: str, intent: Intent, by: str) -> OptimizationStatus:
        """Record what `by` wants; returns the status afterwards."""
        store, to = self._store, _LEADS_TO[intent]
        before = await self._component.existing(optimization_id)
        if before.status is not to:
            await self.guard(optimization_id, to)
        after = await store.write_async(SetIntent(optimization_id, intent, by))
        if after is not before.status:
            await self._moved(optimization_id, after)
        if intent is Intent.RUN and after is OptimizationStatus.CREATED:
            await self._queued(optimization_id)
        elif self._wake is not None:
            self._wake()
        return after

    async def move(
        self, optimization_id: str, to: OptimizationStatus, *, issue: str | None = None, version: int | None = None
    ) -> None:
        """By hand, without the queue."""
        store = self._store
        await self._component.existing(optimization_id)
        await self.guard(optimization_id, to)
        node = settings().node_id
        reason = await store.write_async(
            Transition(optimization_id, to, Cause.PERSON, "by hand", node, version=version, issue=issue)
        )
        if reason is TransitionReason.ALLOWED:
            await self._moved(optimization_id, to)

    async def guard(self, optimization_id: str, to: OptimizationStatus) -> None:
        """Ask the `before` hooks. Raises OptimizationLifecycleError where one of them forbids it."""
        for hook in self._component.callbacks_of(event := f"before_{to.value}"):
            try:
                await call_callback(hook, optimization_id)
            except TimeoutError as error:
                raise OptimizationLifecycleError(
                    f"the hook for {event} did not end within {CALLBACK_SECONDS} s"
                ) from error
            except (Exception, SystemExit) as error:
                raise OptimizationLifecycleError(f"the hook for {event} raised {error!r}") from error

    async def _created(self, recorded: OptimizationState, *, hold: bool = False) -> OptimizationState:
        await self._component.emit("on_create", recorded)
        if not hold and recorded.status is OptimizationStatus.CREATED:
            await self._queued(recorded.optimization_id)
        return recorded

    async def _moved(self, optimization_id: str, to: OptimizationStatus) -> None:
        if not self.follows_record():
            await self._component.emit(f"after_{to.value}", optimization_id)

    async def _queued(self, optimization_id: str) -> None:
        if self._wake is not None and self._takes(optimization_id):
            self._wake()
        elif self._warns:
            await warn_if_nobody_works(self._store, optimization_id)


class ControlVerbs:
    """The verbs as methods of what has a `Control`."""

    _control: Control

    @property
    def control(self) -> Control:
        """Where its verbs are carried out."""
        return self._control

    async def retry_optimization(
        self, optimization_id: str, from_step: int | None = None, new_id: str | None = None
    ) -> str:
        """Run one that has ended again from one of its checkpoints, with the same seed; returns the new one's id."""
        return (await self.control.retry(optimization_id, from_step, new_id)).optimization_id

    async def submit_placebos(self, optimization_id: str, runs: int = RUNS) -> list[str]:
        """Queue the same search `runs` times on data whose edge was destroyed; returns the ids, by number.

        Those that are there already are not queued again. What came of them: `queries.placebos`, and the verdict.
        """
        return [state.optimization_id for state in await self.control.placebo(optimization_id, runs)]

    async def start_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Queue what was created and held back, or paused; what was initialized by hand runs from now on."""
        await self.control.carry_out(Verb.START, optimization_id, by)
        return True

    async def pause_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight finishes and is committed; then the slot is free."""
        await self.control.carry_out(Verb.PAUSE, optimization_id, by)
        return True

    async def resume_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """It waits for its turn, and goes on behind the last committed step."""
        await self.control.carry_out(Verb.RESUME, optimization_id, by)
        return True

    async def cancel_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight is cut off at once, for good; the best so far is kept."""
        await self.control.carry_out(Verb.CANCEL, optimization_id, by)
        return True

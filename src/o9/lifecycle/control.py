"""Submits, starts, pauses, resumes, cancels, times out and retries optimizations. No other module does.

Contract. The aggregator, the coordinator, the lifecycle manager, the API, the command line and actions in Prefect all
call it, so that a verb has the same result, calls the same hooks and raises the same errors everywhere. A running
attempt carries out a request by itself; an optimization that no node holds changes its status at once. A verb without
effect is not an error. The hooks are the callbacks of `component`; those of other processes are not called.

Raises OptimizationNotFoundError for an unknown id, OptimizationStateError where the present state forbids it,
OptimizationLifecycleError where a `before` hook does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from o9.lifecycle.heartbeat import warn_if_not_claimed
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
    """What a person requests; the values are the names of commands and routes."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    START = "start"

    @property
    def intent(self) -> Intent:
        return {Verb.PAUSE: Intent.PAUSE, Verb.CANCEL: Intent.CANCEL}.get(self, Intent.RUN)


# The status that an intent leads to, and whose `before` hooks are called.
_LEADS_TO = {
    Intent.RUN: OptimizationStatus.CREATED, Intent.PAUSE: OptimizationStatus.PAUSED,
    Intent.CANCEL: OptimizationStatus.CANCELLED, Intent.TIME_OUT: OptimizationStatus.TIMEOUT,
}  # fmt: skip


def control_of(store: Store) -> Control:
    """The control for a process without hooks, which itself reports whether a node runs what it queues."""
    return Control(StoreComponent(store), warns=False)


class Control:
    """Calls the callbacks of `component` as hooks.

    warns: log a warning where no process runs what is queued. follows_record: while it returns True, a reader of the
    record calls the `after` hooks.
    """

    def __init__(self, component: StoreComponent, *, warns: bool = True) -> None:
        self._component = component
        self._warns = warns
        self._wake: Callable[[], None] | None = None
        self._claims: Callable[[str], bool] = lambda _: True
        self._loop: asyncio.AbstractEventLoop | None = None
        self.follows_record: Callable[[], bool] = lambda: False

    def run_by(self, wake: Callable[[], None] | None, claims: Callable[[str], bool] = lambda _: True) -> None:
        """From now on this process runs what is queued, at once after `wake()`; None: it no longer does.

        claims: whether this process claims an id. Calls from another event loop then raise OptimizationError.
        """
        self._claims = claims
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
        """Record it durably; returns what was recorded. See `o9.lifecycle.submission.submit`."""
        recorded = await submit(self._store, state, allowed_imports=allowed_imports, hold=hold)
        return await self._created(recorded, hold=hold)

    async def retry(
        self, optimization_id: str, from_step: int | None, new_id: str | None, *, hold: bool = False
    ) -> OptimizationState:
        """Record it again, under a new id. See `o9.lifecycle.submission.retry`."""
        recorded = await retry(self._store, optimization_id, from_step=from_step, new_id=new_id, hold=hold)
        return await self._created(recorded, hold=hold)

    async def placebo(
        self, optimization_id: str, runs: int, *, allowed_imports: tuple[str, ...] | None = None
    ) -> list[OptimizationState]:
        """Queue placebo runs of it. See `o9.lifecycle.placebos.submit_placebos`."""
        found = await submit_placebos(self._component.store, optimization_id, runs, allowed_imports=allowed_imports)
        return [await self._created(state) for state in found]

    async def carry_out(self, verb: Verb, optimization_id: str, by: str) -> OptimizationStatus:
        """Returns the status afterwards. START moves what was initialized by hand to running; else it is RESUME."""
        store = self._store
        if verb is Verb.START:
            holding = await store.read_async(queries.holding, optimization_id)
            initializing = OptimizationStatus.INITIALIZING.value
            # With a lease, an attempt is preparing it, and will move it by itself.
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
        """Change the status by hand, without the queue."""
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
        """Call the `before` hooks. Raises OptimizationLifecycleError where one of them forbids the status."""
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
        if self._wake is not None and self._claims(optimization_id):
            self._wake()
        elif self._warns:
            await warn_if_not_claimed(self._store, optimization_id)


class ControlVerbs:
    """The verbs as methods, for classes with a `Control`."""

    _control: Control

    @property
    def control(self) -> Control:
        """The control that the verbs call."""
        return self._control

    async def retry_optimization(
        self, optimization_id: str, from_step: int | None = None, new_id: str | None = None
    ) -> str:
        """Run an ended optimization again from one of its checkpoints, with the same seed; returns the new id."""
        return (await self.control.retry(optimization_id, from_step, new_id)).optimization_id

    async def submit_placebos(self, optimization_id: str, runs: int = RUNS) -> list[str]:
        """Queue the same search `runs` times on data whose edge was destroyed; returns the ids, by number.

        Existing ones are not queued again. `queries.placebos` and the verdict have the results.
        """
        return [state.optimization_id for state in await self.control.placebo(optimization_id, runs)]

    async def start_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Queue what was held back or paused; move what was initialized by hand to running."""
        await self.control.carry_out(Verb.START, optimization_id, by)
        return True

    async def pause_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Pause behind the step in flight, which is committed; then the slot is free."""
        await self.control.carry_out(Verb.PAUSE, optimization_id, by)
        return True

    async def resume_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Queue it again; it continues behind the last committed step."""
        await self.control.carry_out(Verb.RESUME, optimization_id, by)
        return True

    async def cancel_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Cut off the step in flight, and end the optimization; the best so far is kept."""
        await self.control.carry_out(Verb.CANCEL, optimization_id, by)
        return True

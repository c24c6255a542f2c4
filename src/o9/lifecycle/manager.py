"""The life of an optimization by hand: create it, start it, move it, look at where it has been.

What somebody is at work on (an attempt holds it) is only asked: to pause, to be cancelled, to time out; the attempt
carries that out. What nobody holds is moved at once. Every move goes through the store's one transition function; what
the table forbids raises OptimizationStateError. What is queued while no aggregator runs on the store waits, and a
warning says so.

Hooks: `on_create(state)`; `before_<status>(id)`, which forbids the move by raising; `after_<status>(id)`. In an
aggregator they are called around all that its own attempts do as well: a `before_initializing`, `before_running` or
`before_completed` that raises pauses or fails the optimization and says why; `after_…` follows within the monitoring
interval. What other processes do with an optimization asks no hook of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from o9.lifecycle.presence import warn_if_nobody_works
from o9.lifecycle.submission import retry, submit
from o9.model.component import CALLBACK_SECONDS, Registered, called
from o9.model.errors import OptimizationLifecycleError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import Intent, OptimizationStatus, Reason
from o9.store.component import StoreComponent
from o9.store.intents import SetIntent
from o9.store.store import Store
from o9.store.transitions import Cause, Transition

EVENTS = (
    "on_create",
    *(f"{when}_{status.value}" for when in ("before", "after") for status in OptimizationStatus),
)


class OptimizationLifecycleManager(StoreComponent):
    """See the module. Each moving method answers True, or raises; what is so already is True as well."""

    events = EVENTS

    def __init__(self, *, store: Store | None = None) -> None:
        super().__init__(store)
        self._is_told: Callable[[], bool] = lambda: False

    async def create_optimization(self, state: OptimizationState) -> str:
        """Record a new optimization; returns its id. It is not queued before `start_optimization`."""
        created = await submit(self.store, state, node=settings().node_id, hold=True)
        await self.created(created)
        return created.optimization_id

    async def retry_optimization(
        self, optimization_id: str, from_step: int | None = None, new_id: str | None = None
    ) -> str:
        """Run one that has ended again from one of its checkpoints, with the same seed; returns the new one's id."""
        again = await retry(self.store, optimization_id, from_step=from_step, new_id=new_id, node=settings().node_id)
        await self.created(again)
        await warn_if_nobody_works(self.store, again.optimization_id)
        return again.optimization_id

    async def initialize_optimization(self, optimization_id: str) -> bool:
        """By hand, without the queue: whoever calls this runs it himself."""
        return await self._move(optimization_id, OptimizationStatus.INITIALIZING)

    async def start_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """Queue what was created or paused; what was initialized by hand runs from now on."""
        holding = await self.store.read_async(self.store.holding, optimization_id)
        initializing = OptimizationStatus.INITIALIZING.value
        # What a node has a lease on its attempt prepares, and moves by itself.
        if holding is not None and (holding.status, holding.lease_node) == (initializing, None):
            return await self._move(optimization_id, OptimizationStatus.RUNNING, version=holding.version)
        return await self._want(optimization_id, Intent.RUN, by)

    async def pause_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight finishes and is committed."""
        return await self._want(optimization_id, Intent.PAUSE, by, OptimizationStatus.PAUSED)

    async def resume_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """It waits for its turn again, and goes on behind the last committed step."""
        return await self._want(optimization_id, Intent.RUN, by)

    async def complete_optimization(self, optimization_id: str) -> bool:
        """By hand: it has completed. Final."""
        return await self._move(optimization_id, OptimizationStatus.COMPLETED)

    async def fail_optimization(self, optimization_id: str, error: str | BaseException = "failed by hand") -> bool:
        """By hand: it has failed, and `error` is the last of its issues. Final."""
        return await self._move(optimization_id, OptimizationStatus.FAILED, issue=str(error) or repr(error))

    async def cancel_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight is cut off; the best so far is kept. Final."""
        return await self._want(optimization_id, Intent.CANCEL, by, OptimizationStatus.CANCELLED)

    async def timeout_optimization(self, optimization_id: str, by: str = "python") -> bool:
        """The step in flight is cut off. Final."""
        return await self._want(optimization_id, Intent.TIME_OUT, by, OptimizationStatus.TIMEOUT)

    async def get_lifecycle_state(self, optimization_id: str) -> OptimizationStatus | None:
        """Its status, also after the end; None where there is no such optimization."""
        state = await self.get_optimization_status(optimization_id)
        return state.status if state else None

    async def get_lifecycle_history(self, optimization_id: str) -> list[dict[str, Any]]:
        """Every transition so far: from_state, to_state, timestamp, cause, message, attempt, Prefect's ids."""
        rows = await self.store.read_async(self.store.transitions, optimization_id)
        return [
            {
                "from_state": OptimizationStatus(row["from_status"]) if row["from_status"] else None,
                "to_state": OptimizationStatus(row["to_status"]),
                "timestamp": datetime.fromisoformat(row["at"]),
                **{key: row[key] for key in ("cause", "message", "node", "attempt", "prefect_run_id")},
            }
            for row in rows
        ]

    def register_lifecycle_hook(self, event: str, hook: Callable[..., Any]) -> Registered:
        """Call `hook` (sync or async) at `event`; takes effect at once, and may be awaited."""
        return self.register_callback(event, hook)

    async def guard(self, optimization_id: str, to: OptimizationStatus) -> None:
        """Ask the `before` hooks. Raises OptimizationLifecycleError where one of them forbids it."""
        for hook in list(self._callbacks.get(event := f"before_{to.value}", ())):
            try:
                await called(hook, optimization_id)
            except TimeoutError as error:
                raise OptimizationLifecycleError(
                    f"the hook for {event} did not end within {CALLBACK_SECONDS} s"
                ) from error
            except (Exception, SystemExit) as error:
                raise OptimizationLifecycleError(f"the hook for {event} raised {error!r}") from error

    async def created(self, state: OptimizationState) -> None:
        """Call the `on_create` hooks for one that was recorded elsewhere."""
        await self.emit("on_create", state)

    def be_told(self, is_told: Callable[[], bool]) -> Callable[[Mapping[str, Any]], Any]:
        """`after` hooks are called for the transitions that are given to what this returns.

        While `is_told` says so, they are called for no others.
        """
        self._is_told = is_told

        async def tell(transition: Mapping[str, Any]) -> None:
            await self.emit(f"after_{transition['to_status']}", transition["optimization_id"])

        return tell

    async def _want(
        self, optimization_id: str, intent: Intent, by: str, to: OptimizationStatus = OptimizationStatus.CREATED
    ) -> bool:
        before = await self.existing(optimization_id)
        if before.status is not to:
            await self.guard(optimization_id, to)
        after = await self.store.write_async(SetIntent(optimization_id, intent, by))
        if after is not before.status and not self._is_told():
            await self.emit(f"after_{after.value}", optimization_id)
        if intent is Intent.RUN and after is OptimizationStatus.CREATED:
            await warn_if_nobody_works(self.store, optimization_id)
        return True

    async def _move(
        self, optimization_id: str, to: OptimizationStatus, issue: str | None = None, version: int | None = None
    ) -> bool:
        await self.existing(optimization_id)
        await self.guard(optimization_id, to)
        reason = await self.store.write_async(
            Transition(optimization_id, to, Cause.PERSON, "by hand", settings().node_id, version=version, issue=issue)
        )
        if reason is Reason.ALLOWED and not self._is_told():
            await self.emit(f"after_{to.value}", optimization_id)
        return True

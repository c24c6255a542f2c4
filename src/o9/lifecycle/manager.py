"""The life of an optimization by hand: create it, move it, look at where it has been.

Every move goes through the store's one transition function; what the table forbids raises OptimizationStateError.
Hooks: `on_create(state)`; `before_<status>(id)`, which forbids the move by raising; `after_<status>(id)`. They
are called around the moves made through this manager.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any

from o9.lifecycle.submission import submit
from o9.model.component import Registered
from o9.model.errors import OptimizationLifecycleError, OptimizationStateError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import OptimizationStatus, Reason
from o9.store.component import StoreComponent
from o9.store.store import Store
from o9.store.transitions import Cause, Transition

EVENTS = (
    "on_create",
    *(f"{when}_{status.value}" for when in ("before", "after") for status in OptimizationStatus),
)


class OptimizationLifecycleManager(StoreComponent):
    """See the module. Each moving method answers True, or raises; moving to where it is already is True as well."""

    events = EVENTS

    def __init__(self, *, store: Store | None = None) -> None:
        super().__init__(store)
        self._hooks: dict[str, list[Callable[..., Any]]] = {}

    async def create_optimization(self, state: OptimizationState) -> str:
        """Record a new optimization; returns its id."""
        created = await submit(self.store, state, node=settings().node_id)
        await self._call("on_create", created)
        return created.optimization_id

    async def initialize_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.INITIALIZING)

    async def start_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.RUNNING)

    async def pause_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.PAUSED)

    async def resume_optimization(self, optimization_id: str) -> bool:
        """Back to where it can run: it waits for its turn again."""
        return await self._move(optimization_id, OptimizationStatus.CREATED)

    async def complete_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.COMPLETED)

    async def fail_optimization(self, optimization_id: str, error: str | BaseException = "failed by hand") -> bool:
        return await self._move(optimization_id, OptimizationStatus.FAILED, issue=str(error))

    async def cancel_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.CANCELLED)

    async def timeout_optimization(self, optimization_id: str) -> bool:
        return await self._move(optimization_id, OptimizationStatus.TIMEOUT)

    async def get_lifecycle_state(self, optimization_id: str) -> OptimizationStatus | None:
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
        if event not in EVENTS:
            raise OptimizationValidationError("event", f"{event!r} is not one of {', '.join(EVENTS)}")
        self._hooks.setdefault(event, []).append(hook)
        return Registered()

    async def _move(self, optimization_id: str, to: OptimizationStatus, issue: str | None = None) -> bool:
        await self.existing(optimization_id)
        await self._call(f"before_{to.value}", optimization_id)
        reason = await self.store.write_async(
            Transition(optimization_id, to, Cause.PERSON, "by hand", settings().node_id, issue=issue)
        )
        if reason is Reason.ALLOWED:
            await self._call(f"after_{to.value}", optimization_id)
        return True

    async def _call(self, event: str, argument: Any) -> None:
        for hook in self._hooks.get(event, []):
            try:
                answer = hook(argument)
                if inspect.isawaitable(answer):
                    await answer
            except OptimizationStateError:
                raise
            except Exception as error:
                raise OptimizationLifecycleError(f"the hook for {event} raised {error!r}") from error

"""Recording intents. An intent takes effect at once if no attempt is running, else with the attempt's next commit.

O9's own intents work the same way: `Suspend` stops an attempt, `EndSuspension` queues the optimization again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from o9.model.errors import OptimizationStateError
from o9.model.optimization import OptimizationState
from o9.model.states import (
    ACTIVE,
    ENDED,
    FINAL_INTENTS,
    INTENDED_END,
    RESTS,
    Intent,
    OptimizationStatus,
    SuspendedFor,
    TransitionReason,
    at_rest,
    decide_intent,
)
from o9.store.core.column_types import STATE_FIELDS, free_text, row_to_state
from o9.store.core.unit import OnOptimization, Row, UnitOfWork
from o9.store.optimizations.transitions import Cause, Transition, append_issue, move
from o9.store.queue.order import queue_key
from o9.store.schema.optimizations import INTENT, OPTIMIZATION

HANDED_OVER = "prefect:"  # prefix of a lease's holder: a flow run that has not begun, by its id


@dataclass(frozen=True)
class SetIntent(OnOptimization[OptimizationStatus]):
    """Record an intent, and carry it out at once if no attempt is running.

    Repeating the present intent changes nothing, nor does asking for an end that has already come.
    """

    optimization_id: str
    intent: Intent
    by: str

    def apply(self, unit: UnitOfWork) -> OptimizationStatus:
        """Return the status afterwards. Raises OptimizationStateError if it ended, or is to end, in another way."""
        row = unit.existing(self.optimization_id)
        status, held = OptimizationStatus(row["status"]), Intent(row["intent"])
        decision = decide_intent(status, held, self.intent)
        if not decision.allowed and decision.reason is not TransitionReason.ALREADY_THERE:
            raise OptimizationStateError(f"optimization {self.optimization_id!r}: {decision.message}")
        if status in ENDED:
            return status
        if decision.allowed:
            _set_intent(unit, row, self.intent, self.by)
            if held is Intent.HOLD:
                unit.update(row, queue_key=queue_key(unit.now, row["priority"]))
        not_begun = self.intent in FINAL_INTENTS and (row["lease_node"] or "").startswith(HANDED_OVER)
        claimed = row["lease_expires_at"] is not None and not not_begun
        to = at_rest(status, self.intent, claimed=claimed)
        if to is not None:
            verb = "resume" if to is OptimizationStatus.CREATED else self.intent.value
            message = f"{verb} requested by {self.by}"
            move(unit, row, Transition(self.optimization_id, to, Cause.PERSON, message))
        return to or status


@dataclass(frozen=True)
class Suspend(OnOptimization[bool]):
    """Cut off an attempt on `node`, and suspend its optimization until `EndSuspension`; `issues` gets `why`."""

    optimization_id: str
    reason: SuspendedFor
    why: str
    node: str

    def apply(self, unit: UnitOfWork) -> bool:
        """Return False, and do nothing, if it no longer runs on `node` or has another intent."""
        row = unit.existing(self.optimization_id)
        runs = OptimizationStatus(row["status"]) in ACTIVE and row["lease_node"] == self.node
        if not runs or row["intent"] != Intent.RUN.value:
            return False
        _set_intent(unit, row, Intent.SUSPEND, self.reason.by)
        append_issue(unit, self.optimization_id, f"suspended: {self.why}")
        return True


@dataclass(frozen=True)
class EndSuspension(OnOptimization[bool]):
    """Queue an optimization that O9 suspended, since `reason` no longer holds; or end it if that was requested."""

    optimization_id: str
    reason: SuspendedFor | None
    why: str
    node: str

    def apply(self, unit: UnitOfWork) -> bool:
        """Return False, and do nothing, if it is no longer suspended or was paused or held meanwhile."""
        row = unit.existing(self.optimization_id)
        wanted = Intent(row["intent"])
        if row["status"] != OptimizationStatus.SUSPENDED.value or wanted in (Intent.PAUSE, Intent.HOLD):
            return False
        if wanted is Intent.SUSPEND:
            _set_intent(unit, row, Intent.RUN, self.reason.by if self.reason else self.node)
        to = INTENDED_END.get(wanted, OptimizationStatus.CREATED)
        move(unit, row, Transition(self.optimization_id, to, Cause.NODE, self.why, self.node))
        return True


@dataclass(frozen=True)
class Requeue(OnOptimization[None]):
    """End an attempt that is unfinished, and queue the optimization again; or carry out a pending pause or end.

    If it were queued with such an intent, it would wait for ever.
    """

    optimization_id: str
    fence: int
    why: str
    node: str
    prefect_run_id: str

    def apply(self, unit: UnitOfWork) -> None:
        """Raises StaleAttemptError if another attempt holds it."""
        row = unit.existing(self.optimization_id)
        wanted = Intent(row["intent"])
        to = (INTENDED_END | RESTS).get(wanted, OptimizationStatus.CREATED)
        queued = to is OptimizationStatus.CREATED
        then = "queued for the next attempt" if queued else f"{wanted.value} was requested"
        Transition(
            self.optimization_id, to, Cause.NODE, f"{self.why}; {then}", self.node, self.fence,
            prefect_run_id=self.prefect_run_id,
        ).apply(unit)  # fmt: skip


@dataclass(frozen=True)
class StateWithIntent:
    """An optimization with its intent, and who set that."""

    state: OptimizationState
    intent: Intent
    by: str


def suspended(connection: Connection) -> list[StateWithIntent]:
    """Return all suspended optimizations except those with an intent to pause or hold."""
    columns = [OPTIMIZATION.c[name] for name in (*STATE_FIELDS, "intent", "intent_by")]
    stay = [Intent.PAUSE.value, Intent.HOLD.value]
    found = connection.execute(
        select(*columns).where(
            OPTIMIZATION.c.status == OptimizationStatus.SUSPENDED.value, OPTIMIZATION.c.intent.not_in(stay)
        )
    )
    return [StateWithIntent(row_to_state(row), Intent(row["intent"]), row["intent_by"]) for row in found.mappings()]


def _set_intent(unit: UnitOfWork, row: Row, intent: Intent, by: str) -> None:
    """Write the intent with its author and time, and announce it in the change feed to the node that runs it."""
    asked = {"intent": intent.value, "by": free_text(by), "at": unit.now}
    unit.update(row, intent=asked["intent"], intent_by=asked["by"], intent_at=asked["at"])
    unit.insert(INTENT, {"optimization_id": row["optimization_id"], **asked})
    unit.change(row["optimization_id"], "intent")

"""The one door of a status: creating an optimization, moving it, wanting something of it, hearing from Prefect.

`o9.model.states.decide_transition` decides; `move` here is the only code that writes a status. It writes the
transition, the change and the counts in the same transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import bindparam, select, update

from o9.model.errors import (
    OptimizationConflictError,
    OptimizationError,
    OptimizationStateError,
    OptimizationValidationError,
    StaleAttemptError,
)
from o9.model.optimization import OptimizationState
from o9.model.states import (
    ACTIVE,
    ENDED,
    Decision,
    Intent,
    OptimizationStatus,
    Reason,
    decide_transition,
)
from o9.store import tables
from o9.store.codec import content_hash, free_text, moment, row_to_state, state_to_row, to_json
from o9.store.commit import OPTIMIZATION, Row, UnitOfWork
from o9.store.rollups import count_new, count_transition

TRANSITION = tables.table_of(tables.TransitionRow)
PREFECT_STATE = tables.table_of(tables.PrefectState)
# One level of priority is worth this much waiting; see `queue_key`.
AGING_SECONDS_PER_PRIORITY = 600.0
DEFAULT_MAX_ATTEMPTS = 3
# For the hot path: looking a member up, and asking it for its `.value`, cost a microsecond each in Python 3.11.
STATUSES = {status.value: status for status in OptimizationStatus}


class Cause(str, Enum):
    """Who or what made a transition happen."""

    SUBMISSION = "submission"
    CLAIM = "claim"
    HOOK = "hook"
    EVENT = "event"
    RECONCILER = "reconciler"
    PERSON = "person"
    SWEEPER = "sweeper"
    STRATEGY = "strategy"
    NODE = "node"


@dataclass(frozen=True)
class Create:
    """Record a new optimization. The same id with the same content answers with the first one, and writes nothing.

    `content` is the `content_hash` of what was asked for, where `state` has had defaults filled in since.
    """

    state: OptimizationState
    node: str = ""
    content: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.state.optimization_id,)

    def apply(self, unit: UnitOfWork) -> tuple[OptimizationState, bool]:
        """The state as recorded, and whether it is new."""
        state = self.state
        if state.status is not OptimizationStatus.CREATED:
            raise OptimizationValidationError("status", f"a new optimization is created, not {state.status.value}")
        known = unit.row(state.optimization_id)
        digest = self.content or content_hash(state)
        if known is not None:
            if known["content_hash"] != digest:
                raise OptimizationConflictError(
                    "optimization_id", f"{state.optimization_id!r} exists with other content; choose another id"
                )
            unit.flush()
            return _read_state(unit, state.optimization_id), False
        row = state_to_row(state) | {
            "updated_at": unit.now,
            "content_hash": digest,
            "strategy": str(state.metadata.get("strategy", "default")),
            "max_attempts": int(state.metadata.get("max_attempts", DEFAULT_MAX_ATTEMPTS)),
            "intent": Intent.RUN.value,
            "queue_key": queue_key(unit.now, state.priority),
        }
        unit.create(_DEFAULTS | row)
        count_new(unit, row)
        _record(unit, row, None, state.status.value, Cause.SUBMISSION, self.node)
        return _read_state(unit, state.optimization_id), True


@dataclass(frozen=True)
class Transition:
    """Move an optimization to another status. Raises OptimizationStateError where the table forbids it.

    fence: given by an attempt, None by everybody else. issue: what went wrong, kept in `issues`. Moving to
    where it already is changes nothing and answers with Reason.ALREADY_THERE.
    """

    optimization_id: str
    to: OptimizationStatus
    cause: Cause
    message: str = ""
    node: str = ""
    fence: int | None = None
    version: int | None = None
    issue: str | None = None
    prefect_run_id: str | None = None
    prefect_state_id: str | None = None
    ran_until: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> Reason:
        row = existing(unit, self.optimization_id)
        decision = decide_transition(
            STATUSES[row["status"]],
            self.to,
            fence=self.fence,
            held_fence=row["fence"],
            version=self.version,
            held_version=row["version"],
        )
        if decision.allowed:
            move(unit, row, self)
        elif decision.reason is not Reason.ALREADY_THERE:
            raise refusal(self.optimization_id, self.to, decision)
        return decision.reason


@dataclass(frozen=True)
class SetIntent:
    """Record what a person wants. What is at rest is moved at once; an attempt hears of it with its next commit.

    Wanting what is wanted already changes nothing.
    """

    optimization_id: str
    intent: Intent
    by: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> OptimizationStatus:
        """The status afterwards. Raises OptimizationStateError once it has ended (except: cancelled twice)."""
        row = existing(unit, self.optimization_id)
        status = OptimizationStatus(row["status"])
        if status is OptimizationStatus.CANCELLED and self.intent is Intent.CANCEL:
            return status
        if status in ENDED:
            raise OptimizationStateError(
                f"optimization {self.optimization_id!r}: it has ended ({status.value}); there is nothing to "
                f"{'resume' if self.intent is Intent.RUN else self.intent.value}"
            )
        if row["intent"] != self.intent.value:
            unit.update(row, intent=self.intent.value, intent_by=self.by, intent_at=unit.now)
            unit.change(self.optimization_id, "intent")
        to = at_rest(status, self.intent, claimed=row["lease_expires_at"] is not None)
        if to is not None:
            move(unit, row, Transition(self.optimization_id, to, Cause.PERSON, f"{self.intent.value}, by {self.by}"))
        return to or status


def at_rest(status: OptimizationStatus, intent: Intent, *, claimed: bool) -> OptimizationStatus | None:
    """Where an intent takes an optimization that nobody works on; None where an attempt must see to it, or nobody."""
    waits = status is OptimizationStatus.CREATED and not claimed
    rests = status in (OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)
    if intent is Intent.CANCEL and (waits or rests):
        return OptimizationStatus.CANCELLED
    if intent is Intent.PAUSE and waits:
        return OptimizationStatus.PAUSED
    return OptimizationStatus.CREATED if intent is Intent.RUN and rests else None


@dataclass(frozen=True)
class RecordPrefectState:
    """Take a state that Prefect reported, once; `to` is what it means for the optimization (None: nothing).

    A state older than the newest one taken of a flow run is recorded and moves nothing.
    """

    optimization_id: str
    attempt: int
    run_kind: str
    run_id: str
    run_name: str
    state_id: str
    state_type: str
    state_name: str
    message: str
    at: datetime
    source: Cause
    to: OptimizationStatus | None = None
    issue: str | None = None
    node: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)

    def apply(self, unit: UnitOfWork) -> Decision | None:
        """What was decided about the transition; None where the state was known or means no transition."""
        row = existing(unit, self.optimization_id)  # before the state counts as known in this unit
        if unit.known_state(self.state_id):
            return None
        at = moment(self.at)
        known = {name: getattr(self, name) for name in ("state_id", "optimization_id", "attempt", "run_kind", "run_id")}
        names = ("run_name", "state_type", "state_name", "message")
        shown = {name: free_text(getattr(self, name)) for name in names}
        if self.to is None:
            unit.insert(PREFECT_STATE, known | shown | {"at": at, "source": self.source.value}, ignore_known=True)
            return None
        unit.insert(PREFECT_STATE, known | shown | {"at": at, "source": self.source.value}, ignore_known=True)
        if row["attempt"] != self.attempt:
            return Decision(False, Reason.STALE_FENCE, f"attempt {self.attempt} was replaced by {row['attempt']}")
        if row["prefect_state_at"] is not None and at < row["prefect_state_at"]:
            return Decision(False, Reason.STALE_VERSION, "a newer state of this run is already recorded")
        unit.update(row, prefect_state_at=at, prefect_run_id=self.run_id)
        decision = decide_transition(STATUSES[row["status"]], self.to)
        if decision.allowed:
            move(
                unit,
                row,
                Transition(
                    self.optimization_id, self.to, self.source, self.message, self.node, issue=self.issue,
                    prefect_run_id=self.run_id, prefect_state_id=self.state_id,
                ),
            )  # fmt: skip
        return decision


def queue_key(queued_at: str, priority: int) -> float:
    """Smallest first. Queued earlier or of higher priority is smaller: a level is worth ten minutes of waiting.

    Because everybody's waiting grows alike, the order of two that wait never changes, and an index can hold it.
    """
    return datetime.fromisoformat(queued_at).timestamp() - AGING_SECONDS_PER_PRIORITY * int(priority)


def existing(unit: UnitOfWork, optimization_id: str) -> Row:
    row = unit.row(optimization_id)
    if row is None:
        raise OptimizationError(f"there is no optimization {optimization_id!r}; `o9 list` shows those that there are")
    return row


def refusal(optimization_id: str, to: OptimizationStatus, decision: Decision) -> OptimizationError:
    """The error for a decision that was not allowed."""
    text = f"optimization {optimization_id!r} cannot become {to.value}: {decision.message}"
    return StaleAttemptError(text) if decision.reason is Reason.STALE_FENCE else OptimizationStateError(text)


def move(unit: UnitOfWork, row: Row, wanted: Transition) -> None:
    """Write a transition that was decided. Leaving the active statuses frees the slot; starting again needs a claim."""
    to, from_status = wanted.to, STATUSES[row["status"]]
    changes: dict[str, Any] = {"status": to._value_}
    if from_status is OptimizationStatus.RUNNING:
        until = wanted.ran_until or unit.now
        ran = datetime.fromisoformat(until) - datetime.fromisoformat(row["running_since"])
        changes |= {"running_since": None, "execution_time": row["execution_time"] + max(0.0, ran.total_seconds())}
    if to is OptimizationStatus.RUNNING:
        changes |= {"running_since": unit.now, "started_at": row["started_at"] or unit.now}
    if to not in ACTIVE:
        changes |= {"lease_node": None, "lease_expires_at": None}
    if to is OptimizationStatus.CREATED:
        changes["queue_key"] = queue_key(unit.now, row["priority"])
    ended = to in ENDED
    if ended:
        changes["completed_at"] = unit.now
    if to is OptimizationStatus.COMPLETED:
        changes["progress"] = 1.0
    if wanted.prefect_run_id is not None:
        changes["prefect_run_id"] = wanted.prefect_run_id
    unit.update(row, **changes)
    if wanted.issue is not None:
        _append_issue(unit, wanted.optimization_id, wanted.issue)
    _record(unit, row, from_status._value_, to._value_, wanted.cause, wanted.node, wanted, ended=ended)
    count_transition(unit, row, from_status._value_, to._value_, ended=ended)


def _record(
    unit: UnitOfWork,
    row: Row,
    from_status: str | None,
    to_status: str,
    cause: Cause,
    node: str,
    wanted: Transition | None = None,
    *,
    ended: bool = False,
) -> None:
    unit.insert(
        TRANSITION,
        {
            "optimization_id": row["optimization_id"],
            "from_status": from_status,
            "to_status": to_status,
            "cause": cause._value_,
            "message": free_text(wanted.message) if wanted else "",
            "node": node,
            "attempt": row.get("attempt", 0),
            "at": unit.now,
            "prefect_run_id": wanted.prefect_run_id if wanted else None,
            "prefect_state_id": wanted.prefect_state_id if wanted else None,
        },
    )
    unit.change(row["optimization_id"], "ended" if ended else "transition")


def _append_issue(unit: UnitOfWork, optimization_id: str, issue: str) -> None:
    unit.flush()  # an amendment of the issues may be waiting in this unit
    where = OPTIMIZATION.c.optimization_id == optimization_id
    issues = json.loads(unit.connection.execute(select(OPTIMIZATION.c.issues).where(where)).scalar_one())
    unit.connection.execute(update(OPTIMIZATION).where(where).values(issues=to_json([*issues, free_text(issue)])))


def _read_state(unit: UnitOfWork, optimization_id: str) -> OptimizationState:
    found = unit.connection.execute(_WHOLE, {"target": optimization_id}).mappings().one()
    return row_to_state(dict(found))


_WHOLE = select(OPTIMIZATION).where(OPTIMIZATION.c.optimization_id == bindparam("target"))
_DEFAULTS: Row = {
    column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
    for column in OPTIMIZATION.columns
}

"""Creating optimizations and changing their status, by an operation or by a state that Prefect reports.

`o9.model.states.decide_transition` decides; `move` is the only code that writes a status, and it writes the transition,
the change and the counts in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import bindparam, func, select, update

from o9.model.errors import (
    OptimizationConflictError,
    OptimizationError,
    OptimizationStateError,
    OptimizationValidationError,
    StaleAttemptError,
)
from o9.model.optimization import OptimizationState, strategy_of
from o9.model.states import (
    ACTIVE,
    ENDED,
    Decision,
    Intent,
    OptimizationStatus,
    TransitionReason,
    decide_transition,
)
from o9.store.core.column_types import content_hash, free_text, moment, row_to_state, state_to_row, to_json
from o9.store.core.unit import OnOptimization, Operation, Row, UnitOfWork
from o9.store.queue.order import queue_key
from o9.store.queue.policies import CurrentPolicies, Policies
from o9.store.schema.optimizations import DEPENDENCY, OPTIMIZATION, PREFECT_STATE, TRANSITION
from o9.store.statistics.rollups import count_new, count_transition

DEFAULT_MAX_ATTEMPTS = 3
# On the hot path: in Python 3.11 an enum's lookup by value, and its `.value`, take a microsecond each.
STATUSES = {status.value: status for status in OptimizationStatus}


class Cause(str, Enum):
    """What caused a transition."""

    SUBMISSION = "submission"
    CLAIM = "claim"
    HOOK = "hook"
    EVENT = "event"
    RECONCILER = "reconciler"
    PERSON = "person"
    SWEEPER = "sweeper"
    SHUTDOWN = "shutdown"
    """The node shut down cleanly; this is no death."""
    STRATEGY = "strategy"
    NODE = "node"
    DEPENDENCY = "dependency"


def was_refused(transition: Mapping[str, Any]) -> bool:
    """Whether this transition records a refused submission of a flow run, which left nothing to run again."""
    return bool(
        transition["to_status"] == OptimizationStatus.FAILED.value and transition["cause"] == Cause.SUBMISSION.value
    )


@dataclass(frozen=True)
class Create(Operation[tuple[OptimizationState, bool]]):
    """Record a new optimization, which waits for those in `metadata["after"]`.

    If the id exists with the same content, the recorded one is returned and nothing is written.

    content: the `content_hash` of the submission, if defaults were filled into `state` since.
    hold: do not queue it until it is started.
    policies: those whose defaults were filled in. If they have changed, PoliciesChangedError is raised.
    """

    state: OptimizationState
    node: str = ""
    content: str | None = None
    hold: bool = False
    policies: Policies | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.state.optimization_id, *self._after)

    @property
    def _after(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.state.metadata.get("after", ())))

    def apply(self, unit: UnitOfWork) -> tuple[OptimizationState, bool]:
        """Return the state as recorded, and whether it is new."""
        state = self.state
        if state.status is not OptimizationStatus.CREATED:
            raise OptimizationValidationError(
                "status", f"a new optimization has the status created, not {state.status.value}"
            )
        known = unit.row(state.optimization_id)
        digest = self.content or content_hash(state)
        if known is not None:
            if known["content_hash"] != digest:
                raise OptimizationConflictError(
                    "optimization_id", f"{state.optimization_id!r} exists with other content; choose another id"
                )
            unit.flush()
            return read_state(unit, state.optimization_id), False
        if self.policies is not None:
            unit.part(CurrentPolicies).check(unit, self.policies)
        awaited = [self._awaited(unit, name) for name in self._after]
        unmet = [other for other in awaited if STATUSES[other["status"]] not in ENDED]
        row = {
            **_DEFAULTS, **state_to_row(state), **metadata_columns(state.metadata),
            "updated_at": unit.now,
            "content_hash": digest,
            "intent": (Intent.HOLD if self.hold else Intent.RUN).value,
            "queue_key": queue_key(unit.now, state.priority),
            "unmet": len(unmet),
        }  # fmt: skip
        unit.create(row)
        count_new(unit, row)
        _record(unit, row, None, Transition(state.optimization_id, state.status, Cause.SUBMISSION, node=self.node))
        for other in awaited:
            unit.insert(DEPENDENCY, {"after_id": other["optimization_id"], "optimization_id": state.optimization_id})
        for other in unmet:
            unit.update(other, dependents=other["dependents"] + 1)
        failed = [other for other in awaited if STATUSES[other["status"]] in ENDED - {OptimizationStatus.COMPLETED}]
        if failed:
            move(unit, unit.existing(state.optimization_id), _dependency_failed(state.optimization_id, failed[0]))
            unit.flush()
            return read_state(unit, state.optimization_id), True
        return row_to_state(row), True

    @staticmethod
    def _awaited(unit: UnitOfWork, name: str) -> Row:
        row = unit.row(name)
        if row is None:
            raise OptimizationValidationError(
                "metadata.after", f"there is no optimization {name!r}; submit that one first"
            )
        return row


@dataclass(frozen=True)
class Transition(OnOptimization[TransitionReason]):
    """Move an optimization to another status. Raises OptimizationStateError if the table of transitions forbids it.

    A move to the present status changes nothing and returns TransitionReason.ALREADY_THERE.

    fence: the caller's, if it is an attempt.
    issue: what went wrong, added to `issues`.
    ran_until: when it stopped running, if that was before now.
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

    def apply(self, unit: UnitOfWork) -> TransitionReason:
        row = unit.existing(self.optimization_id)
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
        elif decision.reason is not TransitionReason.ALREADY_THERE:
            raise refusal(self.optimization_id, self.to, decision)
        return decision.reason


@dataclass(frozen=True)
class RecordPrefectState(OnOptimization[Decision | None]):
    """Record a state that Prefect reported, once, and move the optimization to `to`, the status that it implies.

    A state moves nothing if the run holds no lease, because it waits for its turn, or if it is older than the newest
    recorded state of the run. An end observed by the run's own node always counts, whatever its clock showed.
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

    def apply(self, unit: UnitOfWork) -> Decision | None:
        """Return the decision on the transition; None if the state was known or implies no transition."""
        row = unit.existing(self.optimization_id)  # raises before `_is_known` marks the state as known
        seen_end = self.source is Cause.NODE and self.to in ENDED and STATUSES[row["status"]] in ACTIVE
        if _is_known(unit, self.state_id) and not seen_end:
            return None
        at = moment(self.at)
        known = {name: getattr(self, name) for name in ("state_id", "optimization_id", "attempt", "run_kind", "run_id")}
        shown = {name: free_text(getattr(self, name)) for name in ("run_name", "state_type", "state_name", "message")}
        unit.insert(PREFECT_STATE, known | shown | {"at": at, "source": self.source.value}, ignore_known=True)
        if self.to is None:
            return None
        if row["attempt"] != self.attempt:
            return Decision(
                False, TransitionReason.STALE_FENCE, f"attempt {self.attempt} was replaced by {row['attempt']}"
            )
        if not seen_end and row["prefect_state_at"] is not None and at < row["prefect_state_at"]:
            return Decision(False, TransitionReason.STALE_VERSION, "a newer state of this run is already recorded")
        decision = decide_transition(STATUSES[row["status"]], self.to)
        if decision.allowed and self.to in ACTIVE and row["lease_node"] is None and row["strategy"] != "mirrored":
            return Decision(False, TransitionReason.NOT_HELD, "its run holds no lease")
        if seen_end and decision.reason is TransitionReason.NOT_IN_TABLE:
            self._catch_up(unit, row)
            decision = decide_transition(STATUSES[row["status"]], self.to)
        unit.update(row, prefect_state_at=at, prefect_run_id=self.run_id)
        if decision.allowed:
            transition = Transition(
                self.optimization_id, self.to, self.source, self.issue or self.message, self.node, issue=self.issue,
                prefect_run_id=self.run_id, prefect_state_id=self.state_id,
            )  # fmt: skip
            move(unit, row, transition)
        return decision

    def _catch_up(self, unit: UnitOfWork, row: Row) -> None:
        """Record that it ran: that state is still in the spool, since the store was unavailable."""
        unit.flush()
        mine = (TRANSITION.c.optimization_id == self.optimization_id) & (TRANSITION.c.attempt == self.attempt)
        began = unit.connection.execute(select(func.min(TRANSITION.c.at)).where(mine)).scalar_one()
        move(unit, row, Transition(self.optimization_id, OptimizationStatus.RUNNING, self.source, node=self.node))
        unit.update(row, running_since=began, started_at=min(began, row["started_at"]))


def metadata_columns(metadata: Mapping[str, Any]) -> Row:
    """Return the columns that copy metadata keys, for queries."""
    scheduled_at = metadata.get("scheduled_at")
    return {
        "strategy": strategy_of(metadata),
        "max_attempts": int(metadata.get("max_attempts", DEFAULT_MAX_ATTEMPTS)),
        "series": metadata.get("series"),
        "scheduled_at": None if scheduled_at is None else moment(datetime.fromisoformat(scheduled_at)),
    }


class _KnownStates(set[str]):
    """Ids of the Prefect states that this unit has found recorded, or has recorded."""


def _is_known(unit: UnitOfWork, state_id: str) -> bool:
    """Whether a Prefect state was recorded before; from now on it counts as recorded."""
    known = unit.part(_KnownStates)
    if state_id in known:
        return True
    known.add(state_id)
    return unit.run(_KNOWN_STATE, {"target": state_id}).fetchone() is not None


def refusal(optimization_id: str, to: OptimizationStatus, decision: Decision) -> OptimizationError:
    """Return the error for a decision that does not allow the transition."""
    text = f"optimization {optimization_id!r} cannot become {to.value}: {decision.message}"
    return StaleAttemptError(text) if decision.reason is TransitionReason.STALE_FENCE else OptimizationStateError(text)


def move(unit: UnitOfWork, row: Row, wanted: Transition) -> None:
    """Write an allowed transition. Leaving the active statuses frees the slot; starting again needs a claim."""
    _move_one(unit, row, wanted)
    ended = [row] if wanted.to in ENDED else []
    while ended:  # a chain of dependents may be too long for recursion
        ended += _release_dependents(unit, ended.pop(0))


def _move_one(unit: UnitOfWork, row: Row, wanted: Transition) -> None:
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
        append_issue(unit, wanted.optimization_id, wanted.issue)
    _record(unit, row, from_status._value_, wanted, ended=ended)
    count_transition(unit, row, from_status._value_, to._value_, ended=ended)


def _release_dependents(unit: UnitOfWork, row: Row) -> list[Row]:
    """Release the optimizations that wait for `row`, which has ended; cancel and return them if it did not complete."""
    if not row["dependents"]:
        return []
    ended: list[Row] = []
    unit.flush()
    waiting = select(DEPENDENCY.c.optimization_id).where(DEPENDENCY.c.after_id == row["optimization_id"])
    completed = row["status"] == OptimizationStatus.COMPLETED.value
    for name in unit.connection.execute(waiting).scalars().all():
        dependent = unit.existing(name)
        if STATUSES[dependent["status"]] in ENDED:
            continue
        if not completed:
            _move_one(unit, dependent, _dependency_failed(name, row))
            ended.append(dependent)
            continue
        unit.update(dependent, unmet=dependent["unmet"] - 1)
        if dependent["unmet"] == 0:
            unit.update(dependent, queue_key=queue_key(unit.now, dependent["priority"]))
        unit.change(name, "dependency")
    return ended


def _dependency_failed(name: str, awaited: Row) -> Transition:
    message = f"it depends on {awaited['optimization_id']}, which ended as {awaited['status']}"
    return Transition(name, OptimizationStatus.CANCELLED, Cause.DEPENDENCY, message, issue=message)


def _record(unit: UnitOfWork, row: Row, from_status: str | None, wanted: Transition, *, ended: bool = False) -> None:
    written: Row = {
        "optimization_id": row["optimization_id"], "from_status": from_status, "to_status": wanted.to._value_,
        "cause": wanted.cause._value_, "message": free_text(wanted.message), "node": wanted.node,
        "attempt": row["attempt"], "at": unit.now,
        "prefect_run_id": wanted.prefect_run_id, "prefect_state_id": wanted.prefect_state_id,
    }  # fmt: skip
    unit.insert(TRANSITION, written)
    unit.change(row["optimization_id"], "ended" if ended else "transition")


def append_issue(unit: UnitOfWork, optimization_id: str, issue: str) -> None:
    unit.flush()  # this unit may already have changed the issues
    where = OPTIMIZATION.c.optimization_id == optimization_id
    issues = json.loads(unit.connection.execute(select(OPTIMIZATION.c.issues).where(where)).scalar_one())
    unit.connection.execute(update(OPTIMIZATION).where(where).values(issues=to_json([*issues, free_text(issue)])))


def read_state(unit: UnitOfWork, optimization_id: str) -> OptimizationState:
    found = unit.connection.execute(_WHOLE, {"target": optimization_id}).mappings().one()
    return row_to_state(dict(found))


_KNOWN_STATE = select(PREFECT_STATE.c.state_id).where(PREFECT_STATE.c.state_id == bindparam("target"))
_WHOLE = select(OPTIMIZATION).where(OPTIMIZATION.c.optimization_id == bindparam("target"))
_DEFAULTS: Row = {
    column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
    for column in OPTIMIZATION.columns
}

"""What a Prefect state means for an optimization: pure functions that return a reason. No Prefect import.

| Prefect state                          | one of O9's own runs                | a mirrored run                     |
| -------------------------------------- | ----------------------------------- | ---------------------------------- |
| Scheduled, Late, Pending, Submitting   | initializing                        | initializing                       |
| Running, Retrying                      | running                             | running                            |
| Paused, Suspended                      | paused                              | paused                             |
| Completed, Failed, Cancelled, TimedOut | the same                            | the same                           |
| Crashed                                | no change: it is queued again       | failed, with the crash in `issues` |
| Cancelling, AwaitingRetry              | no change: the next state decides   | no change                          |

Only the states of a flow run change an optimization's status; those of its task runs and subflows are only recorded.
`meaning_of` serves the run's own hooks. Events and histories of a run that may be alive go through `interpret` first:
what a person did in Prefect is an intent, which the attempt has yet to carry out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus
from o9.store.optimizations.prefect_runs import ATTEMPT
from o9.store.queue.claims import MIRRORED

# Interim ends: the names of states, all of type CANCELLED, in which one of O9's attempts ends and another one follows.
# Prefect has no terminal state for that; nothing was cancelled.
PAUSED = "Paused"
SUSPENDED = "Suspended"  # of type CANCELLED; Prefect's own Suspended is of type PAUSED
REQUEUED = "Requeued"
REPLACED = "Replaced"
SKIPPED = "Skipped"  # of type CANCELLED: a scheduled run that a policy skipped; it has no optimization
PREFECT = "prefect"  # who requested what a person did in Prefect's UI


@dataclass(frozen=True)
class Meaning:
    """`to`: the new status, if the state changes it. `issue`: what to add to `issues`."""

    to: OptimizationStatus | None
    issue: str | None = None


def meaning_of(run_kind: str, state_type: str, state_name: str, message: str | None, owner: str = ATTEMPT) -> Meaning:
    """`state_type` is Prefect's (upper case), `state_name` the name that Prefect shows, `owner` the kind of run."""
    if run_kind != "flow" or state_name == "AwaitingRetry":
        return Meaning(None)
    if owner == MIRRORED and state_type == "CRASHED":
        return Meaning(OptimizationStatus.FAILED, f"the flow run crashed: {message or 'Prefect gave no reason'}")
    if owner != MIRRORED and is_interim_end(state_type, state_name):
        return Meaning(_BY_OWN_NAME[state_name])
    if state_type == "FAILED" and state_name == "TimedOut":
        return Meaning(OptimizationStatus.TIMEOUT, message)
    to = _BY_TYPE.get(state_type)
    return Meaning(to, _cause(message) if to is OptimizationStatus.FAILED else None)


def _cause(message: str | None) -> str:
    """The error message without the prefixes that Prefect and O9 add."""
    return _LAYERS.sub("", message or "") or "the flow run failed, and Prefect gave no reason"


def is_interim_end(state_type: str, state_name: str) -> bool:
    """Whether it is a state in which O9 ends an attempt that another one follows."""
    return state_type == "CANCELLED" and state_name in _BY_OWN_NAME


class Why(str, Enum):
    """Why a reported state is interpreted as it is."""

    FACT = "it has happened"
    ENDED = "the optimization has ended"
    REPLACED = "another attempt has taken over"
    HISTORY = "the run has had later states"
    INTERIM_END = "O9 recorded this end before Prefect did"
    NOT_ACTIVE = "the optimization is not running"
    CANCEL = "it was cancelled in Prefect"
    PAUSE = "it was paused in Prefect"
    RESUME = "it was resumed in Prefect"
    LOST = "its process is dead"
    NOT_BEGUN = "it ended before it began; another run will be the attempt"
    NO_SLOT = "its deployment's concurrency limit left no room for it; another run will be the attempt"


@dataclass(frozen=True)
class Interpretation:
    """What to do about a state, which is recorded in any case.

    intent: the one that it carries. moves: whether it changes the optimization's status. lost: the attempt is dead.
    rejected: the run that was to be the attempt has ended.
    """

    why: Why
    intent: Intent | None = None
    moves: bool = False
    lost: bool = False
    rejected: bool = False


@dataclass(frozen=True)
class RunStatus:
    """A run and its optimization. `attempt` is the optimization's present one, `run_attempt` the run's.

    suspended: the run waits in Prefect to be the next attempt. newest: Prefect has no later state of it.
    """

    owner: str
    status: OptimizationStatus
    attempt: int
    run_attempt: int
    suspended: bool = False
    newest: bool = True


def may_carry_intent(run_kind: str, state_type: str, state_name: str) -> bool:
    """Whether the state may carry an intent, which `interpret` finds; the others are facts."""
    return run_kind == "flow" and (
        state_type in _ASKING or (state_type == "SCHEDULED" and state_name != "AwaitingRetry")
    )


def interpret(run: RunStatus, state_type: str, state_name: str, message: str = "") -> Interpretation:
    """What a state from Prefect's events or history means for a flow run."""
    cancel = Interpretation(Why.CANCEL, Intent.CANCEL)
    if run.status in ENDED:
        return Interpretation(Why.ENDED)
    if run.owner == MIRRORED:
        # Prefect carries out the cancellation; the record has the request.
        return cancel if state_type == "CANCELLING" else Interpretation(Why.FACT, moves=True)
    if run.run_attempt != run.attempt and not run.suspended:
        # Only a person cancels a run. Its worker may have killed it, and the next attempt may have begun, before this.
        return cancel if state_type == "CANCELLING" else Interpretation(Why.REPLACED)
    if not may_carry_intent("flow", state_type, state_name) or (state_type == "FAILED" and not run.suspended):
        return Interpretation(Why.FACT, moves=True)
    if not run.newest:
        return Interpretation(Why.HISTORY)
    if run.suspended and state_type in ("FAILED", "CRASHED"):
        return Interpretation(Why.NOT_BEGUN, rejected=True)
    if run.suspended and state_type == "CANCELLED" and message.startswith(_NO_SLOT):
        return Interpretation(Why.NO_SLOT, rejected=True)
    if is_interim_end(state_type, state_name):
        return Interpretation(Why.INTERIM_END)
    if state_type in ("CANCELLING", "CANCELLED"):
        return replace(cancel, moves=state_type == "CANCELLED")
    if state_type == "PAUSED":
        return Interpretation(Why.PAUSE, Intent.PAUSE) if run.status in ACTIVE else Interpretation(Why.NOT_ACTIVE)
    if state_type == "SCHEDULED" and run.suspended:
        is_paused = run.status in (OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)
        return Interpretation(Why.RESUME, Intent.RUN) if is_paused else Interpretation(Why.FACT)
    if state_type == "CRASHED":
        return Interpretation(Why.LOST, lost=True) if run.status in ACTIVE else Interpretation(Why.NOT_ACTIVE)
    return Interpretation(Why.FACT, moves=True)


def statuses_before(status: OptimizationStatus, to: OptimizationStatus | None) -> tuple[OptimizationStatus, ...]:
    """The statuses that an optimization must have passed through on its way to `to`, if their states are missing.

    Running follows initializing, and completed follows running; every other status can follow any.
    """
    way = (OptimizationStatus.CREATED, OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING)
    if to not in (OptimizationStatus.RUNNING, OptimizationStatus.COMPLETED) or status in ENDED:
        return ()
    passed = way.index(status) if status in way else way.index(OptimizationStatus.INITIALIZING)
    return tuple(step for step in way[passed + 1 :] if step is not to)


# Prefixes of the messages of Prefect's own cancellations; nothing else distinguishes them from a person's.
_NO_SLOT = ("Deployment concurrency limit reached", "Deployment concurrency slot lost")
_ASKING = frozenset({"CANCELLING", "CANCELLED", "PAUSED", "CRASHED", "FAILED"})
_LAYERS = re.compile(r"^((Flow|Task) run encountered an exception: )?(Optimization\w*Error: )?")
_BY_OWN_NAME = {
    PAUSED: OptimizationStatus.PAUSED, SUSPENDED: OptimizationStatus.SUSPENDED, REQUEUED: OptimizationStatus.CREATED,
    REPLACED: None,
}  # fmt: skip
_BY_TYPE = {
    "SCHEDULED": OptimizationStatus.INITIALIZING,
    "PENDING": OptimizationStatus.INITIALIZING,
    "RUNNING": OptimizationStatus.RUNNING,
    "PAUSED": OptimizationStatus.PAUSED,
    "COMPLETED": OptimizationStatus.COMPLETED,
    "FAILED": OptimizationStatus.FAILED,
    "CANCELLED": OptimizationStatus.CANCELLED,
}

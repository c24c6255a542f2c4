"""What a state of Prefect's means for an optimization: pure functions that answer with a reason. No Prefect import.

| Prefect state                          | one of O9's own runs                | a mirrored run                     |
| -------------------------------------- | ----------------------------------- | ---------------------------------- |
| Scheduled, Late, Pending, Submitting   | initializing                        | initializing                       |
| Running, Retrying                      | running                             | running                            |
| Paused, Suspended                      | paused                              | paused                             |
| Completed, Failed, Cancelled, TimedOut | the same                            | the same                           |
| Crashed                                | nothing: it costs a life            | failed, with the crash in `issues` |
| Cancelling, AwaitingRetry              | nothing yet: what follows decides   | nothing yet                        |

Only a flow run's states move an optimization; those of its task runs and subflows are recorded. `meaning_of` is
for the run's own hooks. Events and histories of a run that may be alive go through `interpret` first: what a person did
in Prefect is an intent, which the attempt carries out, and has not happened yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from o9.model.states import ACTIVE, ENDED, Intent, OptimizationStatus
from o9.store.optimizations.prefect_runs import ATTEMPT
from o9.store.queue.claims import MIRRORED

# The names of the states in which an attempt of O9's ends that another one follows. Their type is CANCELLED, since
# Prefect has no terminal state for them; nobody has cancelled anything.
PAUSED = "Paused"
SUSPENDED = "Suspended"  # of type CANCELLED; Prefect's own Suspended is of type PAUSED
REQUEUED = "Requeued"
REPLACED = "Replaced"
SKIPPED = "Skipped"  # of type CANCELLED: the run of a schedule that a policy left out; no optimization knows of it
PREFECT = "prefect"  # who wanted it, where a person pressed a button of Prefect's


@dataclass(frozen=True)
class Meaning:
    """`to` is None where the state moves nothing; `issue` is what `issues` should keep."""

    to: OptimizationStatus | None
    issue: str | None = None


def meaning_of(run_kind: str, state_type: str, state_name: str, message: str | None, owner: str = ATTEMPT) -> Meaning:
    """`state_type` is Prefect's (upper case), `state_name` what Prefect shows for it, `owner` the kind of run."""
    if run_kind != "flow" or state_name == "AwaitingRetry":
        return Meaning(None)
    if owner == MIRRORED and state_type == "CRASHED":
        return Meaning(OptimizationStatus.FAILED, f"the flow run crashed: {message or 'Prefect gave no reason'}")
    if owner != MIRRORED and is_own_rest(state_type, state_name):
        return Meaning(_BY_OWN_NAME[state_name])
    if state_type == "FAILED" and state_name == "TimedOut":
        return Meaning(OptimizationStatus.TIMEOUT, message)
    to = _BY_TYPE.get(state_type)
    return Meaning(to, _cause(message) if to is OptimizationStatus.FAILED else None)


def _cause(message: str | None) -> str:
    """What went wrong, without the layers that it came through."""
    return _LAYERS.sub("", message or "") or "the flow run failed, and Prefect gave no reason"


def is_own_rest(state_type: str, state_name: str) -> bool:
    """Whether it is the state in which O9 itself ends an attempt that another one follows."""
    return state_type == "CANCELLED" and state_name in _BY_OWN_NAME


class Why(str, Enum):
    """Why a state that was heard from outside is taken as it is."""

    FACT = "it has happened"
    ENDED = "the optimization has ended"
    REPLACED = "another attempt has taken over"
    HISTORY = "the run has gone on since"
    OWN_REST = "O9 has recorded this end before Prefect heard of it"
    RESTS = "the optimization rests already"
    CANCEL = "it was cancelled in Prefect"
    PAUSE = "it was paused in Prefect"
    RESUME = "it was resumed in Prefect"
    LOST = "its process is gone"
    NOT_BEGUN = "it has ended before it began; another run is to be the attempt"
    NO_SLOT = "its deployment's concurrency limit left no room for it; another run is to be the attempt"


@dataclass(frozen=True)
class Interpretation:
    """What to do about a state. It is recorded in any case; where `moves` is False, it moves nothing.

    intent: that the state carries. lost: the attempt is dead. rejected: the run that was to be the attempt is over.
    """

    why: Why
    intent: Intent | None = None
    moves: bool = False
    lost: bool = False
    rejected: bool = False


@dataclass(frozen=True)
class RunStatus:
    """One run of an optimization, and the optimization itself: `attempt` is the present one, `run_attempt` the run's.

    suspended: the run waits in Prefect and will be the next attempt. newest: Prefect has no later state of it.
    """

    owner: str
    status: OptimizationStatus
    attempt: int
    run_attempt: int
    suspended: bool = False
    newest: bool = True


def may_ask(run_kind: str, state_type: str, state_name: str) -> bool:
    """Whether the state may carry an intent, which `interpret` finds; the others are facts."""
    return run_kind == "flow" and (
        state_type in _ASKING or (state_type == "SCHEDULED" and state_name != "AwaitingRetry")
    )


def interpret(run: RunStatus, state_type: str, state_name: str, message: str = "") -> Interpretation:
    """What a state from Prefect's events or history means for a flow run."""
    if run.status in ENDED:
        return Interpretation(Why.ENDED)
    if run.owner == MIRRORED:
        # Prefect cancels it; who asked for what belongs into the record all the same.
        return (
            Interpretation(Why.CANCEL, Intent.CANCEL)
            if state_type == "CANCELLING"
            else Interpretation(Why.FACT, moves=True)
        )
    if run.run_attempt != run.attempt and not run.suspended:
        # Only a person asks a run to end; its worker may have killed it, and the next attempt begun, before.
        return Interpretation(Why.CANCEL, Intent.CANCEL) if state_type == "CANCELLING" else Interpretation(Why.REPLACED)
    if not may_ask("flow", state_type, state_name) or (state_type == "FAILED" and not run.suspended):
        return Interpretation(Why.FACT, moves=True)
    if not run.newest:
        return Interpretation(Why.HISTORY)
    if run.suspended and state_type in ("FAILED", "CRASHED"):
        return Interpretation(Why.NOT_BEGUN, rejected=True)
    if run.suspended and state_type == "CANCELLED" and message.startswith(_NO_SLOT):
        return Interpretation(Why.NO_SLOT, rejected=True)
    if is_own_rest(state_type, state_name):
        return Interpretation(Why.OWN_REST)
    if state_type in ("CANCELLING", "CANCELLED"):
        return Interpretation(Why.CANCEL, Intent.CANCEL, moves=state_type == "CANCELLED")
    if state_type == "PAUSED":
        return Interpretation(Why.PAUSE, Intent.PAUSE) if run.status in ACTIVE else Interpretation(Why.RESTS)
    if state_type == "SCHEDULED" and run.suspended:
        rests = run.status in (OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)
        return Interpretation(Why.RESUME, Intent.RUN) if rests else Interpretation(Why.FACT)
    if state_type == "CRASHED":
        return Interpretation(Why.LOST, lost=True) if run.status in ACTIVE else Interpretation(Why.RESTS)
    return Interpretation(Why.FACT, moves=True)


def on_the_way(status: OptimizationStatus, to: OptimizationStatus | None) -> tuple[OptimizationStatus, ...]:
    """What an optimization must have been before `to`, where the states that said so have not been heard yet.

    What runs was begun before, and what completed did run; every other status is reached from anywhere.
    """
    way = (OptimizationStatus.CREATED, OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING)
    if to not in (OptimizationStatus.RUNNING, OptimizationStatus.COMPLETED) or status in ENDED:
        return ()
    passed = way.index(status) if status in way else way.index(OptimizationStatus.INITIALIZING)
    return tuple(step for step in way[passed + 1 :] if step is not to)


# How the messages of a cancellation begin that is Prefect's own, not a person's; it gives no other evidence.
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

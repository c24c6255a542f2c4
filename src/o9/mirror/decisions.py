"""Decides what to do about a flow run that may still be open in Prefect: one pure function that returns a reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from o9.mirror.observed_state import TERMINAL
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store.queue.claims import MIRRORED


class RunReason(str, Enum):
    GONE = "Prefect no longer has it"
    OVER = "it has ended"
    SETTLING = "it has just ended, and Prefect may not know all of its tasks yet"
    ALIVE = "its attempt is running"
    SUSPENDED = "it waits in Prefect until it is resumed"
    IDLE = "the mirrored flow is not running"
    HOLDER_LIVES = "its process is alive, though it lost its lease"
    RECENT = "it may be about to end by itself"
    WANTED_CANCELLED = "its cancellation was requested in O9, and only Prefect can carry it out"
    CANCELLED = "its optimization was cancelled"
    ENDED = "its optimization has ended without it"
    REPLACED = "a later attempt has taken its place"
    SWEPT = "its process is dead, and its lease was freed"


@dataclass(frozen=True)
class RunFacts:
    """One run. `prefect_type` is the type of its present state; None where Prefect has no such run.

    leased: a node or a run holds the optimization. settled: Prefect will report nothing more of it. quiet: the
    optimization has not changed for a while, or was swept. holder_lives: the process that ran it has a heartbeat.
    """

    owner: str
    attempt: int
    current_attempt: int
    status: OptimizationStatus
    intent: Intent
    leased: bool
    suspended: bool
    prefect_type: str | None
    settled: bool = True
    quiet: bool = True
    holder_lives: bool = False


@dataclass(frozen=True)
class RunDecision:
    """`set_to`: the type of the state to set in Prefect, if it must change. waits: the run waits for a worker."""

    because: RunReason
    close: bool = False
    set_to: str | None = None
    waits: bool = False


def decide_run(run: RunFacts) -> RunDecision:
    """End a run in Prefect that is dead in fact; never one that may be alive."""
    if run.prefect_type is None:
        return RunDecision(RunReason.GONE, close=True)
    if run.prefect_type in TERMINAL:
        return RunDecision(RunReason.OVER, close=True) if run.settled else RunDecision(RunReason.SETTLING)
    if run.status in ENDED:
        return _decide_ended(run)
    if run.suspended:
        return RunDecision(RunReason.SUSPENDED, waits=run.prefect_type in ("SCHEDULED", "PENDING"))
    if run.attempt != run.current_attempt:
        return RunDecision(RunReason.REPLACED, set_to="CRASHED")
    if run.owner == MIRRORED:
        if run.intent is Intent.CANCEL and run.prefect_type != "CANCELLING":
            return RunDecision(RunReason.WANTED_CANCELLED, set_to="CANCELLING")
        return RunDecision(RunReason.ALIVE if run.leased else RunReason.IDLE)
    if run.leased:
        return RunDecision(RunReason.ALIVE)
    return RunDecision(RunReason.SWEPT, set_to="CRASHED") if run.quiet else RunDecision(RunReason.RECENT)


def _decide_ended(run: RunFacts) -> RunDecision:
    """Of a run that is open although its optimization has ended."""
    if run.holder_lives:
        return RunDecision(RunReason.HOLDER_LIVES)
    if not run.quiet:
        return RunDecision(RunReason.RECENT)
    if run.status is OptimizationStatus.CANCELLED or run.suspended:
        return RunDecision(RunReason.CANCELLED, set_to="CANCELLED")
    return RunDecision(RunReason.ENDED, set_to="CRASHED")

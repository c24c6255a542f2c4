"""What to do about a run that Prefect may have more to say of: one pure function that answers with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from o9.mirror.seen import TERMINAL
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store.leases import MIRRORED


class Because(str, Enum):
    GONE = "Prefect has it no more"
    OVER = "it has ended"
    SETTLING = "it has just ended, and Prefect may not know all of its tasks yet"
    ALIVE = "its attempt is at work"
    PARKED = "it waits in Prefect until it is resumed"
    RESTS = "the flow that is watched rests"
    HOLDER_LIVES = "its process lives, though its lease was lost"
    RECENT = "it may be about to end by itself"
    WANTED_CANCELLED = "somebody asked O9 to cancel it, and only Prefect can"
    CANCELLED = "its optimization was cancelled"
    ENDED = "its optimization has ended without it"
    REPLACED = "a later attempt has taken its place"
    SWEPT = "its process is gone, and what it held was taken back"


@dataclass(frozen=True)
class RunView:
    """What is known of one run. `prefect_type` is the type of its present state, None where Prefect has no such run.

    leased: somebody holds the optimization. settled: nothing more is to come after its last state. quiet: nothing has
    happened to the optimization for a while. holder_lives: the process that ran it gives signs of life.
    """

    owner: str
    attempt: int
    current_attempt: int
    status: OptimizationStatus
    intent: Intent
    leased: bool
    parked: bool
    prefect_type: str | None
    settled: bool = True
    quiet: bool = True
    holder_lives: bool = False


@dataclass(frozen=True)
class Verdict:
    """`set_to` is the type of the state that Prefect is to be told; None: what it believes is right."""

    because: Because
    close: bool = False
    set_to: str | None = None


def verdict_on(run: RunView) -> Verdict:
    """A run that is alive in Prefect and dead in truth is ended there; one that may be alive is never touched."""
    if run.prefect_type is None:
        return Verdict(Because.GONE, close=True)
    if run.prefect_type in TERMINAL:
        return Verdict(Because.OVER, close=True) if run.settled else Verdict(Because.SETTLING)
    if run.status in ENDED:
        return _left_behind(run)
    if run.parked:
        return Verdict(Because.PARKED)
    if run.attempt != run.current_attempt:
        return Verdict(Because.REPLACED, set_to="CRASHED")
    if run.owner == MIRRORED:
        if run.intent is Intent.CANCEL and run.prefect_type != "CANCELLING":
            return Verdict(Because.WANTED_CANCELLED, set_to="CANCELLING")
        return Verdict(Because.ALIVE if run.leased else Because.RESTS)
    if run.leased:
        return Verdict(Because.ALIVE)
    return Verdict(Because.SWEPT, set_to="CRASHED") if run.quiet else Verdict(Because.RECENT)


def _left_behind(run: RunView) -> Verdict:
    if run.holder_lives:
        return Verdict(Because.HOLDER_LIVES)
    if not run.quiet:
        return Verdict(Because.RECENT)
    if run.status is OptimizationStatus.CANCELLED or run.parked:
        return Verdict(Because.CANCELLED, set_to="CANCELLED")
    return Verdict(Because.ENDED, set_to="CRASHED")

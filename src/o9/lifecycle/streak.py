"""Trials that fail one after the other, and when that ends an optimization early. Pure.

It follows from the ledger alone, so that an optimization that is killed and resumed ends at the same trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from o9.model.states import TrialState
from o9.model.trial import Trial

HOPELESS = 10  # failures in a row that end it where no trial has ever succeeded, and nothing else was asked for


@dataclass(frozen=True)
class Streak:
    """The failed trials at the end of a ledger. Infeasible and cancelled ones neither belong to them nor end them.

    first_error: of the first of them. succeeded: whether any trial before them completed.
    """

    failures: int = 0
    first_error: str = ""
    succeeded: bool = False


def streak_of(trials: Iterable[Trial], before: Streak | None = None) -> Streak:
    """The streak behind these trials, by number; `before` is that of those in front of them."""
    streak = before or Streak()
    for trial in trials:
        if trial.state is TrialState.COMPLETED:
            streak = Streak(succeeded=True)
        elif trial.state is TrialState.FAILED:
            first = streak.first_error if streak.failures else (trial.error or "it gave no reason")
            streak = Streak(streak.failures + 1, first, streak.succeeded)
    return streak


def is_hopeless(streak: Streak, metadata: Mapping[str, Any]) -> bool:
    """Whether so many failures in a row end it: `stop_after_failures`, else ten where none has ever succeeded."""
    limit = metadata.get("stop_after_failures")
    if limit is None:
        return not streak.succeeded and streak.failures >= HOPELESS
    return bool(streak.failures >= limit)

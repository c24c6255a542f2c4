"""Figures of a ledger: the best so far, its improvement on the baseline, and failures in a row. Pure.

They follow from the ledger alone, so that an optimization that is killed and resumed ends at the same trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.model.trial import Trial

Direction = Literal["maximize", "minimize"]
# Metrics that are committed with each step: BEST once there is one, CPU and MEMORY where they were measured.
STEP_SECONDS, TRIALS, BEST, CPU, MEMORY = "step_seconds", "trials", "best_value", "cpu_percent", "memory_mib"


@dataclass(frozen=True)
class Best:
    """The best trial so far; `number` is None for a value that a strategy reported without trials."""

    value: float
    parameters: dict[str, Any]
    number: int | None = None


def direction_of(state: OptimizationState) -> Direction:
    return "minimize" if state.metadata.get("direction") == "minimize" else "maximize"


def best_of(trials: Iterable[Trial], direction: Direction, so_far: Best | None = None) -> Best | None:
    """The best completed trial; the first one of equals."""
    best = so_far
    for trial in trials:
        if trial.state is not TrialState.COMPLETED or trial.value is None:
            continue
        if best is None or is_better(trial.value, best.value, direction):
            best = Best(trial.value, trial.parameters, trial.number)
    return best


def is_better(value: float, than: float, direction: Direction) -> bool:
    return value < than if direction == "minimize" else value > than


def improvement(value: float, baseline: float, direction: Direction) -> float:
    """How much better `value` is than the baseline, relative to its size; absolute for a baseline of 0.

    Positive is better in both directions.
    """
    gain = baseline - value if direction == "minimize" else value - baseline
    return gain / abs(baseline) if baseline else gain


def target_share(value: float, baseline: float, target: float, direction: Direction) -> float | None:
    """The share of the way from the baseline to the target; None where the target is not better than the baseline."""
    way = target - baseline
    return (value - baseline) / way if is_better(target, baseline, direction) else None


HOPELESS = 10  # failures in a row that end an optimization without a successful trial, by default


@dataclass(frozen=True)
class Streak:
    """The failed trials at the end of a ledger. Infeasible and cancelled trials do not count, and do not end a streak.

    first_error: of the first failed trial. succeeded: whether any trial before them completed.
    """

    failures: int = 0
    first_error: str = ""
    succeeded: bool = False


def streak_of(trials: Iterable[Trial], before: Streak | None = None) -> Streak:
    """The streak after these trials, in their order; `before` is the streak of the earlier ones."""
    streak = before or Streak()
    for trial in trials:
        if trial.state is TrialState.COMPLETED:
            streak = Streak(succeeded=True)
        elif trial.state is TrialState.FAILED:
            first = streak.first_error if streak.failures else (trial.error or "no reason given")
            streak = Streak(streak.failures + 1, first, streak.succeeded)
    return streak


def is_hopeless(streak: Streak, metadata: Mapping[str, Any]) -> bool:
    """Whether the streak ends it: `stop_after_failures`, or by default ten failures where no trial has succeeded."""
    limit = metadata.get("stop_after_failures")
    if limit is None:
        return not streak.succeeded and streak.failures >= HOPELESS
    return bool(streak.failures >= limit)

"""What a step did for an optimization: the best so far, and how much better that is than the baseline. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.model.trial import Trial

Direction = Literal["maximize", "minimize"]
# The figures that are committed with each step: `BEST` once there is one, CPU and memory where they were measured.
STEP_SECONDS, TRIALS, BEST, CPU, MEMORY = "step_seconds", "trials", "best_value", "cpu_percent", "memory_mib"


@dataclass(frozen=True)
class Best:
    """The best trial so far; `number` is None where a strategy reported a value without trials."""

    value: float
    parameters: dict[str, Any]
    number: int | None = None


def direction_of(state: OptimizationState) -> Direction:
    return "minimize" if state.metadata.get("direction") == "minimize" else "maximize"


def best_of(trials: Iterable[Trial], direction: Direction, so_far: Best | None = None) -> Best | None:
    """The best completed trial; of equals the first stays."""
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
    """By how much `value` is better than the baseline, as a share of its size; absolute where the baseline is 0.

    Positive is better in both directions.
    """
    gain = baseline - value if direction == "minimize" else value - baseline
    return gain / abs(baseline) if baseline else gain

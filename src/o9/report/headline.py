"""The four health scores with their checks, and the key figures. Pure.

Contract. `o9.health` decides; this module words. What is unknown has its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from o9.health.checks.check import PARTS, THRESHOLDS, Check, part_score, part_status
from o9.lifecycle.effect import direction_of, is_better
from o9.model.optimization import OptimizationState, baseline_of, target_of
from o9.model.states import ENDED
from o9.text.escape import shortened
from o9.text.format import duration, number, percent


@dataclass(frozen=True)
class Figure:
    title: str
    value: str
    note: str = ""


def scores(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """For each part its `score` (a number or Unknown), `status`, `threshold` and `checks`."""
    found = []
    for part in PARTS:
        score, threshold = part_score(checks, part), THRESHOLDS[f"{part}_threshold"]
        mine = [check for check in checks if check.part == part]
        status = part_status(score, threshold)
        found.append({"part": part, "score": score, "threshold": threshold, "status": status, "checks": mine})
    return found


METRICS_SHOWN = 12


def performance_figures(
    state: OptimizationState, value: float | None, counts: Mapping[str, int], metrics: Mapping[str, float]
) -> list[Figure]:
    """What was reached, compared with what, in how many trials and how long; then the best trial's metrics."""
    best = Figure("Best value", number(value) if value is not None else "none", _against(state, value))
    figures = [best]
    baseline, target = baseline_of(state), target_of(state)
    if baseline is not None and value is not None:
        figures.append(Figure("Improvement", gain_text(state), f"over the baseline, {number(baseline)}"))
    elif baseline is None:
        figures.append(Figure("Improvement", "unknown", "baseline_performance is not set"))
    if target is not None:
        reached = value is not None and not is_better(target, value, direction_of(state))
        figures.append(Figure("Target", number(target), "reached" if reached else "not reached"))
    bad = {name: n for name, n in counts.items() if name != "completed" and n}
    note = ", ".join(f"{n:,} {name}" for name, n in sorted(bad.items())) or ("all completed" if counts else "")
    figures.append(Figure("Trials", f"{sum(counts.values()):,}", note))
    steps = f"{state.completed_steps:,}" + (f" of {state.total_steps:,}" if state.total_steps else "")
    still = "" if state.status in ENDED else ", so far"
    figures.append(Figure("Run time", duration(state.execution_time or None), f"{steps} steps{still}"))
    for name in list(metrics)[:METRICS_SHOWN]:
        figures.append(Figure(shortened(name, 40).replace("_", " "), number(metrics[name]), "of the best trial"))
    return figures


def gain_text(state: OptimizationState) -> str:
    """The improvement over the baseline: `+12.3%`; `+0.65` over a baseline of 0, which has no percentage."""
    gain = state.performance_improvement
    return percent(gain, sign=True) if baseline_of(state) else number(gain, sign=True)


def _against(state: OptimizationState, value: float | None) -> str:
    if value is None:
        return "no result" if state.status in ENDED else "no result yet"
    return "lower is better" if direction_of(state) == "minimize" else "higher is better"

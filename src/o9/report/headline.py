"""Four scores with their checks, and the key figures. Pure.

Contract. Nothing is decided here: `o9.health` decides, this words it. What is not known says so, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from o9.health.checks.check import PARTS, THRESHOLDS, Check, part_score, part_status
from o9.health.grades import VERDICT
from o9.health.unknown import Unknown
from o9.lifecycle.effect import direction_of, is_better
from o9.model.optimization import OptimizationState, baseline_of, target_of
from o9.model.states import ENDED, HealthStatus
from o9.text.escape import shortened
from o9.text.format import duration, number, percent, sentence


@dataclass(frozen=True)
class CheckRow:
    """One check in words; `remedy` only where something is wrong or unknown."""

    title: str
    value: str
    finding: str
    remedy: str


@dataclass(frozen=True)
class Score:
    """One of the four parts with its checks; `score` is None where it is unknown, with the `reason`."""

    part: str
    score: float | None
    reason: str
    status: HealthStatus
    threshold: float
    checks: Sequence[CheckRow]


@dataclass(frozen=True)
class Figure:
    title: str
    value: str
    note: str = ""


def scores(checks: Sequence[Check]) -> list[Score]:
    found = []
    for part in PARTS:
        score, threshold = part_score(checks, part), THRESHOLDS[f"{part}_threshold"]
        mine = [_check_row(check, threshold) for check in checks if check.part == part]
        status = part_status(score, threshold)
        known = None if isinstance(score, Unknown) else score
        reason = score.reason if isinstance(score, Unknown) else ""
        found.append(Score(part, known, reason, status, threshold, mine))
    return found


def _check_row(check: Check, threshold: float) -> CheckRow:
    title = check.name.partition(".")[2].replace("_", " ")
    finding = "The verdict above." if check.name == VERDICT else sentence(check.words)
    if isinstance(check.score, Unknown):
        return CheckRow(title, "unknown", finding, sentence(check.remedy))
    remedy = sentence(check.remedy) if check.score < threshold else ""
    return CheckRow(title, f"{check.score:.2f}", finding, remedy)


METRICS_SHOWN = 12


def performance_figures(
    state: OptimizationState, value: float | None, counts: Mapping[str, int], metrics: Mapping[str, float]
) -> list[Figure]:
    """What was reached, against what, with how many trials in what time; and the best trial's own metrics."""
    best = Figure("Best value", number(value) if value is not None else "none", _against(state, value))
    figures = [best]
    baseline, target = baseline_of(state), target_of(state)
    if baseline is not None and value is not None:
        gain = state.performance_improvement
        shown = percent(gain, sign=True) if baseline else f"{'+' if gain > 0 else ''}{number(gain)}"
        figures.append(Figure("Improvement", shown, f"on the baseline, {number(baseline)}"))
    elif baseline is None:
        figures.append(Figure("Improvement", "unknown", "no baseline_performance is given"))
    if target is not None:
        reached = value is not None and not is_better(target, value, direction_of(state))
        figures.append(Figure("Target", number(target), "reached" if reached else "not reached"))
    bad = {name: n for name, n in counts.items() if name != "completed" and n}
    note = ", ".join(f"{n:,} {name}" for name, n in sorted(bad.items())) or ("all completed" if counts else "")
    figures.append(Figure("Trials", f"{sum(counts.values()):,}", note))
    steps = f"{state.completed_steps:,}" + (f" of {state.total_steps:,}" if state.total_steps else "")
    still = "" if state.status in ENDED else ", so far"
    figures.append(Figure("Worked", duration(state.execution_time or None), f"{steps} steps{still}"))
    for name in list(metrics)[:METRICS_SHOWN]:
        figures.append(Figure(shortened(name, 40).replace("_", " "), number(metrics[name]), "of the best trial"))
    return figures


def _against(state: OptimizationState, value: float | None) -> str:
    if value is None:
        return "nothing has succeeded" if state.status in ENDED else "nothing has succeeded yet"
    return "less is better" if direction_of(state) == "minimize" else "more is better"

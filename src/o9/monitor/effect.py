"""What an optimization has achieved: against its baseline and its target, and how it is moving. Pure.

"Better" follows the direction everywhere. b(k) is the best value after step k, turned so that larger is better; the
window is the newest RECENT_STEPS steps that have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from o9.lifecycle.effect import Direction, improvement
from o9.lifecycle.trends import spread
from o9.monitor.window import Window

RECENT_STEPS = 50
LEAST_STEPS = 5
LEAST_VALUES = 10


@dataclass(frozen=True)
class Effect:
    """Each figure is None where `reasons` says why, by the figure's name.

    current: the best value so far.
    improvement: its gain over the baseline as a share of the baseline's size; absolute where the baseline is 0.
    target_share: how much of the way from the baseline to the target is done; 1.0 is there, above is beyond.
    improvement_rate: see `improvement_rate`. convergence_rate: see `convergence_rate`.
    stability_score: see `stability_score`.
    """

    current: float | None
    baseline: float
    target: float
    improvement: float | None
    target_share: float | None
    improvement_rate: float | None
    convergence_rate: float | None
    stability_score: float | None
    reasons: dict[str, str]


def effect_of(window: Window) -> Effect:
    state, reasons = window.state, {}
    bests, values = window.bests, window.values
    current = gain = share = None
    if not bests and not state.optimized_parameters:
        reasons["current"] = reasons["improvement"] = reasons["target_share"] = "no trial has succeeded yet"
    else:
        current = state.current_performance
        gain = improvement(current, state.baseline_performance, window.direction)
        share = target_share(current, state.baseline_performance, state.target_performance, window.direction)
        if share is None:
            reasons["target_share"] = "no target is given that is better than the baseline"
    rate, converged = improvement_rate(bests), convergence_rate(bests)
    if rate is None:
        few = f"{len(bests)} steps have a best value, and {LEAST_STEPS} are needed"
        reasons["improvement_rate"] = reasons["convergence_rate"] = few
    stable = stability_score(values)
    if window.order_means_nothing:
        stable, reasons["stability_score"] = None, "a grid and qmc have an order of their own"
    elif stable is None:
        reasons["stability_score"] = f"{len(values)} trials have succeeded, and {LEAST_VALUES} are needed"
    return Effect(
        current, state.baseline_performance, state.target_performance, gain, share, rate, converged, stable, reasons
    )


def target_share(current: float, baseline: float, target: float, direction: Direction) -> float | None:
    """(current - baseline) / (target - baseline); None where the target is not better than the baseline."""
    way = target - baseline
    if way == 0 or (way > 0) != (direction == "maximize"):
        return None
    return (current - baseline) / way


def improvement_rate(bests: Sequence[float]) -> float | None:
    """Improvement a step: (b(k) - b(k - w)) / w over the window's w steps, in units of the objective; never below 0."""
    recent = bests[-RECENT_STEPS:]
    return None if len(recent) < LEAST_STEPS else (recent[-1] - recent[0]) / (len(recent) - 1)


def convergence_rate(bests: Sequence[float]) -> float | None:
    """The share of the window's gain that its older half brought: (b(k - w/2) - b(k - w)) / (b(k) - b(k - w)).

    1.0: nothing more came lately, or nothing at all in the window; 0.5: it gains steadily; 0.0: all came lately.
    """
    recent = bests[-RECENT_STEPS:]
    if len(recent) < LEAST_STEPS:
        return None
    gain = recent[-1] - recent[0]
    return (recent[(len(recent) - 1) // 2] - recent[0]) / gain if gain > 0 else 1.0


def stability_score(values: Sequence[float]) -> float | None:
    """Whether the values settle: S(older) / (S(older) + S(newer)), S being the interquartile range of the values in a
    half of the newest 2·RECENT_STEPS of them. 0.5: they scatter as before; towards 1.0: less; towards 0.0: more.
    Where they do not scatter at all, 1.0.
    """
    recent = values[-2 * RECENT_STEPS :]
    if len(recent) < LEAST_VALUES:
        return None
    older, newer = spread(recent[: len(recent) // 2]), spread(recent[len(recent) // 2 :])
    return older / (older + newer) if newer > 0 else 1.0

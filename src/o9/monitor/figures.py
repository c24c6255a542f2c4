"""What the monitor shows of a window: a snapshot, and the figures of each step as OptimizationMetrics.

Pure, but for `metrics_page`, which reads the steps that it shows: a page costs the same however many steps there are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

from o9.lifecycle.effect import CPU, MEMORY, best_of, improvement, target_share
from o9.lifecycle.trends import spread, without_outliers
from o9.model.optimization import OptimizationMetrics, OptimizationState, utc_now
from o9.model.states import ACTIVE, ENDED, TrialState
from o9.model.trial import Trial
from o9.monitor.findings import find_problems
from o9.monitor.window import LEAST_STEPS, RECENT_STEPS, REPORTED, Place, Step, Window, read_page
from o9.store.store import Store

LEAST_VALUES = 10
NINE_TENTHS = 1.645  # standard deviations, within which nine tenths of a normal distribution lie
NOT_MEASURED = (
    "no process was measured for it: async objectives share the node's process; child processes are measured once a "
    "second, their CPU from the second time on"
)


def snapshots(window: Window, limit: int) -> list[dict[str, Any]]:
    """The newest `limit`, newest last: one as of each step, of which the newest is as of now."""
    count = len(window.steps)
    past = [window.as_of(position) for position in range(max(0, count - limit), count - 1)]
    return [snapshot(seen) for seen in (*past, window.newest())]


def snapshot(window: Window) -> dict[str, Any]:
    """JSON-ready: optimization_id, timestamp, status, step (None before the first), progress, effect, resources,
    findings (the worst first)."""
    return {
        "optimization_id": window.state.optimization_id,
        "timestamp": window.now.isoformat(),
        "status": window.state.status.value,
        "step": window.steps[-1].number if window.steps else None,
        "progress": progress_of(window),
        "effect": effect_of(window),
        "resources": resources_of(window.steps),
        "findings": [finding.to_dict() for finding in find_problems(window)],
    }


def progress_of(window: Window) -> dict[str, Any]:
    """The share that is done, 0.0 to 1.0, and an estimate of the rest from the times from commit to commit.

    `share` is None where no number of steps is known. `remaining_seconds` lies, nine times out of ten, between
    `low_seconds` and `high_seconds`; all three are None where `reason` says why. With m and s the mean and the standard
    deviation of the last RECENT_STEPS times, outliers drawn in, and r steps to go: r·m, less what the step in flight
    has had, within 1.645·√(r·s² + r²·s²/n): the scatter of the steps to come, and what n steps leave unknown of m. A
    pause or a restart between two commits is an outlier, and does not move it.
    """
    state = window.state
    known = state.total_steps > 0
    found: dict[str, Any] = {
        "share": min(1.0, state.completed_steps / state.total_steps) if known else (state.progress or None),
        "completed_steps": state.completed_steps, "total_steps": state.total_steps, "remaining_seconds": None,
        "low_seconds": None, "high_seconds": None, "reason": "",
    }  # fmt: skip
    times = window.step_times[-RECENT_STEPS:]
    if state.status in ENDED:
        return found | {"reason": f"it has ended: {state.status.value}"}
    if state.status not in ACTIVE:
        return found | {"reason": f"it is not running: {state.status.value}"}
    if not known:
        return found | {"reason": "it has no number of steps"}
    if len(times) < LEAST_STEPS:
        return found | {"reason": f"{len(times)} step times are known, and {LEAST_STEPS} are needed"}
    left = max(0, state.total_steps - state.completed_steps)
    usual = without_outliers(times)
    mean, scatter = fmean(usual), stdev(usual)
    had = min((window.now - window.steps[-1].at).total_seconds(), median(usual)) if left else 0.0
    centre = max(0.0, left * mean - max(0.0, had))
    reach = NINE_TENTHS * scatter * math.sqrt(left + left**2 / len(usual))
    return found | {
        "remaining_seconds": centre, "low_seconds": max(0.0, centre - reach), "high_seconds": centre + reach,
    }  # fmt: skip


def effect_of(window: Window) -> dict[str, Any]:
    """What it has achieved. Each figure is None where `reasons` says why, by the figure's name.

    current: the best value so far. improvement: its gain over the baseline as a share of the baseline's size; absolute
    where the baseline is 0. target_share: how much of the way from the baseline to the target is done; above 1.0 is
    beyond. improvement_rate, convergence_rate, stability_score: see the functions of these names.
    """
    state, reasons = window.state, dict[str, str]()
    current = gain = share = None
    if not window.bests and not state.optimized_parameters:
        reasons = dict.fromkeys(("current", "improvement", "target_share"), "no trial has succeeded yet")
    else:
        current = state.current_performance
        gain = improvement(current, state.baseline_performance, window.direction)
        share = target_share(current, state.baseline_performance, state.target_performance, window.direction)
        if share is None:
            reasons["target_share"] = "no target is given that is better than the baseline"
    rate, converged, stable = rates_of(window, window.bests, window.values)
    if rate is None:
        few = f"{len(window.bests)} steps have a best value, and {LEAST_STEPS} are needed"
        reasons["improvement_rate"] = reasons["convergence_rate"] = few
    if window.order_means_nothing:
        reasons["stability_score"] = "a grid and qmc have an order of their own"
    elif stable is None:
        reasons["stability_score"] = f"{len(window.values)} trials have succeeded, and {LEAST_VALUES} are needed"
    return {
        "current": current, "baseline": state.baseline_performance, "target": state.target_performance,
        "improvement": gain, "target_share": share, "improvement_rate": rate, "convergence_rate": converged,
        "stability_score": stable, "reasons": reasons,
    }  # fmt: skip


def rates_of(
    window: Window, bests: Sequence[float], values: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Improvement rate, convergence rate and stability score, of bests and values turned so that larger is better.

    b(k) is the best value after step k; the window of these figures is the newest RECENT_STEPS steps that have one.
    """
    stable = None if window.order_means_nothing else stability_score(values)
    return improvement_rate(bests), convergence_rate(bests), stable


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


def resources_of(steps: Sequence[Step]) -> dict[str, Any]:
    """The last step's seconds and trials a second; CPU (percent of one core) and memory (MiB) as last measured."""
    last = steps[-1] if steps else Step(0, utc_now(), {})
    measured = {name: value for step in steps for name, value in step.figures.items()}
    usage = {name: measured.get(name) for name in (CPU, MEMORY)}
    reason = "" if CPU in measured else NOT_MEASURED
    return {"step_seconds": last.seconds, "throughput": last.throughput, **usage, "reason": reason}


def metrics_of(window: Window, steps: Sequence[Step]) -> list[OptimizationMetrics]:
    """One for each of `steps`, which are the window's newest; see `rates_of` for the formulas.

    accuracy, precision, … efficiency_gain are what the strategy reported of the step, or the objective of the step's
    best trial, under these names; O9 measures none of them.
    """
    sign, trials = window.sign, window.trials
    values = [(t.step, sign * t.value) for t in trials if t.state is TrialState.COMPLETED and t.value is not None]
    bests = [(step.number, sign * step.best) for step in window.steps if step.best is not None]
    answer: list[OptimizationMetrics] = []
    for step in steps:
        recent = _until(bests, step.number, RECENT_STEPS), _until(values, step.number, 2 * RECENT_STEPS)
        rate, converged, stable = rates_of(window, *recent)
        answer.append(
            OptimizationMetrics(
                optimization_id=window.state.optimization_id,
                timestamp=step.at,
                execution_time=step.seconds,
                cpu_usage=step.figures.get(CPU),
                memory_usage=step.figures.get(MEMORY),
                throughput=step.throughput,
                convergence_rate=converged,
                improvement_rate=rate,
                stability_score=stable,
                **_reported(window, step, trials),
            )
        )
    return answer


def _until(pairs: Sequence[tuple[int, float]], step: int, limit: int) -> list[float]:
    """The last `limit` values of the pairs (step, value) up to `step`."""
    end = bisect_right(pairs, step, key=lambda pair: pair[0])
    return [value for _, value in pairs[max(0, end - limit) : end]]


def _reported(window: Window, step: Step, trials: Sequence[Trial]) -> dict[str, float]:
    first = bisect_right(trials, step.number - 1, key=lambda trial: trial.step)
    last = bisect_right(trials, step.number, key=lambda trial: trial.step)
    best = best_of(trials[first:last], window.direction)
    of_the_best = next((t.metrics for t in trials[first:last] if best is not None and t.number == best.number), {})
    reported = {**of_the_best, **step.figures}
    return {name: reported[name] for name in REPORTED if name in reported}


def metrics_page(
    store: Store, state: OptimizationState, begin: Place, limit: int
) -> tuple[list[OptimizationMetrics], Place | None]:
    """Up to `limit` steps from `begin` on (a step, and its first trial), oldest first, and where the next page begins.

    To be called in a thread.
    """
    steps, trials, following = store.read(read_page, state.optimization_id, begin, limit)
    window = Window(state, utc_now(), steps, trials)
    return metrics_of(window, [step for step in steps if step.number >= begin[0]]), following

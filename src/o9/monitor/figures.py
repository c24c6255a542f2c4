"""What the monitor reports about a window: snapshots, and the metrics of each step.

Pure, except for `metrics_page`, which reads its steps; a page costs the same however many steps there are.
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
from o9.monitor.window import LEAST_STEPS, RECENT_STEPS, REPORTED, Position, Step, Window, read_page
from o9.store.store import Store

LEAST_VALUES = 10
NINE_TENTHS = 1.645  # standard deviations around the mean that hold nine tenths of a normal distribution
NOT_MEASURED = (
    "no process was measured for it: async objectives share the node's process; child processes are measured once a "
    "second, their CPU from the second time on"
)


def snapshots(window: Window, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` snapshots, newest last: one as of each earlier step, and one as of now."""
    count = len(window.steps)
    past = [window.as_of(position) for position in range(max(0, count - limit), count - 1)]
    return [snapshot(each) for each in (*past, window.newest())]


def snapshot(window: Window) -> dict[str, Any]:
    """Return, JSON-ready: optimization_id, timestamp, status, step (None before the first), progress, effect,
    resources, and findings, the worst first."""
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
    """Return the share that is done, 0.0 to 1.0, and an estimate of the remaining time from the step times.

    `share` is None if the number of steps is unknown. The true remaining time lies between `low_seconds` and
    `high_seconds` nine times out of ten; these and `remaining_seconds` are None if `reason` is not empty.

    The step times are the last n (at most RECENT_STEPS) times from commit to commit, winsorized, so that a pause or a
    restart between two commits has no effect. With their mean m, their standard deviation s and r steps to go, the
    estimate is r·m minus the age of the present step, ± 1.645·√(r·s² + r²·s²/n): the scatter of the coming steps and
    the uncertainty of m.
    """
    state = window.state
    known = state.total_steps > 0
    progress: dict[str, Any] = {
        "share": min(1.0, state.completed_steps / state.total_steps) if known else (state.progress or None),
        "completed_steps": state.completed_steps, "total_steps": state.total_steps, "remaining_seconds": None,
        "low_seconds": None, "high_seconds": None, "reason": "",
    }  # fmt: skip
    times = window.step_times[-RECENT_STEPS:]
    if state.status in ENDED:
        return progress | {"reason": f"it has ended: {state.status.value}"}
    if state.status not in ACTIVE:
        return progress | {"reason": f"it is not running: {state.status.value}"}
    if not known:
        return progress | {"reason": "its number of steps is unknown"}
    if len(times) < LEAST_STEPS:
        return progress | {"reason": f"{len(times)} step times are known; at least {LEAST_STEPS} are needed"}
    left = max(0, state.total_steps - state.completed_steps)
    times = without_outliers(times)
    age = min((window.now - window.steps[-1].at).total_seconds(), median(times)) if left else 0.0
    centre = max(0.0, left * fmean(times) - max(0.0, age))
    reach = NINE_TENTHS * stdev(times) * math.sqrt(left + left**2 / len(times))
    return progress | {
        "remaining_seconds": centre, "low_seconds": max(0.0, centre - reach), "high_seconds": centre + reach,
    }  # fmt: skip


def effect_of(window: Window) -> dict[str, Any]:
    """Return what it has achieved. A figure that is None has an entry in `reasons`.

    current: the best value so far. improvement: its gain over the baseline, relative to the baseline's size, or
    absolute if the baseline is 0. target_share: the part of the way from the baseline to the target that is done; above
    1.0 the target is exceeded. improvement_rate, convergence_rate, stability_score: see the functions of these names.
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
            reasons["target_share"] = "there is no target that is better than the baseline"
    rate, converged, stable = rates_of(window, window.bests, window.values)
    if rate is None:
        few = f"{len(window.bests)} steps have a best value; at least {LEAST_STEPS} are needed"
        reasons["improvement_rate"] = reasons["convergence_rate"] = few
    if window.has_fixed_order:
        reasons["stability_score"] = "grid and qmc sample in a fixed order"
    elif stable is None:
        reasons["stability_score"] = f"{len(window.values)} trials have succeeded; at least {LEAST_VALUES} are needed"
    return {
        "current": current, "baseline": state.baseline_performance, "target": state.target_performance,
        "improvement": gain, "target_share": share, "improvement_rate": rate, "convergence_rate": converged,
        "stability_score": stable, "reasons": reasons,
    }  # fmt: skip


def rates_of(
    window: Window, bests: Sequence[float], values: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Return the improvement rate, convergence rate and stability score. Larger bests and values are better.

    In the formulas below, b(k) is the best value after step k, and w the number of steps in the window: the newest
    RECENT_STEPS steps that have a best value.
    """
    stable = None if window.has_fixed_order else stability_score(values)
    return improvement_rate(bests), convergence_rate(bests), stable


def improvement_rate(bests: Sequence[float]) -> float | None:
    """Return the improvement per step in units of the objective, at least 0: (b(k) - b(k - w)) / w."""
    recent = bests[-RECENT_STEPS:]
    return None if len(recent) < LEAST_STEPS else (recent[-1] - recent[0]) / (len(recent) - 1)


def convergence_rate(bests: Sequence[float]) -> float | None:
    """Return the older half's share of the window's gain: (b(k - w/2) - b(k - w)) / (b(k) - b(k - w)).

    1.0: the newer half gained nothing, or neither did; 0.5: the gain is steady; 0.0: all of it is in the newer half.
    """
    recent = bests[-RECENT_STEPS:]
    if len(recent) < LEAST_STEPS:
        return None
    gain = recent[-1] - recent[0]
    return (recent[(len(recent) - 1) // 2] - recent[0]) / gain if gain > 0 else 1.0


def stability_score(values: Sequence[float]) -> float | None:
    """Return S(older) / (S(older) + S(newer)), with S the interquartile range of each half of the newest
    2·RECENT_STEPS values. 0.5: they scatter as before; above: less, and 1.0 not at all; below: more.
    """
    recent = values[-2 * RECENT_STEPS :]
    if len(recent) < LEAST_VALUES:
        return None
    older, newer = spread(recent[: len(recent) // 2]), spread(recent[len(recent) // 2 :])
    return older / (older + newer) if newer > 0 else 1.0


def resources_of(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the last step's seconds and trials per second, and the last CPU (% of one core) and memory (MiB)."""
    last = steps[-1] if steps else Step(0, utc_now(), {})
    measured = {name: value for step in steps for name, value in step.figures.items()}
    usage = {name: measured.get(name) for name in (CPU, MEMORY)}
    reason = "" if CPU in measured else NOT_MEASURED
    return {"step_seconds": last.seconds, "throughput": last.throughput, **usage, "reason": reason}


def metrics_of(window: Window, steps: Sequence[Step]) -> list[OptimizationMetrics]:
    """Return the metrics of each of `steps`, which are the newest in the window; see `rates_of` for the formulas.

    O9 does not measure `accuracy`, `precision`, … `efficiency_gain`: they are what the strategy reported for the step,
    or else the objective for the step's best trial.
    """
    sign, trials = window.sign, window.trials
    values = [(t.step, sign * t.value) for t in trials if t.state is TrialState.COMPLETED and t.value is not None]
    bests = [(step.number, sign * step.best) for step in window.steps if step.best is not None]
    metrics: list[OptimizationMetrics] = []
    for step in steps:
        recent = _until(bests, step.number, RECENT_STEPS), _until(values, step.number, 2 * RECENT_STEPS)
        rate, converged, stable = rates_of(window, *recent)
        metrics.append(
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
    return metrics


def _until(pairs: Sequence[tuple[int, float]], step: int, limit: int) -> list[float]:
    """Return the last `limit` values among the pairs (step, value) up to `step`."""
    end = bisect_right(pairs, step, key=lambda pair: pair[0])
    return [value for _, value in pairs[max(0, end - limit) : end]]


def _reported(window: Window, step: Step, trials: Sequence[Trial]) -> dict[str, float]:
    first = bisect_right(trials, step.number - 1, key=lambda trial: trial.step)
    last = bisect_right(trials, step.number, key=lambda trial: trial.step)
    best = best_of(trials[first:last], window.direction)
    metrics = next((t.metrics for t in trials[first:last] if best is not None and t.number == best.number), {})
    reported = {**metrics, **step.figures}
    return {name: reported[name] for name in REPORTED if name in reported}


def metrics_page(
    store: Store, state: OptimizationState, begin: Position, limit: int
) -> tuple[list[OptimizationMetrics], Position | None]:
    """Return the metrics of up to `limit` steps from `begin` on, oldest first, and where the next page begins.

    Blocks; call it in a thread.
    """
    steps, trials, following = store.read(read_page, state.optimization_id, begin, limit)
    window = Window(state, utc_now(), steps, trials)
    return metrics_of(window, [step for step in steps if step.number >= begin[0]]), following

"""What the monitor shows of a window: a snapshot, and the figures of each step as OptimizationMetrics.

Pure, but for `metrics_page`, which reads the steps that it shows: a page costs the same however many steps there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from o9.lifecycle.effect import CPU, MEMORY, STEP_SECONDS, TRIALS, best_of
from o9.model.optimization import OptimizationMetrics, OptimizationState, utc_now
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.monitor.effect import RECENT_STEPS, convergence_rate, effect_of, improvement_rate, stability_score
from o9.monitor.findings import Finding, find_problems
from o9.monitor.progress import progress_of
from o9.monitor.window import REPORTED, Step, Window, read_steps
from o9.store.schema.optimizations import METRIC
from o9.store.store import Store

Place = tuple[int, int]  # where a page begins: the number of its first step, and of that step's first trial
START: Place = (0, 0)
NOT_MEASURED = (
    "no process was measured for it: async objectives share the node's process; child processes are measured once a "
    "second, their CPU from the second time on"
)


def snapshots(window: Window, limit: int) -> list[dict[str, Any]]:
    """The newest `limit`, newest last: one as of each step, of which the newest is as of now."""
    count = len(window.steps)
    past = [window.as_of(position) for position in range(max(0, count - limit), count - 1)]
    return [snapshot(seen, find_problems(seen)) for seen in (*past, window.newest())]


def snapshot(window: Window, findings: Sequence[Finding]) -> dict[str, Any]:
    """JSON-ready: optimization_id, timestamp, status, step (None before the first), progress, effect, resources,
    findings (the worst first)."""
    return {
        "optimization_id": window.state.optimization_id,
        "timestamp": window.now.isoformat(),
        "status": window.state.status.value,
        "step": window.steps[-1].number if window.steps else None,
        "progress": asdict(progress_of(window)),
        "effect": asdict(effect_of(window)),
        "resources": resources_of(window.steps),
        "findings": [finding.to_dict() for finding in findings],
    }


def resources_of(steps: Sequence[Step]) -> dict[str, Any]:
    """The last step's seconds and trials a second; CPU (percent of one core) and memory (MiB) of the newest step of
    the window in which they were measured, and which that was."""
    last = steps[-1] if steps else None
    answer: dict[str, Any] = {
        "step_seconds": last.seconds if last else None,
        "throughput": throughput_of(last) if last else None,
    }
    for name in (CPU, MEMORY):
        measured = next((step for step in reversed(steps) if name in step.figures), None)
        answer[name] = measured.figures[name] if measured else None
        answer[f"{name}_at_step"] = measured.number if measured else None
    return answer | {"reason": "" if answer[CPU] is not None else NOT_MEASURED}


def throughput_of(step: Step) -> float | None:
    """Trials a second."""
    return step.figures.get(TRIALS, 0.0) / step.seconds if step.seconds else None


def metrics_of(window: Window, steps: Sequence[Step]) -> list[OptimizationMetrics]:
    """One for each of `steps`, which are the window's newest; see `o9.monitor.effect` for the formulas.

    accuracy, precision, … efficiency_gain are what the strategy reported of the step, or the objective of the step's
    best trial, under these names; O9 measures none of them.
    """
    sign, trials = window.sign, window.trials
    values = [(t.step, sign * t.value) for t in trials if t.state is TrialState.COMPLETED and t.value is not None]
    bests = [(step.number, sign * step.best) for step in window.steps if step.best is not None]
    answer: list[OptimizationMetrics] = []
    for step in steps:
        recent_bests = _until(bests, step.number, RECENT_STEPS)
        recent_values = _until(values, step.number, 2 * RECENT_STEPS)
        answer.append(
            OptimizationMetrics(
                optimization_id=window.state.optimization_id,
                timestamp=step.at,
                execution_time=step.seconds,
                cpu_usage=step.figures.get(CPU),
                memory_usage=step.figures.get(MEMORY),
                throughput=throughput_of(step),
                convergence_rate=convergence_rate(recent_bests),
                improvement_rate=improvement_rate(recent_bests),
                stability_score=None if window.order_means_nothing else stability_score(recent_values),
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
    store: Store, state: OptimizationState, place: Place, limit: int
) -> tuple[list[OptimizationMetrics], Place | None]:
    """Up to `limit` steps from `place` on, oldest first, and where the next page begins. To be called in a thread."""
    return store.read(_page, state, place, limit)


def _page(
    connection: Connection, state: OptimizationState, place: Place, limit: int
) -> tuple[list[OptimizationMetrics], Place | None]:
    committed = (METRIC.c.optimization_id == state.optimization_id) & (METRIC.c.name == STEP_SECONDS)
    statement = select(METRIC.c.step).where(committed, METRIC.c.step >= place[0]).order_by(METRIC.c.step)
    numbers = connection.execute(statement.limit(limit + 1)).scalars().all()
    if not numbers:
        return [], None
    shown = numbers[:limit]
    steps, trials, behind = read_steps(connection, state.optimization_id, shown[0], shown[-1], place[1])
    window = Window(state, utc_now(), steps, trials)
    page = metrics_of(window, [step for step in steps if step.number >= shown[0]])
    return page, (numbers[limit], behind) if len(numbers) > limit else None

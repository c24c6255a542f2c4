"""Problems of a running optimization, each with a name, evidence and a remedy.

Pure: from a window to findings. The limits follow from the optimization's own past or from chance; with too little data
there is no finding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from o9.lifecycle import trends
from o9.lifecycle.effect import MEMORY, TRIALS
from o9.model.search_space import CategoricalParameter, Parameter
from o9.model.states import AlertLevel, OptimizationStatus, TrialState
from o9.monitor.window import LEAST_STEPS, RECENT_STEPS, Window
from o9.text.cut import first_line
from o9.text.format import duration, percent
from o9.workers.answers import NAN


@dataclass(frozen=True)
class Finding:
    """A problem: its code, one sentence about it, what to do, and the figures behind it."""

    name: str
    level: AlertLevel
    summary: str
    remedy: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"level": self.level.value}


STALL_FACTOR = 5.0
STALL_DEVIATIONS = 4.0
STALL_SECONDS = 30.0  # the shortest silence that is worth an alert


def stalled(window: Window) -> Finding | None:
    """Nothing has been written for much longer than a step takes from commit to commit.

    The limit is the median of the last RECENT_STEPS step times, multiplied by the larger of STALL_FACTOR and
    exp(STALL_DEVIATIONS standard deviations of their logarithms); it is at least STALL_SECONDS.
    """
    state = window.state
    times = [time for time in window.step_times if time > 0][-RECENT_STEPS:]
    if state.status is not OptimizationStatus.RUNNING or len(times) < LEAST_STEPS:
        return None
    quiet = (window.now - max(state.updated_at, window.steps[-1].at)).total_seconds()
    usual = median(times)
    varied = math.exp(STALL_DEVIATIONS * trends.deviation([math.log(t) for t in times]))
    limit = max(STALL_SECONDS, usual * max(STALL_FACTOR, varied))
    if quiet <= limit:
        return None
    return Finding(
        "stalled",
        AlertLevel.ERROR,
        f"no step for {duration(quiet)}; its steps usually take {duration(usual)}",
        "check its log (`o9 watch ID`) and what the objective waits for; cancel it, or set timeout_seconds",
        {"quiet_seconds": quiet, "limit_seconds": limit, "usual_seconds": usual, "step_times": len(times)},
    )


def memory_growing(window: Window) -> Finding | None:
    """The memory of its processes rises from reading to reading and has not levelled off."""
    found = trends.growth([step.figures[MEMORY] for step in window.steps if MEMORY in step.figures])
    if found is None:
        return None
    return Finding(
        "memory_growing",
        AlertLevel.WARNING,
        f"the memory of its processes grew from {found.first:.0f} to {found.last:.0f} MiB and keeps growing",
        "check what the objective keeps from trial to trial (caches, lists, open files)",
        {"first_mib": found.first, "last_mib": found.last, "mib_a_reading": found.slope, "readings": found.readings,
         "tau": found.tau},
    )  # fmt: skip


def slower_than_before(window: Window) -> Finding | None:
    """A trial in the last steps takes at least twice as long as before, beyond chance."""
    found = trends.slowdown(
        [step.seconds / max(1.0, step.figures.get(TRIALS, 1.0)) for step in window.steps if step.seconds is not None]
    )
    if found is None:
        return None
    return Finding(
        "slower_than_before",
        AlertLevel.WARNING,
        f"a trial takes {duration(found.now)} now; it took {duration(found.before)} before",
        "check whether the machine is busy with other work, the data grows, or the sampler's model does (gp, tpe)",
        {"seconds_now": found.now, "seconds_before": found.before, "ratio": found.now / found.before, "z": found.z,
         "steps_before": found.count},
    )  # fmt: skip


PLATEAU_SHARE = 0.75  # of the window's steps, the newest ones
PLATEAU_TRIALS = 30
PLATEAU_GAIN = 0.01  # of the interquartile range of the values


def plateaued(window: Window) -> Finding | None:
    """The best improved in the newest three quarters of the steps by at most a hundredth of the values' spread.

    A hint, not a fault: random search does so one time in four, and every search in the end.
    """
    bests, spread = window.bests, trends.spread(window.values)
    since = int(len(bests) * (1 - PLATEAU_SHARE))
    steps = [step for step in window.steps if step.best is not None][since + 1 :]
    first = steps[0].number if steps else math.inf
    trials = sum(trial.state is TrialState.COMPLETED and trial.step >= first for trial in window.trials)
    if trials < PLATEAU_TRIALS:
        return None
    gain = bests[-1] - bests[since]
    if spread <= 0 or gain > PLATEAU_GAIN * spread:
        return None
    return Finding(
        "plateaued",
        AlertLevel.INFO,
        f"almost no improvement in the last {len(steps)} steps ({trials} trials)",
        "stop it if the result is good enough; otherwise widen the search space or use another sampler",
        {"steps": len(steps), "trials": trials, "gain": gain, "spread_of_values": spread, "limit": PLATEAU_GAIN},
    )


LEAST_VALUES = 30
DIVERGING_SHARE = 0.2
DIVERGING_Z = 3.0


def diverging(window: Window) -> Finding | None:
    """Trials keep getting worse.

    The newer value is the better one in at most a fifth of all pairs from the window's older and newer half, which
    happens by chance once in a thousand times, and the median of each third is worse than that of the third before.
    """
    values = window.values
    if window.has_fixed_order or len(values) < LEAST_VALUES:
        return None
    half, third = len(values) // 2, len(values) // 3
    better, z = trends.larger_later(values[:half], values[half:])
    medians = [median(values[n * third : (n + 1) * third]) for n in range(3)]
    if better > DIVERGING_SHARE or z > -DIVERGING_Z or not medians[0] > medians[1] > medians[2]:
        return None
    return Finding(
        "diverging",
        AlertLevel.WARNING,
        f"newer trials are worse: they are better than an older one in {percent(better)} of all pairs",
        "check for drifting data, an objective that keeps state between trials, or a sampler that leaves good regions",
        {"trials": len(values), "better_share": better, "z": z,
         "medians_of_thirds": [window.sign * each for each in medians]},
    )  # fmt: skip


FAILING_TRIALS = 5
FAILING_SHARE = 0.2
FAILING_BADLY = 0.5


def failing_trials(window: Window) -> Finding | None:
    """At least a fifth of the newest trials failed, and at least five. Cancelled and infeasible ones do not count."""
    trials = [trial for trial in window.trials if trial.state in (TrialState.COMPLETED, TrialState.FAILED)]
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if len(failed) < FAILING_TRIALS or len(failed) < FAILING_SHARE * len(trials):
        return None
    share = len(failed) / len(trials)
    errors = Counter(first_line(trial.error or "no error is recorded", 200) for trial in failed)
    error, times = errors.most_common(1)[0]
    return Finding(
        "failing_trials",
        AlertLevel.ERROR if share >= FAILING_BADLY else AlertLevel.WARNING,
        f"{len(failed)} of the last {len(trials)} trials failed ({percent(share)}); the most frequent error: {error}",
        "fix the objective, or exclude what it cannot evaluate from the search space; `o9 trials ID` shows the errors",
        {"failed": len(failed), "trials": len(trials), "share": share, "error": error, "times": times},
    )


def nan_values(window: Window) -> Finding | None:
    """The objective returned NaN as a value, metric or return, usually because data are missing."""
    failed = [trial for trial in window.trials if trial.state is TrialState.FAILED]
    numbers = [trial.number for trial in failed if (trial.error or "").startswith(NAN)]
    if not numbers:
        return None
    return Finding(
        "nan_values",
        AlertLevel.WARNING,
        f"the objective returned NaN in {len(numbers)} of the last {len(window.trials)} trials, first in {numbers[0]}",
        "check for gaps in the data, a division of 0 by 0, or windows longer than the series",
        {"trials": numbers[:10], "count": len(numbers), "share": len(numbers) / len(window.trials)},
    )


EDGE = 0.01  # of the range
EDGE_CHANCE = 0.2
EDGE_TRIALS = 20


def best_at_edge(window: Window) -> Finding | None:
    """A parameter of the best trial lies on an end of its range, or within a hundredth of it.

    Distances are on a logarithmic scale if the search is. Choices have no ends; nor has a range of so few points that
    its ends are a fifth of them.
    """
    best = window.state.optimized_parameters
    if window.space is None or not best or len(window.values) < EDGE_TRIALS:
        return None
    edges = {p.name: side for p in window.space.parameters if (side := edge_of(p, best.get(p.name))) is not None}
    if not edges:
        return None
    ranges = {p.name: p.to_dict() for p in window.space.parameters if p.name in edges}
    values = ", ".join(f"{name} = {best[name]!r} ({side} end)" for name, side in sorted(edges.items()))
    return Finding(
        "best_at_edge",
        AlertLevel.INFO,
        f"the best trial lies at the edge of the search space: {values}",
        "widen the range on that side unless it is a natural limit; a better value may lie beyond",
        {"edges": edges, "best": {name: best[name] for name in edges}, "ranges": ranges},
    )


def edge_of(parameter: Parameter, value: Any) -> str | None:
    """Return "low" or "high" if `value` is at that end of the parameter's range; None otherwise."""
    if isinstance(parameter, CategoricalParameter) or not parameter.contains(value):
        return None
    size = parameter.grid_size()
    if size is not None and 2 / size > EDGE_CHANCE:
        return None
    low, high, at = float(parameter.low), float(parameter.high), float(value)
    if size is not None:  # the last point of the grid may lie below `high`
        high = float(parameter.grid_value(size - 1))
    if at in (low, high):
        return "low" if at == low else "high"
    if parameter.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    place = (at - low) / (high - low)
    return "low" if place <= EDGE else "high" if place >= 1 - EDGE else None


_CHECKS: Sequence[Callable[[Window], Finding | None]] = (
    stalled, memory_growing, slower_than_before, failing_trials, nan_values, diverging, plateaued, best_at_edge,
)  # fmt: skip
_WORST_FIRST = (AlertLevel.CRITICAL, AlertLevel.ERROR, AlertLevel.WARNING, AlertLevel.INFO)


def find_problems(window: Window) -> list[Finding]:
    """Return all problems of the window, the worst first."""
    findings = [finding for check in _CHECKS if (finding := check(window)) is not None]
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.level))

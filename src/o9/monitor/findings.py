"""What is wrong with an optimization that runs, each thing by its name, with its evidence and its remedy.

Pure: a window in, findings out. A finding is named only where its figures are beyond limits that follow from the
optimization's own past or from chance; where too little is known, nothing is found.
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
    """`name` says which, `summary` in one sentence, `evidence` the figures, `remedy` what to do."""

    name: str
    level: AlertLevel
    summary: str
    remedy: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"level": self.level.value}


STALL_FACTOR = 5.0
STALL_DEVIATIONS = 4.0
STALL_SECONDS = 30.0  # at least: shorter silences are not worth an alert


def stalled(window: Window) -> Finding | None:
    """Nothing was written for much longer than its steps take, by the clock from commit to commit.

    The limit is the median of the last RECENT_STEPS of those times, times the larger of STALL_FACTOR and
    exp(STALL_DEVIATIONS deviations of their logarithms), and at least STALL_SECONDS: the more they vary, the longer it
    waits.
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
        f"no step for {duration(quiet)}, and its steps take {duration(usual)}",
        "look at its log (`o9 watch ID`) and at what the objective waits for; cancel it, or give a timeout_seconds",
        {"quiet_seconds": quiet, "limit_seconds": limit, "usual_seconds": usual, "step_times": len(times)},
    )


def memory_growing(window: Window) -> Finding | None:
    """The memory of its processes rises from reading to reading, and has not levelled off."""
    found = trends.growth([step.figures[MEMORY] for step in window.steps if MEMORY in step.figures])
    if found is None:
        return None
    return Finding(
        "memory_growing",
        AlertLevel.WARNING,
        f"the memory of its processes grew from {found.first:.0f} to {found.last:.0f} MiB, and goes on",
        "look for what the objective keeps from trial to trial (caches, lists, open files)",
        {"first_mib": found.first, "last_mib": found.last, "mib_a_reading": found.slope, "readings": found.readings,
         "tau": found.tau},
    )  # fmt: skip


def slower_than_before(window: Window) -> Finding | None:
    """A trial takes twice as long or more in the last steps as in those before, beyond chance."""
    found = trends.slowdown(
        [step.seconds / max(1.0, step.figures.get(TRIALS, 1.0)) for step in window.steps if step.seconds is not None]
    )
    if found is None:
        return None
    return Finding(
        "slower_than_before",
        AlertLevel.WARNING,
        f"a trial takes {duration(found.now)} now, and took {duration(found.before)} before",
        "see whether the machine is busy with other work, the data grows, or the sampler's model does (gp, tpe)",
        {"seconds_now": found.now, "seconds_before": found.before, "ratio": found.now / found.before, "z": found.z,
         "steps_before": found.count},
    )  # fmt: skip


PLATEAU_SHARE = 0.75  # of the window, its newest part
PLATEAU_TRIALS = 30
PLATEAU_GAIN = 0.01  # of the spread of the values


def plateaued(window: Window) -> Finding | None:
    """The newest three quarters of the window's steps brought less than a hundredth of the values' spread.

    Random search does so one time in four, and always in the end: it is a hint, not a fault.
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
        f"the last {len(steps)} steps ({trials} trials) found next to nothing better",
        "stop it if the result is good enough; else widen the search space, or take another sampler",
        {"steps": len(steps), "trials": trials, "gain": gain, "spread_of_values": spread, "limit": PLATEAU_GAIN},
    )


LEAST_VALUES = 30
DIVERGING_SHARE = 0.2
DIVERGING_Z = 3.0


def diverging(window: Window) -> Finding | None:
    """Trials get worse and worse: of all pairs from the window's older and newer half, the newer value is the better
    one in a fifth or less, which chance does once in a thousand times, and each third is worse than the one before.
    """
    values = window.values
    if window.order_means_nothing or len(values) < LEAST_VALUES:
        return None
    half, third = len(values) // 2, len(values) // 3
    better, z = trends.larger_later(values[:half], values[half:])
    thirds = [median(values[n * third : (n + 1) * third]) for n in range(3)]
    if better > DIVERGING_SHARE or z > -DIVERGING_Z or not thirds[0] > thirds[1] > thirds[2]:
        return None
    thirds = [window.sign * one for one in thirds]
    return Finding(
        "diverging",
        AlertLevel.WARNING,
        f"newer trials are worse: better than an older one in {percent(better)} of all pairs",
        "look for drifting data, an objective that keeps state from trial to trial, or a sampler that leaves its best",
        {"trials": len(values), "better_share": better, "z": z, "medians_of_thirds": thirds},
    )


FAILING_TRIALS = 5
FAILING_SHARE = 0.2
FAILING_BADLY = 0.5


def failing_trials(window: Window) -> Finding | None:
    """A fifth or more of the newest trials failed, and at least five of them; cancelled and infeasible ones do not
    count."""
    trials = [trial for trial in window.trials if trial.state in (TrialState.COMPLETED, TrialState.FAILED)]
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if len(failed) < FAILING_TRIALS or len(failed) < FAILING_SHARE * len(trials):
        return None
    share = len(failed) / len(trials)
    errors = Counter(first_line(trial.error or "no error is kept", 200) for trial in failed)
    error, times = errors.most_common(1)[0]
    return Finding(
        "failing_trials",
        AlertLevel.ERROR if share >= FAILING_BADLY else AlertLevel.WARNING,
        f"{len(failed)} of the last {len(trials)} trials failed ({percent(share)}); most often: {error}",
        "fix the objective, or exclude what it cannot evaluate from the search space; `o9 trials ID` shows the errors",
        {"failed": len(failed), "trials": len(trials), "share": share, "error": error, "times": times},
    )


def nan_values(window: Window) -> Finding | None:
    """An objective answered NaN, as value, metric or return: it computed with data that it did not have."""
    failed = [trial for trial in window.trials if trial.state is TrialState.FAILED]
    numbers = [trial.number for trial in failed if (trial.error or "").startswith(NAN)]
    if not numbers:
        return None
    return Finding(
        "nan_values",
        AlertLevel.WARNING,
        f"the objective answered NaN in {len(numbers)} of the last {len(window.trials)} trials, first in {numbers[0]}",
        "look for gaps in the data, a division of 0 by 0, or windows longer than the series",
        {"trials": numbers[:10], "count": len(numbers), "share": len(numbers) / len(window.trials)},
    )


EDGE = 0.01  # of the range
EDGE_CHANCE = 0.2
EDGE_TRIALS = 20


def best_at_edge(window: Window) -> Finding | None:
    """A parameter of the best trial lies in the outer hundredth of its range, or on its last point.

    On a logarithmic scale where the search has one. Choices have no edge, and neither has a range of so few points
    that its ends are a fifth of it.
    """
    best = window.state.optimized_parameters
    if window.space is None or not best or len(window.values) < EDGE_TRIALS:
        return None
    edges = {p.name: side for p in window.space.parameters if (side := edge_of(p, best.get(p.name))) is not None}
    if not edges:
        return None
    known = {p.name: p.to_dict() for p in window.space.parameters if p.name in edges}
    said = ", ".join(f"{name} = {best[name]!r} ({side} end)" for name, side in sorted(edges.items()))
    return Finding(
        "best_at_edge",
        AlertLevel.INFO,
        f"the best lies at the edge of the search space: {said}",
        "widen the range on that side, unless it is a limit of nature; a better one may lie beyond",
        {"edges": edges, "best": {name: best[name] for name in edges}, "ranges": known},
    )


def edge_of(parameter: Parameter, value: Any) -> str | None:
    """ "low" or "high" where `value` is at that end of the parameter's range; None inside, or where there is no end."""
    if isinstance(parameter, CategoricalParameter) or not parameter.contains(value):
        return None
    size = parameter.grid_size()
    if size is not None and 2 / size > EDGE_CHANCE:
        return None
    low, high, at = float(parameter.low), float(parameter.high), float(value)
    if size is not None:  # the last point of its grid may lie below `high`
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
    """All problems that the window shows, the worst first."""
    found = [finding for check in _CHECKS if (finding := check(window)) is not None]
    return sorted(found, key=lambda finding: _WORST_FIRST.index(finding.level))

"""Problems of time and resources, judged by the optimization's own past. Pure; see `o9.monitor.findings`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from o9.lifecycle import robust_statistics
from o9.lifecycle.effect import MEMORY, TRIALS
from o9.lifecycle.trend_detection import growth, slowdown
from o9.model.states import AlertLevel, OptimizationStatus
from o9.monitor.findings import OF_THE_SEARCH, Finding
from o9.monitor.progress import LEAST_STEPS, RECENT_STEPS, times_between
from o9.monitor.window import Window

STALL_FACTOR = 5.0
STALL_DEVIATIONS = 4.0
STALL_SECONDS = 30.0  # at least: of what is over sooner, nobody need hear


def find_problems(window: Window) -> list[Finding]:
    """All that is wrong as far as the window tells, the worst first."""
    found = [finding for look in (*OF_RUNNING, *OF_THE_SEARCH) if (finding := look(window)) is not None]
    return sorted(found, key=lambda finding: _WORST_FIRST.index(finding.level))


def stalled(window: Window) -> Finding | None:
    """Nothing was written for much longer than its steps take, by the clock from commit to commit.

    The limit is the median of the last RECENT_STEPS of those times, times the larger of STALL_FACTOR and
    exp(STALL_DEVIATIONS deviations of their logarithms), and at least STALL_SECONDS: the more they vary, the longer it
    waits.
    """
    state = window.state
    times = [time for time in times_between([step.at for step in window.steps]) if time > 0][-RECENT_STEPS:]
    if state.status is not OptimizationStatus.RUNNING or len(times) < LEAST_STEPS:
        return None
    quiet = (window.now - max(state.updated_at, window.steps[-1].at)).total_seconds()
    usual = median(times)
    varied = math.exp(STALL_DEVIATIONS * robust_statistics.deviation([math.log(t) for t in times]))
    limit = max(STALL_SECONDS, usual * max(STALL_FACTOR, varied))
    if quiet <= limit:
        return None
    return Finding(
        "stalled",
        AlertLevel.ERROR,
        f"no step for {quiet:.3g} s, and its steps take {usual:.3g} s",
        "look at its log (`o9 watch ID`) and at what the objective waits for; cancel it, or give a timeout_seconds",
        {"quiet_seconds": quiet, "limit_seconds": limit, "usual_seconds": usual, "step_times": len(times)},
    )


def memory_growing(window: Window) -> Finding | None:
    """The memory of its processes rises from reading to reading, and has not levelled off."""
    found = growth([step.figures[MEMORY] for step in window.steps if MEMORY in step.figures])
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
    found = slowdown(
        [step.seconds / max(1.0, step.figures.get(TRIALS, 1.0)) for step in window.steps if step.seconds is not None]
    )
    if found is None:
        return None
    return Finding(
        "slower_than_before",
        AlertLevel.WARNING,
        f"a trial takes {found.now:.3g} s now, and took {found.before:.3g} s before",
        "see whether the machine is busy with other work, the data grows, or the sampler's model does (gp, tpe)",
        {"seconds_now": found.now, "seconds_before": found.before, "ratio": found.now / found.before, "z": found.z,
         "steps_before": found.count},
    )  # fmt: skip


OF_RUNNING: Sequence[Callable[[Window], Finding | None]] = (stalled, memory_growing, slower_than_before)
_WORST_FIRST = (AlertLevel.CRITICAL, AlertLevel.ERROR, AlertLevel.WARNING, AlertLevel.INFO)

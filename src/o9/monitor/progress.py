"""How far an optimization is, and how long it will take from here. Pure; times are seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean, median, stdev

from o9.lifecycle.trends import without_outliers
from o9.model.states import ACTIVE, ENDED
from o9.monitor.window import Window

LEAST_STEPS = 5
RECENT_STEPS = 50
# Of a normal distribution, nine tenths lie within this many standard deviations.
NINE_TENTHS = 1.645


@dataclass(frozen=True)
class Progress:
    """`share` is 0.0 to 1.0, None where no number of steps is known. `remaining_seconds` lies, nine times out of ten,
    between `low_seconds` and `high_seconds`; all three are None where `reason` says why.
    """

    share: float | None
    completed_steps: int
    total_steps: int
    remaining_seconds: float | None = None
    low_seconds: float | None = None
    high_seconds: float | None = None
    reason: str = ""


def progress_of(window: Window) -> Progress:
    """The share that is done, and an estimate of the rest from the optimization's own times from commit to commit.

    With m and s the mean and the standard deviation of the last RECENT_STEPS of them, outliers drawn in, and r steps to
    go: r·m, less what the step in flight has had, within 1.645·√(r·s² + r²·s²/n): the scatter of the steps to come, and
    what n steps leave unknown of m. A pause or a restart between two commits is an outlier, and does not move it.
    """
    state = window.state
    known = state.total_steps > 0
    share = min(1.0, state.completed_steps / state.total_steps) if known else (state.progress or None)
    plain = Progress(share, state.completed_steps, state.total_steps)
    times = times_between([step.at for step in window.steps])[-RECENT_STEPS:]
    if state.status in ENDED:
        return replace(plain, reason=f"it has ended: {state.status.value}")
    if state.status not in ACTIVE:
        return replace(plain, reason=f"it is not running: {state.status.value}")
    if not known:
        return replace(plain, reason="it has no number of steps")
    if len(times) < LEAST_STEPS:
        return replace(plain, reason=f"{len(times)} step times are known, and {LEAST_STEPS} are needed")
    left = max(0, state.total_steps - state.completed_steps)
    usual = without_outliers(times)
    mean, scatter = fmean(usual), stdev(usual)
    had = min((window.now - window.steps[-1].at).total_seconds(), median(usual)) if left else 0.0
    centre = max(0.0, left * mean - max(0.0, had))
    reach = NINE_TENTHS * scatter * math.sqrt(left + left**2 / len(usual))
    return replace(plain, remaining_seconds=centre, low_seconds=max(0.0, centre - reach), high_seconds=centre + reach)


def times_between(moments: Sequence[datetime]) -> list[float]:
    """Seconds from each to the next; never below 0, though clocks be set back."""
    return [max(0.0, (after - before).total_seconds()) for before, after in itertools.pairwise(moments)]

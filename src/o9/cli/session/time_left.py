"""How long what runs will take from here, by what was seen of it since it was first looked at. Pure.

Contract. Only steps that were seen to end count: what a resumed run did before, and the start of its processes, do not.
A pause among them is drawn in as an outlier. None as long as too little was seen to say.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from o9.lifecycle.trends import without_outliers
from o9.text.format import duration

LEAST_STEPS = 3
LEAST_SECONDS = 1.0
LOOKS_KEPT = 200
_ROUNDED_TO = ((90, 10), (90 * 60, 60), (48 * 3_600, 1_800))  # below the first, to a multiple of the second, in seconds


@dataclass
class StepTimes:
    """The steps of one optimization by the moments, in seconds, in which they were seen to be done."""

    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=LOOKS_KEPT))

    def see(self, now: float, completed: int) -> None:
        if not self.seen or completed != self.seen[-1][1]:
            self.seen.append((now, completed))

    def left(self, now: float, total: int) -> float | None:
        """Seconds until `total` steps are done."""
        counted = list(self.seen)[1:]  # the first is no step's end: it began before
        if len(counted) < 2 or not total:
            return None
        (began, first), (ended, last) = counted[0], counted[-1]
        if last - first < LEAST_STEPS or ended - began < LEAST_SECONDS:
            return None
        times = [(after - before) / (later - earlier) for (before, earlier), (after, later) in pairwise(counted)]
        steps = [later - earlier for (_, earlier), (_, later) in pairwise(counted)]
        usual = without_outliers(times)
        a_step = fmean(usual, weights=steps)
        return max(0.0, (total - last) * a_step - min(now - ended, a_step))


def in_words(seconds: float | None) -> str:
    """`about 40 s left`, `about 3 min left`, `about 2 h 30 min left`; nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few s left"
    step = next((step for below, step in _ROUNDED_TO if seconds < below), 86_400)
    return f"about {duration(step * max(1, round(seconds / step)))} left"

"""The p-value of a placebo: how often the same search is as good on data without an edge. Pure.

Contract. p = (1 + those at least as good) / (K + 1), K all placebo runs that were queued; one without a result counts
as at least as good, so that nothing is gained by ending runs early. Under no edge the value and
those of the placebos are exchangeable, so p is at most u with probability u at most, whatever the search does (Dwass
1957; Masters 2020 for whole optimizations). No p-value can be smaller than 1 / (K + 1).
"""

from __future__ import annotations

from o9.health.grades import Placebo
from o9.lifecycle.effect import Direction, is_better
from o9.store.optimizations.placebos import PlaceboRuns


def placebo_of(value: float | None, runs: PlaceboRuns, direction: Direction) -> Placebo | None:
    """value: what the search reached on the real data. None where that, or all of the runs, have no result (yet)."""
    queued, known = len(runs.values), runs.finished
    if value is None or not known:
        return None
    as_good = sum(not is_better(value, other, direction) for other in known)
    without_result = queued - len(known)
    p_value = (1 + as_good + without_result) / (queued + 1)
    return Placebo(p_value, len(known), as_good, without_result, runs.requests)

"""The p-value of placebo runs: how often the same search is as good on data without an edge. Pure.

Contract. p = (1 + runs at least as good) / (K + 1), with K all placebo runs ever queued. A run without a result counts
as at least as good, so that ending runs early gains nothing. Without an edge the real value and those of the placebo
runs are exchangeable, so P(p ≤ u) ≤ u whatever the search does (Dwass 1957; Masters 2020 for whole optimizations). The
smallest possible p is 1 / (K + 1).
"""

from __future__ import annotations

from o9.health.grades import Placebo
from o9.lifecycle.effect import Direction, is_better
from o9.store.optimizations.placebos import PlaceboRuns


def placebo_of(value: float | None, runs: PlaceboRuns, direction: Direction) -> Placebo | None:
    """Compare `value`, the real search's best, with the runs. None if it is None, or if no run has a result yet."""
    queued, known = len(runs.values), runs.finished
    if value is None or not known:
        return None
    as_good = sum(not is_better(value, other, direction) for other in known)
    without_result = queued - len(known)
    p_value = (1 + as_good + without_result) / (queued + 1)
    return Placebo(p_value, len(known), as_good, without_result, runs.requests)

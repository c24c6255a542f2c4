"""The p-value of a placebo: how often the same search is as good on data without an edge. Pure.

Contract. p = (1 + those at least as good) / (K + 1), K all placebo runs that were queued; one without a result counts
as at least as good, so that nothing is gained by ending runs early. Under no edge the value and
those of the placebos are exchangeable, so p is at most u with probability u at most, whatever the search does (Dwass
1957; Masters 2020 for whole optimizations). No p-value can be smaller than 1 / (K + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from o9.health.grades import Placebo
from o9.lifecycle.effect import Direction
from o9.store.optimizations.placebos import PlaceboRuns


def placebo_of(value: float, placebos: Sequence[float | None], *, maximize: bool) -> Placebo | None:
    """value: what the search reached on the real data; placebos: on data without an edge, None for no result (yet).

    None where none has a result.
    """
    known = [other for other in placebos if other is not None]
    if not known:
        return None
    as_good = sum(other >= value if maximize else other <= value for other in known)
    p_value = (1 + as_good + len(placebos) - len(known)) / (len(placebos) + 1)
    return Placebo(p_value, len(known), as_good)


def placebo_of_runs(value: float | None, runs: PlaceboRuns, direction: Direction) -> Placebo | None:
    """The same of the runs that the store has of one; None where nothing was reached."""
    found = None if value is None else placebo_of(value, list(runs.values.values()), maximize=direction == "maximize")
    return found and replace(found, without_result=len(runs.values) - found.runs, requests=runs.requests)

"""The p-value of a placebo: how often the same search is as good on data without an edge. Pure.

Contract. p = (1 + those at least as good) / (K + 1), K the placebo runs that have finished. Under no edge the value and
those of the placebos are exchangeable, so p is at most u with probability u at most, whatever the search does (Dwass
1957; Masters 2020 for whole optimizations). No p-value can be smaller than 1 / (K + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from o9.health.grades import Placebo


def placebo_of(value: float, placebos: Sequence[float], *, maximize: bool) -> Placebo | None:
    """value: what the search reached on the real data; placebos: on data without an edge. None where there are none."""
    if not placebos:
        return None
    as_good = sum(other >= value if maximize else other <= value for other in placebos)
    return Placebo((1 + as_good) / (len(placebos) + 1), len(placebos))

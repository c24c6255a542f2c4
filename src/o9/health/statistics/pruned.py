"""The Sharpe ratios of trials whose returns are about to be pruned, computed as in `evidence`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from o9.health.statistics.evidence import exposures, subtract
from o9.health.statistics.moments import aligned
from o9.health.statistics.spa import sharpe_ratios
from o9.health.unknown import Unknown


def sharpe_ratios_of(packed: Sequence[bytes], baseline: bytes | None = None) -> list[float]:
    """Return the Sharpe ratios per period of the usable ones of `packed` returns (little-endian float64), in no order.

    They are measured over the packed `baseline` of their optimization if its returns are finite and as many, else over
    zero.
    """
    by_length: dict[int, list[bytes]] = {}
    for each in packed:
        by_length.setdefault(len(each), []).append(each)
    over = np.frombuffer(baseline or b"", dtype="<f8")
    found: list[float] = []
    for group in by_length.values():
        usable = aligned([np.frombuffer(each, dtype="<f8") for each in group])
        if isinstance(usable, Unknown):
            continue
        with np.errstate(all="ignore"):  # returns too large to be squared have no ratio
            if len(over) == len(usable.matrix) and np.isfinite(over).all():
                subtract(usable.matrix, over, exposures(usable.matrix, over))
            ratios = sharpe_ratios(usable.matrix)
        found += ratios[np.isfinite(ratios)].tolist()
    return found

"""What is left behind of trials whose returns are pruned: their Sharpe ratios, as `evidence` has them of those that are
there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from o9.health.statistics.evidence import exposures, subtract
from o9.health.statistics.moments import aligned
from o9.health.statistics.spa import sharpe_ratios
from o9.health.unknown import Unknown


def sharpe_ratios_of(packed: Sequence[bytes], baseline: bytes | None = None) -> list[float]:
    """A period, of packed returns (little-endian float64) that are usable, in no order.

    Over the baseline of their optimization, packed too, where it has as many returns and they are finite; else over
    zero: as they would have been judged.
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
        with np.errstate(all="ignore"):  # what is too large to be squared has no ratio
            if len(over) == len(usable.matrix) and np.isfinite(over).all():
                subtract(usable.matrix, over, exposures(usable.matrix, over))
            ratios = sharpe_ratios(usable.matrix)
        found += ratios[np.isfinite(ratios)].tolist()
    return found

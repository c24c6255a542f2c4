"""Select points so that a page stays small. Pure and deterministic.

Contract. The functions return positions in the given order. The caller says on the page how much was left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

SIGNIFICANT_DIGITS = 6


def significant(value: float) -> float:
    """`value` to six significant digits: what a plot can show, at a third of the bytes."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else value


def all_significant(values: Iterable[float]) -> list[float]:
    return [significant(value) for value in values]


def extremes_kept(values: ArrayLike, limit: int) -> list[int]:
    """At most about `limit` positions: the lowest and the highest of each of `limit / 2` equal stretches, and the ends.

    No peak and no trough is lost, however few points are kept. All positions, if there are no more than `limit`.
    """
    series = np.asarray(values, dtype=np.float64)
    if len(series) <= limit:
        return list(range(len(series)))
    edges = np.linspace(0, len(series), max(1, limit // 2) + 1).astype(np.intp)
    kept = {0, len(series) - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        stretch = series[start:end]
        kept |= {start + int(stretch.argmin()), start + int(stretch.argmax())}
    return sorted(kept)


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` positions, evenly spread, including the first and the last."""
    if count <= limit:
        return list(range(count))
    return sorted({round(position) for position in np.linspace(0, count - 1, limit).tolist()})

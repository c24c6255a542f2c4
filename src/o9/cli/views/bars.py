"""Sparklines for a terminal. Pure functions: figures in, block characters out.

Contract. What is more than nothing is never drawn as nothing; what is unknown is a dot, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"
UNKNOWN = "·"


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One mark a value, from `low` at the bottom to `high` at the top; the middle where these are the same."""
    return "".join(UNKNOWN if value is None else _LEVELS[_level(value, low, high)] for value in values)


def fitted(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` values: means of as many neighbours as that takes, of those that are known."""
    each = group_size(len(values), width)
    groups = [[value for value in values[n : n + each] if value is not None] for n in range(0, len(values), each)]
    return [sum(value / len(group) for value in group) if group else None for group in groups]


def group_size(count: int, width: int) -> int:
    """How many of `count` neighbours share one of `width` marks."""
    return max(1, math.ceil(count / max(1, width)))


def _level(value: float, low: float, high: float) -> int:
    half = high / 2 - low / 2  # which a number can hold, even where the whole is too large
    if not half > 0:
        return 0 if value == 0 else 3
    share = min(1.0, max(0.0, (value / 2 - low / 2) / half))
    level = round(share * (len(_LEVELS) - 1))
    return max(1, level) if value > low else level

"""The value of a baseline, by the score that the objective seems to use. Pure.

An objective returns a value without its formula. If the value is a known score of its returns, the baseline's value is
the same score of the baseline's returns; otherwise it is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from o9.workers.scores import LEAST_RETURNS, SCORES, ScoreError, sharpe

SAME = 1e-6  # relative; an objective may compute in another order


def _sharpe_of_all(returns: Sequence[float], periods_per_year: float | None) -> float:
    """The Sharpe ratio with the standard deviation over n, numpy's default."""
    return sharpe(returns, periods_per_year) * math.sqrt(len(returns) / (len(returns) - 1))


_KNOWN: tuple[Callable[[Sequence[float], float | None], float], ...] = (*SCORES.values(), _sharpe_of_all)


def baseline_value(
    value: float, returns: Sequence[float], baseline: Sequence[float], periods_per_year: float | None
) -> float | None:
    """Return the baseline's score if `value` is a known score of `returns`, or the negative of one; else None.

    >>> baseline_value(1.0, [0.0, 0.01, 0.02], [0.0, 0.02, 0.04], None)
    1.0
    """
    if min(len(returns), len(baseline)) < LEAST_RETURNS:
        return None
    for score in _KNOWN:
        try:
            own, theirs = score(returns, periods_per_year), score(baseline, periods_per_year)
        except ScoreError:
            continue
        for sign in (1.0, -1.0):
            if own and math.isclose(value, sign * own, rel_tol=SAME):
                return sign * theirs
    return None

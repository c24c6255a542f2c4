"""The scores of `metadata.score`, for objectives that return returns without a value. Runs in child processes, too.

Contract. A score takes simple returns per period and the number of periods per year (None: unknown), and returns one
finite number, higher is better; ScoreError if it is undefined. The built-in scores are plain Python, so that they are
equal bit for bit everywhere. Without `periods_per_year` they are per period.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

DEFAULT = "sharpe"
LEAST_RETURNS = 2
ROUNDING = 1e-12  # a deviation this small relative to the numbers is the rounding error of a constant

Score = Callable[[Any, float | None], float]


class ScoreError(Exception):
    """The score of these returns is undefined. The message says why."""


def sharpe(returns: Sequence[float], periods_per_year: float | None) -> float:
    """Return mean over standard deviation (n - 1), times the root of periods per year; 0.0 for constant returns."""
    mean = math.fsum(returns) / len(returns)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in returns) / (len(returns) - 1))
    if deviation <= ROUNDING * max(map(abs, returns)):
        return 0.0
    return mean / deviation * math.sqrt(periods_per_year or 1.0)


def sortino(returns: Sequence[float], periods_per_year: float | None) -> float:
    """Return mean over root mean square of the losses (Sortino and Price 1994, target 0), annualized as `sharpe`."""
    mean = math.fsum(returns) / len(returns)
    downside = math.sqrt(math.fsum(min(value, 0.0) ** 2 for value in returns) / len(returns))
    if downside == 0.0:
        return _without_loss(mean, "sortino")
    return mean / downside * math.sqrt(periods_per_year or 1.0)


def calmar(returns: Sequence[float], periods_per_year: float | None) -> float:
    """Return annual compound growth over the maximum drawdown (Young 1991). A total loss is a growth of -1."""
    wealth, peak, drawdown = 1.0, 1.0, 0.0
    for value in returns:
        wealth = max(0.0, wealth * (1.0 + value))
        peak = max(peak, wealth)
        drawdown = max(drawdown, 1.0 - wealth / peak)
    growth = math.expm1(math.log(wealth) * (periods_per_year or 1.0) / len(returns)) if wealth > 0.0 else -1.0
    return growth / drawdown if drawdown > 0.0 else _without_loss(growth, "calmar")


SCORES: dict[str, Callable[[Sequence[float], float | None], float]] = {
    "sharpe": sharpe,
    "sortino": sortino,
    "calmar": calmar,
}


def score_of(
    returns: Sequence[float], periods_per_year: float | None, name: str = DEFAULT, function: Score | None = None
) -> float:
    """Return the score `name` of `returns`, by the registered `function` if it is not built in. Raises ScoreError.

    A registered function gets the returns as a numpy array of float64.
    """
    if len(returns) < LEAST_RETURNS:
        raise ScoreError(f"the score {name!r} needs at least {LEAST_RETURNS} returns, got {len(returns)}")
    if function is None:
        try:
            found = SCORES[name](returns, periods_per_year)
        except OverflowError as error:
            raise ScoreError(f"the returns are too large for the score {name!r}: {error}") from error
    else:
        import numpy as np

        found = float(function(np.array(returns, dtype=np.float64), periods_per_year))
    if not math.isfinite(found):
        raise ScoreError(f"the score {name!r} of these returns is {found}, not a finite number")
    return found


def _without_loss(gain: float, name: str) -> float:
    if gain == 0.0:
        return 0.0
    raise ScoreError(f"no period has a loss, so {name} is undefined; use another metadata.score")

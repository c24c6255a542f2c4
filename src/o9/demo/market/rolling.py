"""Rolling windows over days, each value from its own day and those before it.

Sums run from the front in order, so that adding later days changes no earlier value, not by the last bit.
"""

from __future__ import annotations

import numpy as np

from o9.demo.market.prices import Floats

TRADING_DAYS = 252
# Some quotes of the early 1990s stand still for weeks: without a floor a position in such a stock has no bound.
VOLATILITY_FLOOR = 0.05


def rolling_mean(values: Floats, days: int) -> Floats:
    """Mean of the last `days` rows, this one included; of as many as there are at the beginning."""
    total = np.cumsum(values, axis=0)
    mean: Floats = total.copy()
    mean[days:] -= total[:-days]
    counts = np.minimum(np.arange(1, len(values) + 1), days).reshape((-1,) + (1,) * (values.ndim - 1))
    mean /= counts
    return mean


def rolling_volatility(returns: Floats, days: int) -> Floats:
    """Annualised root mean square of the last `days` daily returns, at least VOLATILITY_FLOOR."""
    # The difference of two long sums can come out a hair below zero.
    variance = np.maximum(rolling_mean(returns * returns, days), 0.0)
    volatility: Floats = np.maximum(np.sqrt(variance * TRADING_DAYS), VOLATILITY_FLOOR)
    return volatility

"""From weights to daily net returns, with no look-ahead and every trade paid for.

Contract. Weights decided at the close of day t (from closes up to t alone) are traded at that close and earn the
return from close t to close t + 1, which is booked on day t + 1. Between two rebalances nothing is traded and the
weights drift with the prices. All arrays are indexed by day; pure; whole-array numpy.

For each day t: net[t] = (1 - cost[t-1]) · (1 + gross[t]) · (1 - financing[t-1]) - 1, where
gross[t] = Σ held[t-1]·return[t], cost = rate · turnover, turnover[t] = Σ |held[t] - drifted[t]|, and
drifted[t] = held[t-1]·(1 + return[t]) / (1 + gross[t]). Costs and financing shrink every position in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from o9.demo.market.prices import Floats
from o9.model.errors import OptimizationStrategyError

Mask = NDArray[np.bool_]

COST_BASIS_POINTS = 10.0  # of the amount traded: half spread, commission and impact in large US stocks; a high estimate
BORROWING_RATE = 0.05  # a year, on what is invested beyond the capital; flat, since the data has no cash rate
SHORT_FEE = 0.005  # a year, on what is sold short; easy-to-borrow large stocks
TRADING_DAYS = 252.0  # per year
# Some quotes of the early 1990s do not change for weeks: without a floor, a position in such a stock is unbounded.
VOLATILITY_FLOOR = 0.05


@dataclass(frozen=True, eq=False)
class Backtest:
    """What a strategy held and earned; every array has one entry a day.

    net, gross: the return booked on that day, after and before costs and financing; 0 on the first.
    turnover: what was traded at that day's close, purchases and sales together, as a fraction of the capital.
    held: shape (days, stocks), fractions of the capital after trading at that close; the rest is cash.
    metrics: other figures worth keeping.
    """

    net: Floats
    gross: Floats
    turnover: Floats
    held: Floats
    metrics: Mapping[str, float] = field(default_factory=dict)


def backtest(
    closes: Floats, targets: Floats, rebalance: Mask, *, cost_basis_points: float = COST_BASIS_POINTS
) -> Backtest:
    """Trade to `targets` at each close where `rebalance` is true, and hold in between; all cash before the first.

    closes, targets: shape (days, stocks); targets are fractions of the capital and are read on rebalance days only.
    cost_basis_points: of the amount traded, each way. Raises OptimizationStrategyError if a day loses the whole
    capital.
    """
    held = _drifting(closes, targets, rebalance)
    growth = closes[1:] / closes[:-1]
    gross = np.zeros(len(closes))
    gross[1:] = (held[:-1] * (growth - 1.0)).sum(axis=1)
    if gross.min() <= -1.0:
        raise OptimizationStrategyError("the strategy lost its whole capital in a day: lower its leverage")
    turnover = np.zeros(len(closes))
    turnover[0] = np.abs(held[0]).sum()
    drifted = held[:-1] * growth / (1.0 + gross[1:, None])
    turnover[1:] = np.where(rebalance[1:], np.abs(held[1:] - drifted).sum(axis=1), 0.0)
    kept = (1.0 - cost_basis_points * 1e-4 * turnover) * (1.0 - _financing(held))
    net = np.zeros(len(closes))
    net[1:] = kept[:-1] * (1.0 + gross[1:]) - 1.0
    return Backtest(net, gross, turnover, held)


def every(days: int, period: int, first: int) -> Mask:
    """True on day `first` and on each `period`-th day after it. More data changes no earlier day."""
    mask = np.zeros(days, dtype=np.bool_)
    mask[first::period] = True
    return mask


def _drifting(closes: Floats, targets: Floats, rebalance: Mask) -> Floats:
    """Weights after each close: the last targets, grown with the prices since and scaled by the capital's growth."""
    last = np.maximum.accumulate(np.where(rebalance, np.arange(len(closes)), -1))
    bought = targets[last] * (closes / closes[last])
    capital = 1.0 + (bought - targets[last]).sum(axis=1)
    before_first = last < 0
    capital[before_first] = 1.0
    if capital.min() <= 0.0:
        raise OptimizationStrategyError(
            "the strategy lost its whole capital between two rebalances: lower its leverage or rebalance more often"
        )
    held: Floats = bought / capital[:, None]
    held[before_first] = 0.0
    return held


def _financing(held: Floats) -> Floats:
    """Interest and stock-borrow fees for one day, as a fraction of the capital."""
    borrowed = np.maximum(held.sum(axis=1) - 1.0, 0.0)
    short = np.maximum(-held, 0.0).sum(axis=1)
    financing: Floats = (BORROWING_RATE * borrowed + SHORT_FEE * short) / TRADING_DAYS
    return financing


# Rolling windows. Sums run forward, so that later days change no earlier value, not even in its last bit.


def rolling_mean(values: Floats, days: int) -> Floats:
    """Mean of the last `days` rows, this one included; at the beginning, of as many as there are."""
    total = np.cumsum(values, axis=0)
    mean: Floats = total.copy()
    mean[days:] -= total[:-days]
    counts = np.minimum(np.arange(1, len(values) + 1), days).reshape((-1,) + (1,) * (values.ndim - 1))
    mean /= counts
    return mean


def rolling_volatility(returns: Floats, days: int) -> Floats:
    """Annualised root mean square of the last `days` daily returns, at least VOLATILITY_FLOOR."""
    # Rounding can make the difference of two long sums slightly negative.
    variance = np.maximum(rolling_mean(returns * returns, days), 0.0)
    volatility: Floats = np.maximum(np.sqrt(variance * TRADING_DAYS), VOLATILITY_FLOOR)
    return volatility


# Figures of a series of daily returns. An undefined one is NaN.


def sharpe_ratio(returns: Floats) -> float:
    """Annualised: √252 · mean / standard deviation (n - 1) of daily returns over zero; NaN if they never vary."""
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    return math.sqrt(TRADING_DAYS) * float(returns.mean()) / deviation if deviation > 0 else math.nan


def annual_return(returns: Floats) -> float:
    """The constant compound annual return that ends at the same wealth."""
    return float(np.exp(np.log1p(returns).mean() * TRADING_DAYS) - 1.0) if len(returns) else math.nan


def annual_volatility(returns: Floats) -> float:
    """√252 · standard deviation (n - 1) of daily returns."""
    return math.sqrt(TRADING_DAYS) * float(returns.std(ddof=1)) if len(returns) > 1 else math.nan


def maximum_drawdown(returns: Floats) -> float:
    """The largest loss from a high of wealth, the start included; 0.25 is a loss of a quarter."""
    wealth = np.concatenate(([1.0], np.cumprod(1.0 + returns)))
    return float((1.0 - wealth / np.maximum.accumulate(wealth)).max())


def calmar_ratio(returns: Floats) -> float:
    """Annual return over the largest drawdown; NaN if there was none. Source: Young 1991."""
    drawdown = maximum_drawdown(returns)
    return annual_return(returns) / drawdown if drawdown > 0 else math.nan


def figures(returns: Floats, prefix: str = "") -> dict[str, float]:
    """All figures by name, each name with `prefix` before it."""
    named = (sharpe_ratio, annual_return, annual_volatility, maximum_drawdown, calmar_ratio)
    return {
        f"{prefix}{figure.__name__.removesuffix('_ratio').replace('maximum', 'max')}": figure(returns)
        for figure in named
    }

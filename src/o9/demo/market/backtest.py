"""From weights to daily net returns, with no look-ahead and every trade paid for.

Contract. Weights decided at the close of day t (from closes up to t alone) are traded at that close and earn the
return from close t to close t + 1, which is booked on day t + 1. Between two rebalances nothing is traded and the
weights drift with the prices. All arrays are indexed by day; pure; whole-array numpy.

For each day t: net[t] = (1 - cost[t-1]) · (1 + gross[t]) · (1 - financing[t-1]) - 1, where
gross[t] = Σ held[t-1]·return[t], cost = rate · turnover, turnover[t] = Σ |held[t] - drifted[t]|, and
drifted[t] = held[t-1]·(1 + return[t]) / (1 + gross[t]). Costs and financing shrink every position in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from o9.demo.market.prices import Floats
from o9.model.errors import OptimizationStrategyError

Mask = NDArray[np.bool_]

COST_BASIS_POINTS = (
    10.0  # of what is traded: half the spread, commission and impact in large US stocks, on the high side
)
BORROWING_RATE = 0.05  # a year, on what is invested beyond the capital; flat, since the data has no cash rate
SHORT_FEE = 0.005  # a year, on what is sold short; easy-to-borrow large stocks
TRADING_DAYS = 252


@dataclass(frozen=True, eq=False)
class Backtest:
    """What a strategy held and earned; every array has one entry a day.

    net, gross: the return booked on that day, after and before costs and financing; 0 on the first.
    turnover: what was traded at that day's close, purchases and sales together, as a fraction of the capital.
    held: shape (days, stocks), fractions of the capital after trading at that close; the rest is cash.
    """

    net: Floats
    gross: Floats
    turnover: Floats
    held: Floats


def backtest(
    closes: Floats, targets: Floats, rebalance: Mask, *, cost_basis_points: float = COST_BASIS_POINTS
) -> Backtest:
    """Trade to `targets` at each close where `rebalance`, and hold in between; all cash before the first.

    closes, targets: shape (days, stocks); targets are fractions of the capital and are read on rebalance days only.
    cost_basis_points: of the amount traded, each way.
    Raises OptimizationStrategyError where a day would lose the whole capital.
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
    """True on day `first` and on each `period`-th day after it. Counted from the front, so more data moves nothing."""
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

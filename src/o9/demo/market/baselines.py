"""What doing nothing clever would have earned on the same stocks and days, at the same costs.

equal weight: as much of each stock, restored at the end of every 21 days.
buy and hold: as much of each stock on the first day of the period, never traded again.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from o9.demo.market.backtest import COST_BASIS_POINTS, Backtest, backtest, every
from o9.demo.market.figures import figures
from o9.demo.market.prices import Floats, Prices
from o9.demo.market.walk_forward import split_days

REBALANCE_DAYS = 21
BASELINES = ("equal_weight", "buy_and_hold")


@lru_cache(maxsize=8)
def baseline_figures(prices: Prices, cost_basis_points: float = COST_BASIS_POINTS) -> dict[str, dict[str, float]]:
    """Sharpe ratio, annual return and volatility, maximum drawdown and Calmar ratio of each baseline.

    Keys: `equal_weight`, `buy_and_hold`, and the same with `out_of_sample_` before them. Computed once a process for
    each prices and costs; not to be changed by the caller.
    """
    found: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        inside, outside = baseline_returns(prices, name, cost_basis_points)
        found[name] = figures(inside)
        found[f"out_of_sample_{name}"] = figures(outside)
    return found


@lru_cache(maxsize=16)
def baseline_returns(prices: Prices, name: str, cost_basis_points: float = COST_BASIS_POINTS) -> tuple[Floats, Floats]:
    """Daily net returns of the baseline `name`, in sample and out of sample; not to be changed."""
    split = split_days(len(prices.closes))
    if name == "equal_weight":
        net = _run(prices, split.first_decision, REBALANCE_DAYS, cost_basis_points).net
        return net[split.in_sample], net[split.out_of_sample]
    if name == "buy_and_hold":
        never = len(prices.closes)
        inside = _run(prices, split.first_decision, never, cost_basis_points).net
        outside = _run(prices, split.holdout - 1, never, cost_basis_points).net
        return inside[split.in_sample], outside[split.out_of_sample]
    raise ValueError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")


def _run(prices: Prices, first: int, period: int, cost_basis_points: float) -> Backtest:
    equal = np.full(prices.closes.shape, 1.0 / prices.closes.shape[1])
    return backtest(prices.closes, equal, every(len(equal), period, first), cost_basis_points=cost_basis_points)

"""Risk limits on one fixed trend portfolio: how much volatility, leverage, concentration and loss to bear.

`sp500_risk_limits` searches the limits. The portfolio beneath is `trend.py` with its default parameters, long only.
Sources: Moreira and Muir 2017 (managing the volatility of a portfolio); Kaminski and Lo 2014 (stops on a drawdown).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from o9.demo.market.backtest import Backtest, Mask, backtest, every
from o9.demo.market.judge import judge, known, read
from o9.demo.market.prices import Floats, Prices
from o9.demo.market.rolling import rolling_volatility
from o9.demo.market.trend import DEFAULTS as TREND
from o9.demo.market.trend import trend_weights
from o9.demo.market.walk_forward import WARM_UP_DAYS
from o9.model.trial import Evaluation

DEFAULTS: dict[str, Any] = {
    "volatility_target": 0.12,
    "maximum_leverage": 1.0,
    "position_cap": 0.10,
    "drawdown_stop": 0.20,
    "cooldown_days": 21,
}
REBALANCE_DAYS = 5
VOLATILITY_DAYS = 60


def risk_limits(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """In-sample Calmar ratio: net compound return a year over the largest drawdown.

    volatility_target: a year, of the whole portfolio. maximum_leverage: sum of the positions over the capital; beyond
    1.0 interest is charged. position_cap: of one stock, as a fraction of the capital. drawdown_stop: the loss from the
    last high at which everything is sold; cooldown_days: how long it then stays in cash before it begins anew.
    """
    chosen = read("sp500_risk_limits", parameters, DEFAULTS)
    prices = known(periods)
    run, cost = risk_backtest(prices, chosen), chosen["cost_basis_points"]
    return judge(prices, run, cost_basis_points=cost, value="calmar", periods=periods)


def risk_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """The limited portfolio, traded every five days and on the days when the stop sells or buys back."""
    cost = chosen["cost_basis_points"]
    weekly = every(len(prices.closes), REBALANCE_DAYS, WARM_UP_DAYS - 1)
    unstopped = backtest(prices.closes, limited_weights(prices, chosen), weekly, cost_basis_points=cost)
    invested = _invested(unstopped, chosen["drawdown_stop"], chosen["cooldown_days"], cost)
    flips = np.zeros_like(invested)
    flips[1:] = invested[1:] != invested[:-1]
    targets = unstopped.held * invested[:, None]
    return backtest(prices.closes, targets, weekly | flips, cost_basis_points=cost)


def limited_weights(prices: Prices, chosen: Mapping[str, Any]) -> Floats:
    """The trend portfolio's weights at each close, scaled to the volatility target and cut to the limits."""
    weights, volatility = _unlimited(prices)
    weights = np.minimum(weights * (chosen["volatility_target"] / volatility)[:, None], chosen["position_cap"])
    limited: Floats = weights / np.maximum(weights.sum(axis=1, keepdims=True) / chosen["maximum_leverage"], 1.0)
    return limited


@lru_cache(maxsize=4)
def _unlimited(prices: Prices) -> tuple[Floats, Floats]:
    """The trend portfolio, the same for every trial: its weights, and the volatility a year of what they earned."""
    weights = trend_weights(prices, TREND)
    earned = np.zeros(len(weights))
    earned[1:] = (weights[:-1] * prices.returns[1:]).sum(axis=1)
    volatility = rolling_volatility(earned, VOLATILITY_DAYS)
    weights.setflags(write=False)
    return weights, volatility


def _invested(run: Backtest, stop: float, cooldown_days: int, cost_basis_points: float) -> Mask:
    """For each close, whether the portfolio is held after it: the stop watches its own wealth, day by day."""
    invested = np.zeros(len(run.net), dtype=np.bool_)
    switch = (1.0 - cost_basis_points * 1e-4 * np.abs(run.held).sum(axis=1)).tolist()
    net = run.net.tolist()
    wealth = high = 1.0
    holding, waited = True, 0
    for day in range(WARM_UP_DAYS - 1, len(net)):
        if holding:
            wealth *= 1.0 + net[day]
            high = max(high, wealth)
            if wealth < high * (1.0 - stop):
                holding, waited = False, 0
                wealth *= switch[day]
        else:
            waited += 1
            if waited == cooldown_days:
                holding = True
                wealth *= switch[day]
                high = wealth
        invested[day] = holding
    return invested

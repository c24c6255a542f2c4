"""Trend following: hold a stock while its short moving average is above its long one, each sized by its volatility.

`sp500_trend` searches the parameters. Sources: Brock, Lakonishok and LeBaron 1992 (moving averages with a band);
Moskowitz, Ooi and Pedersen 2012 (positions in inverse proportion to volatility).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from o9.demo.market.backtest import Backtest, backtest, every
from o9.demo.market.judge import judge, known, read
from o9.demo.market.prices import Floats, Prices
from o9.demo.market.rolling import rolling_mean, rolling_volatility
from o9.demo.market.walk_forward import WARM_UP_DAYS
from o9.model.trial import Evaluation

DEFAULTS: dict[str, Any] = {
    "fast": 20,
    "slow": 200,
    "band": 0.0,
    "side": "long",
    "volatility_days": 60,
    "volatility_target": 0.30,
    "rebalance_days": 5,
}


def trend(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """Annualised net Sharpe ratio in sample of the crossover strategy; see `trend_backtest` for the parameters."""
    chosen = read("sp500_trend", parameters, DEFAULTS)
    prices = known(periods)
    run = trend_backtest(prices, chosen)
    return judge(prices, run, cost_basis_points=chosen["cost_basis_points"], periods=periods)


def trend_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """Trade to `trend_weights` every `rebalance_days` from the end of the warm-up on."""
    rebalance = every(len(prices.closes), chosen["rebalance_days"], WARM_UP_DAYS - 1)
    return backtest(
        prices.closes, trend_weights(prices, chosen), rebalance, cost_basis_points=chosen["cost_basis_points"]
    )


def trend_weights(prices: Prices, chosen: Mapping[str, Any]) -> Floats:
    """Weights at each close, shape (days, stocks); never more than the capital in all.

    fast, slow: days of the two moving averages. band: how far apart they must be (0.01: one per cent) to take a side.
    side: `long` stays in cash in a down-trend, `both` sells short. volatility_target: of one stock's position, a year,
    were it alone; volatility_days: over how many days its volatility is measured.
    """
    distance = rolling_mean(prices.closes, chosen["fast"]) / rolling_mean(prices.closes, chosen["slow"]) - 1.0
    weights: Floats = (distance > chosen["band"]).astype(np.float64)
    if chosen["side"] == "both":
        weights -= distance < -chosen["band"]
    weights *= chosen["volatility_target"] / prices.closes.shape[1]
    weights /= rolling_volatility(prices.returns, chosen["volatility_days"])
    weights /= np.maximum(np.abs(weights).sum(axis=1, keepdims=True), 1.0)
    return weights

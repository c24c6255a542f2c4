"""Cross-sectional ranking: hold the stocks that did best (or worst) of all over some past days.

`sp500_cross_section` searches the parameters. Sources: Jegadeesh and Titman 1993 (momentum, with a gap before the
present); Jegadeesh 1990 and Lehmann 1990 (short-term reversal).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o9.demo.market.backtest import Backtest, backtest, every
from o9.demo.market.judge import judge, known, read
from o9.demo.market.prices import Floats, Prices
from o9.demo.market.rolling import rolling_volatility
from o9.demo.market.walk_forward import WARM_UP_DAYS
from o9.model.trial import Evaluation

DEFAULTS: dict[str, Any] = {
    "signal": "momentum",
    "lookback": 231,
    "skip": 21,
    "holdings": 5,
    "side": "long",
    "weighting": "equal",
    "rebalance_days": 21,
}
VOLATILITY_DAYS = 63


def cross_section(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """Annualised net Sharpe ratio in sample of the ranking strategy; see `cross_section_weights` for the parameters."""
    chosen = read("sp500_cross_section", parameters, DEFAULTS)
    prices = known(periods)
    run = cross_section_backtest(prices, chosen)
    return judge(prices, run, cost_basis_points=chosen["cost_basis_points"], periods=periods)


def cross_section_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """Rank and trade every `rebalance_days` from the end of the warm-up on."""
    rebalance = every(len(prices.closes), chosen["rebalance_days"], WARM_UP_DAYS - 1)
    targets = np.zeros_like(prices.closes)
    days = np.flatnonzero(rebalance)
    targets[days] = cross_section_weights(prices, chosen, days)
    return backtest(prices.closes, targets, rebalance, cost_basis_points=chosen["cost_basis_points"])


def cross_section_weights(prices: Prices, chosen: Mapping[str, Any], days: NDArray[np.intp]) -> Floats:
    """Weights at the closes of `days`, shape (len(days), stocks).

    signal: `momentum` holds the best of the last `lookback` days, `reversal` the worst, leaving out the newest `skip`.
    holdings: how many. side: `long` invests the capital in them, `long_short` half of it, and sells as much of the
    other end of the ranking. weighting: `equal`, or `inverse_volatility` of the last 63 days.
    """
    recent = days - chosen["skip"]
    score = prices.closes[recent] / prices.closes[recent - chosen["lookback"]]
    if chosen["signal"] == "reversal":
        score = -score
    order = np.argsort(-score, axis=1, kind="stable")
    size = np.ones_like(score)
    if chosen["weighting"] == "inverse_volatility":
        size = 1.0 / rolling_volatility(prices.returns, VOLATILITY_DAYS)[days]
    long = _leg(size, order[:, : chosen["holdings"]])
    return long if chosen["side"] == "long" else 0.5 * (long - _leg(size, order[:, -chosen["holdings"] :]))


def _leg(size: Floats, members: NDArray[np.intp]) -> Floats:
    """Weights in proportion to `size` among `members` (columns, row by row), summing to one."""
    weights = np.zeros_like(size)
    np.put_along_axis(weights, members, np.take_along_axis(size, members, axis=1), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights

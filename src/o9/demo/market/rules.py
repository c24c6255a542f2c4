"""Three rule-based strategies, each searched by the objective of the same name in the catalogue (`sp500_…`).

- `trend`: hold a stock while its short moving average is above its long one, sized by its volatility. Sources: Brock,
  Lakonishok and LeBaron 1992 (a band); Moskowitz, Ooi and Pedersen 2012 (sizes in inverse proportion to volatility).
- `cross_section`: hold the stocks that did best, or worst, of all over some past days. Sources: Jegadeesh and Titman
  1993 (momentum, with a gap before the present); Jegadeesh 1990 and Lehmann 1990 (short-term reversal).
- `risk_limits`: how much volatility, leverage, concentration and loss to bear, on the trend portfolio with its default
  parameters. Sources: Moreira and Muir 2017 (a volatility target); Kaminski and Lo 2014 (stops on a drawdown).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o9.demo.market.backtest import Backtest, Mask, backtest, every, rolling_mean, rolling_volatility
from o9.demo.market.judge import evaluate
from o9.demo.market.prices import WARM_UP_DAYS, Floats, Prices
from o9.model.trial import Evaluation

TREND: dict[str, Any] = {
    "fast": 20,
    "slow": 200,
    "band": 0.0,
    "side": "long",
    "volatility_days": 60,
    "volatility_target": 0.30,
    "rebalance_days": 5,
}
CROSS_SECTION: dict[str, Any] = {
    "signal": "momentum",
    "lookback": 231,
    "skip": 21,
    "holdings": 5,
    "side": "long",
    "weighting": "equal",
    "rebalance_days": 21,
}
RISK_LIMITS: dict[str, Any] = {
    "volatility_target": 0.12,
    "maximum_leverage": 1.0,
    "position_cap": 0.10,
    "drawdown_stop": 0.20,
    "cooldown_days": 21,
}
RANKING_VOLATILITY_DAYS = 63
RISK_REBALANCE_DAYS = 5
RISK_VOLATILITY_DAYS = 60


def trend(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """Annualised net Sharpe ratio in sample of the crossover strategy; see `trend_weights` for the parameters."""
    return evaluate("sp500_trend", TREND | dict(parameters), trend_backtest, periods)


def trend_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """Trade to `trend_weights` every `rebalance_days` from the end of the warm-up on."""
    rebalance = every(len(prices.closes), chosen["rebalance_days"], WARM_UP_DAYS - 1)
    return backtest(
        prices.closes, trend_weights(prices, chosen), rebalance, cost_basis_points=chosen["cost_basis_points"]
    )


def trend_weights(prices: Prices, chosen: Mapping[str, Any]) -> Floats:
    """Weights at each close, shape (days, stocks); in total never more than the capital.

    fast, slow: days of the two moving averages. band: how far apart they must be (0.01: one per cent) to take a side.
    side: `long` stays in cash in a down-trend, `both` sells short. volatility_target: of one stock's position alone,
    a year; volatility_days: over how many days its volatility is measured.
    """
    distance = rolling_mean(prices.closes, chosen["fast"]) / rolling_mean(prices.closes, chosen["slow"]) - 1.0
    weights: Floats = (distance > chosen["band"]).astype(np.float64)
    if chosen["side"] == "both":
        weights -= distance < -chosen["band"]
    weights *= chosen["volatility_target"] / prices.closes.shape[1]
    weights /= rolling_volatility(prices.returns, chosen["volatility_days"])
    weights /= np.maximum(np.abs(weights).sum(axis=1, keepdims=True), 1.0)
    return weights


def cross_section(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """Annualised net Sharpe ratio in sample of the ranking strategy; see `cross_section_weights` for the parameters."""
    return evaluate("sp500_cross_section", CROSS_SECTION | dict(parameters), cross_section_backtest, periods)


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
    holdings: how many. side: `long` invests the capital in them, `long_short` half of it, and sells as much of those
    at the other end of the ranking. weighting: `equal`, or `inverse_volatility` of the last 63 days.
    """
    recent = days - chosen["skip"]
    score = prices.closes[recent] / prices.closes[recent - chosen["lookback"]]
    if chosen["signal"] == "reversal":
        score = -score
    order = np.argsort(-score, axis=1, kind="stable")
    size = np.ones_like(score)
    if chosen["weighting"] == "inverse_volatility":
        size = 1.0 / rolling_volatility(prices.returns, RANKING_VOLATILITY_DAYS)[days]
    long = _leg(size, order[:, : chosen["holdings"]])
    return long if chosen["side"] == "long" else 0.5 * (long - _leg(size, order[:, -chosen["holdings"] :]))


def _leg(size: Floats, members: NDArray[np.intp]) -> Floats:
    """Weights in proportion to `size` among `members` (columns, row by row), summing to one."""
    weights = np.zeros_like(size)
    np.put_along_axis(weights, members, np.take_along_axis(size, members, axis=1), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def risk_limits(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """In-sample Calmar ratio: net compound return a year over the largest drawdown.

    volatility_target: a year, of the whole portfolio. maximum_leverage: sum of the positions over the capital; beyond
    1.0 interest is charged. position_cap: of one stock, as a fraction of the capital. drawdown_stop: the loss from the
    last high at which everything is sold; cooldown_days: how long it then stays in cash before it starts again.
    """
    return evaluate("sp500_risk_limits", RISK_LIMITS | dict(parameters), risk_backtest, periods, value="calmar")


def risk_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """The limited portfolio, traded every five days and when the stop sells or buys back."""
    cost = chosen["cost_basis_points"]
    weekly = every(len(prices.closes), RISK_REBALANCE_DAYS, WARM_UP_DAYS - 1)
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
    volatility = rolling_volatility(earned, RISK_VOLATILITY_DAYS)
    weights.setflags(write=False)
    return weights, volatility


def _invested(run: Backtest, stop: float, cooldown_days: int, cost_basis_points: float) -> Mask:
    """For each close, whether the portfolio is held after it. The stop follows its own wealth, day by day."""
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

"""Portfolios by skfolio's estimators, fitted on a rolling window and refitted regularly.

`sp500_portfolio` searches the estimator, its risk measure and its regularisation. Each fit sees only the `lookback`
daily returns before it; its weights are traded at that close and restored every `rebalance_days`. Sources: Markowitz
1952 (`minimum_risk`, `maximum_ratio`), Rockafellar and Uryasev 2000 (`cvar`, at 95%), Maillard, Roncalli and Teïletche
2010 (`risk_budgeting`, equal budgets), López de Prado 2016 (`hierarchical_risk_parity`), Choueifaty and Coignard 2008
(`maximum_diversification`).

A trial makes 29 or 15 fits of 15 to 60 ms. The first one in a process also imports skfolio, which takes some seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from o9.demo.market.backtest import Backtest, backtest, every
from o9.demo.market.judge import evaluate
from o9.demo.market.prices import WARM_UP_DAYS, Floats, Prices
from o9.model.errors import OptimizationStrategyError
from o9.model.trial import Evaluation

DEFAULTS: dict[str, Any] = {
    "estimator": "minimum_risk",
    "risk_measure": "variance",
    "covariance": "ledoit_wolf",
    "shrink_means": True,
    "l2_coef": 1e-4,
    "max_weight": 0.20,
    "lookback": 756,
    "refit_days": 252,
    "rebalance_days": 21,
}


def portfolio(parameters: Mapping[str, Any], *, periods: int | None = None) -> Evaluation:
    """Annualised net Sharpe ratio in sample of a refitted portfolio.

    estimator, risk_measure, covariance: see `fitted_weights`. shrink_means: James and Stein's shrinkage of the mean
    returns. l2_coef: penalty on the sum of squared weights, in units of the daily risk measure. max_weight: of one
    stock. lookback, refit_days, rebalance_days: in trading days. The metric `failed_refits` counts the fits whose
    solver reported an inaccurate solution; the previous weights were kept.
    """
    return evaluate("sp500_portfolio", DEFAULTS | dict(parameters), portfolio_backtest, periods)


def portfolio_backtest(prices: Prices, chosen: Mapping[str, Any]) -> Backtest:
    """Refit and trade. Raises OptimizationStrategyError if the first fit fails."""
    days = len(prices.closes)
    refit = every(days, chosen["refit_days"], WARM_UP_DAYS - 1)
    rebalance = every(days, chosen["rebalance_days"], WARM_UP_DAYS - 1) | refit
    fit, returns = fitted_weights(chosen), prices.returns
    targets = np.zeros_like(prices.closes)
    failed = 0
    for day in np.flatnonzero(refit).tolist():
        weights = fit(returns[day + 1 - chosen["lookback"] : day + 1])
        if weights is not None:
            targets[day:] = weights
        elif day == WARM_UP_DAYS - 1:
            raise OptimizationStrategyError(
                "the solver found no accurate portfolio at the first fit: loosen max_weight"
            )
        else:
            failed += 1
    run = backtest(prices.closes, targets, rebalance, cost_basis_points=chosen["cost_basis_points"])
    return replace(run, metrics={"failed_refits": float(failed)})


def fitted_weights(chosen: Mapping[str, Any]) -> Callable[[Floats], Floats | None]:
    """A function from a window of daily returns, shape (lookback, stocks), to weights that sum to one.

    It returns None if the solver reports an inaccurate solution. `l2_coef` affects the convex estimators other than
    risk budgeting, `covariance` every one whose risk measure is the variance.
    """
    estimator = _estimator(chosen)

    def fit(window: Floats) -> Floats | None:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Solution may be inaccurate", category=UserWarning)
            try:
                estimator.fit(np.ascontiguousarray(window))
            except UserWarning:
                return None
        return np.asarray(estimator.weights_, dtype=np.float64)

    return fit


def _estimator(chosen: Mapping[str, Any]) -> Any:
    from skfolio import RiskMeasure, moments, optimization
    from skfolio.prior import EmpiricalPrior

    covariances = {
        "empirical": moments.EmpiricalCovariance,
        "ledoit_wolf": moments.LedoitWolf,
        "exponential": moments.EWCovariance,
        "gerber": moments.GerberCovariance,
    }
    covariance = covariances[chosen["covariance"]]()
    means = moments.ShrunkMu() if chosen["shrink_means"] else moments.EmpiricalMu()
    common = {
        "prior_estimator": EmpiricalPrior(mu_estimator=means, covariance_estimator=covariance),
        "max_weights": chosen["max_weight"],
    }
    risk = RiskMeasure.VARIANCE if chosen["risk_measure"] == "variance" else RiskMeasure.CVAR
    match chosen["estimator"]:
        case "minimum_risk":
            return optimization.MeanRisk(risk_measure=risk, l2_coef=chosen["l2_coef"], **common)
        case "maximum_ratio":
            goal = optimization.ObjectiveFunction.MAXIMIZE_RATIO
            return optimization.MeanRisk(goal, risk, l2_coef=chosen["l2_coef"], **common)
        case "risk_budgeting":
            return optimization.RiskBudgeting(risk_measure=risk, **common)
        case "hierarchical_risk_parity":
            return optimization.HierarchicalRiskParity(risk_measure=risk, **common)
        case _:
            return optimization.MaximumDiversification(l2_coef=chosen["l2_coef"], **common)

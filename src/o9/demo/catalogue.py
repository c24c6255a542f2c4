"""The built-in objectives by name: what each one optimizes, its search space, and the import path of its code.

Contract. BUILTIN is data: reading it imports neither numpy, nor skfolio, nor the functions. An optimization that is
submitted without an objective and a search space runs the one in `DEMONSTRATIONS` for its type, and
`demonstration_warning` says so in its `warnings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from o9.model.states import OptimizationType


@dataclass(frozen=True)
class BuiltinObjective:
    """An objective of the catalogue.

    path: `package.module:function`, a function from a mapping of parameters to a float or an Evaluation.
    search_space: as `OptimizationState.metadata["search_space"]`.
    description: follows a colon, without a full stop.
    data: the fingerprint of its data (equal to that of its evaluations), or the name of a closed-form problem.
    total_steps, trials_per_step: the defaults of an optimization that gives none.
    truncatable: it takes the keyword `periods`, see `o9.strategies.registry.objective`.
    """

    name: str
    path: str
    optimization_type: OptimizationType
    search_space: Mapping[str, Mapping[str, Any]]
    description: str
    data: str
    direction: str = "maximize"
    total_steps: int = 50
    trials_per_step: int = 4
    truncatable: bool = False


def demonstration_warning(name: str) -> str:
    """The entry in `warnings` of an optimization that runs the demonstration objective `name`."""
    return (
        f"Neither an objective nor a search space was given, so the built-in demonstration objective '{name}' is "
        f"running: {BUILTIN[name].description}. Its results say nothing about your strategy. To optimize your own, set "
        "metadata={'objective': 'package.module:function', 'search_space': {...}}."
    )


def _float(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, **more}


def _int(low: int, high: int, **more: Any) -> dict[str, Any]:
    return {"type": "int", "low": low, "high": high, **more}


def _choice(*choices: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices)}


_RULES = "o9.demo.market.rules"
# 20 large US stocks of the S&P 500, daily adjusted closes from 1990-01-02 to 2022-12-28, which skfolio contains.
# The hash is that of the parsed prices; `Prices.fingerprint` differs for a release of skfolio with other prices.
SP500_DATA = "skfolio-sp500-e25df62115c2"


def _closed_form(
    name: str, kind: OptimizationType, search_space: Mapping[str, Mapping[str, Any]], description: str
) -> BuiltinObjective:
    return BuiltinObjective(name, f"o9.demo.functions:{name}", kind, search_space, description, data=name)


_DEMONSTRATIONS = (
    _closed_form(
        "branin",
        OptimizationType.PARAMETER_TUNING,
        {"x": _float(-5.0, 10.0), "y": _float(0.0, 15.0)},
        "the Branin function as 1 / (1 + f - 0.397887), whose best value 1.0 is known",
    ),
    _closed_form(
        "hartmann6",
        OptimizationType.STRATEGY_OPTIMIZATION,
        {f"x{i}": _float(0.0, 1.0) for i in range(1, 7)},
        "the six-dimensional Hartmann function as a share of its minimum -3.32237; the best value is 1.0",
    ),
    _closed_form(
        "tangency_portfolio",
        OptimizationType.PORTFOLIO_OPTIMIZATION,
        {name: _float(0.01, 1.0) for name in ("stocks", "bonds", "credit", "gold", "property")},
        "the Sharpe ratio of five weights as a share of the highest attainable one, so that 1.0 is best",
    ),
    _closed_form(
        "minimum_variance_hedge",
        OptimizationType.RISK_OPTIMIZATION,
        {"equity": _float(-1.0, 3.0), "rates": _float(-1.0, 3.0)},
        "the share of the removable variance that two hedges remove, so that 1.0 is best",
    ),
    _closed_form(
        "ackley",
        OptimizationType.PERFORMANCE_OPTIMIZATION,
        {f"x{i}": _float(-5.0, 5.0) for i in range(1, 4)},
        "the Ackley function as 1 - f / 20, whose best value 1.0 is hidden among many local ones",
    ),
    _closed_form(
        "worker_fleet",
        OptimizationType.SYSTEM_OPTIMIZATION,
        {"workers": _int(1, 60), "size": _choice("small", "medium", "large")},
        "the least possible cost of a fleet of workers over the cost of the one tried, so that 1.0 is best",
    ),
)

_MARKETS = (
    BuiltinObjective(
        name="sp500_trend",
        path=f"{_RULES}:trend",
        optimization_type=OptimizationType.PARAMETER_TUNING,
        search_space={
            "fast": _int(5, 60),
            "slow": _int(80, 400, step=5),
            "band": _float(0.0, 0.05),
            "side": _choice("long", "both"),
            "volatility_days": _int(20, 120, step=10),
            "volatility_target": _float(0.10, 0.60),
            "rebalance_days": _int(1, 21),
        },
        description="trend following on 20 US stocks by moving-average crossover, net Sharpe ratio in sample",
        data=SP500_DATA,
        trials_per_step=8,
        truncatable=True,
    ),
    BuiltinObjective(
        name="sp500_cross_section",
        path=f"{_RULES}:cross_section",
        optimization_type=OptimizationType.STRATEGY_OPTIMIZATION,
        search_space={
            "signal": _choice("momentum", "reversal"),
            "lookback": _int(5, 252),
            "skip": _int(0, 21),
            "holdings": _int(2, 10),
            "side": _choice("long", "long_short"),
            "weighting": _choice("equal", "inverse_volatility"),
            "rebalance_days": _int(5, 63),
        },
        description="ranking 20 US stocks by past return and holding the best, net Sharpe ratio in sample",
        data=SP500_DATA,
        trials_per_step=8,
        truncatable=True,
    ),
    BuiltinObjective(
        name="sp500_portfolio",
        path="o9.demo.market.portfolio:portfolio",
        optimization_type=OptimizationType.PORTFOLIO_OPTIMIZATION,
        search_space={
            "estimator": _choice(
                "minimum_risk", "maximum_ratio", "risk_budgeting", "hierarchical_risk_parity", "maximum_diversification"
            ),
            "risk_measure": _choice("variance", "cvar"),
            "covariance": _choice("empirical", "ledoit_wolf", "exponential", "gerber"),
            "shrink_means": _choice(True, False),
            "l2_coef": _float(1e-5, 1e-1, log=True),
            "max_weight": _float(0.10, 0.50),
            "lookback": _int(252, 1008, step=63),
            "refit_days": _choice(252, 504),
            "rebalance_days": _int(5, 63),
        },
        description="skfolio's portfolio estimators on 20 US stocks, refitted walk-forward, net Sharpe ratio in sample",
        data=SP500_DATA,
        total_steps=20,
        trials_per_step=2,
        truncatable=True,
    ),
    BuiltinObjective(
        name="sp500_risk_limits",
        path=f"{_RULES}:risk_limits",
        optimization_type=OptimizationType.RISK_OPTIMIZATION,
        search_space={
            "volatility_target": _float(0.06, 0.25),
            "maximum_leverage": _float(0.5, 2.0),
            "position_cap": _float(0.05, 0.30),
            "drawdown_stop": _float(0.05, 0.35),
            "cooldown_days": _int(5, 126),
        },
        description="risk limits on a fixed trend portfolio of 20 US stocks, return over largest drawdown in sample",
        data=SP500_DATA,
        trials_per_step=8,
        truncatable=True,
    ),
)

BUILTIN: dict[str, BuiltinObjective] = {entry.name: entry for entry in (*_DEMONSTRATIONS, *_MARKETS)}
DEMONSTRATIONS: dict[OptimizationType, str] = {entry.optimization_type: entry.name for entry in _DEMONSTRATIONS}

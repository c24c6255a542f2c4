"""What every market objective begins and ends with: its parameters checked, and an Evaluation of its backtest.

The catalogue's search space says what each parameter may be. The value is that of the in-sample days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from o9.demo.catalogue import BUILTIN
from o9.demo.market.backtest import COST_BASIS_POINTS, TRADING_DAYS, Backtest
from o9.demo.market.baselines import baseline_figures, baseline_returns
from o9.demo.market.figures import PERIODS_PER_YEAR, figures
from o9.demo.market.prices import Prices, sp500
from o9.demo.market.walk_forward import WARM_UP_DAYS, split_days
from o9.model.errors import OptimizationValidationError
from o9.model.trial import Evaluation


def read(objective: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` over `defaults`, each within the search space of `objective`, and `cost_basis_points`.

    Raises OptimizationValidationError, which names the parameter, for an unknown one or a value outside.
    """
    space = {**BUILTIN[objective].search_space, "cost_basis_points": {"type": "float", "low": 0.0, "high": 1000.0}}
    for name in parameters:
        if name not in space:
            raise OptimizationValidationError(f"parameters.{name}", f"unknown; there are {', '.join(space)}")
    given = {"cost_basis_points": COST_BASIS_POINTS, **defaults, **parameters}
    return {name: _checked(name, given[name], space[name]) for name in space}


def known(periods: int | None) -> Prices:
    """All prices, or those of the days until `periods` in-sample returns were there."""
    prices = sp500()
    return prices if periods is None else prices.until(WARM_UP_DAYS + periods)


def judge(
    prices: Prices, run: Backtest, *, cost_basis_points: float, value: str = "sharpe", periods: int | None = None
) -> Evaluation:
    """`value` names the in-sample figure to optimize: `sharpe` or `calmar`.

    metrics, all of net returns: the in-sample figures by their names, those of the hold-out with `out_of_sample_`
    before them, `turnover` a year (1.0: the capital traded once), and Sharpe ratio, Calmar ratio
    and maximum drawdown of each baseline. A metric that is undefined is left out. The baseline whose returns go with it
    is equal weight; the hold-out's returns have no part in the value. With `periods` the prices end in sample, and the
    Evaluation has no baseline and no hold-out.
    """
    if periods is not None:
        inside = run.net[WARM_UP_DAYS:]
        dates = prices.dates[WARM_UP_DAYS:]
        return Evaluation(figures(inside)[value], inside.tolist(), PERIODS_PER_YEAR, dates=dates)
    split = split_days(len(prices.closes))
    in_sample, out_of_sample = run.net[split.in_sample], run.net[split.out_of_sample]
    equal_weight, equal_weight_later = baseline_returns(prices, "equal_weight", cost_basis_points)
    chosen = figures(in_sample)
    metrics = {
        **chosen,
        "turnover": float(run.turnover[split.in_sample].mean()) * TRADING_DAYS,
        **figures(out_of_sample, "out_of_sample_"),
        "out_of_sample_turnover": float(run.turnover[split.out_of_sample].mean()) * TRADING_DAYS,
    }
    for name, baseline in baseline_figures(prices, cost_basis_points).items():
        metrics |= {f"{name}_{figure}": baseline[figure] for figure in ("sharpe", "calmar", "max_drawdown")}
    return Evaluation(
        value=chosen[value],
        returns=in_sample.tolist(),
        periods_per_year=PERIODS_PER_YEAR,
        metrics={name: figure for name, figure in metrics.items() if math.isfinite(figure)},
        data_fingerprint=prices.fingerprint,
        hold_out_returns=out_of_sample.tolist(),
        baseline_returns=equal_weight.tolist(),
        baseline_hold_out_returns=equal_weight_later.tolist(),
        dates=prices.dates[split.start : split.end],
    )


def _checked(name: str, value: Any, axis: Mapping[str, Any]) -> Any:
    field = f"parameters.{name}"
    if axis["type"] == "categorical":
        if value not in axis["choices"]:
            raise OptimizationValidationError(field, f"{value!r} is not one of {axis['choices']}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptimizationValidationError(field, f"expected a finite number, got {value!r}")
    if not axis["low"] <= value <= axis["high"]:
        raise OptimizationValidationError(field, f"{value} is outside {axis['low']} to {axis['high']}")
    if axis["type"] == "float":
        return float(value)
    if value != int(value):
        raise OptimizationValidationError(field, f"{value} is not a whole number")
    return int(value)

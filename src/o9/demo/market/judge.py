"""What the market objectives share: the check of their parameters, and the Evaluation of their backtest.

Parameters are checked against the catalogue's search space. The value and its returns are those of the in-sample days;
the hold-out continues with the same parameters and positions. Two baselines trade the same stocks on the same days at
the same costs: equal weight restores equal shares every 21 days, buy and hold never trades again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from o9.demo.catalogue import BUILTIN
from o9.demo.market.backtest import COST_BASIS_POINTS, TRADING_DAYS, Backtest, backtest, every, figures
from o9.demo.market.prices import WARM_UP_DAYS, Floats, Prices, sp500, split_days
from o9.model.errors import OptimizationValidationError
from o9.model.trial import Evaluation

BASELINES = ("equal_weight", "buy_and_hold")
REBALANCE_DAYS = 21  # of equal weight


def evaluate(
    objective: str,
    parameters: Mapping[str, Any],
    backtest_of: Callable[[Prices, Mapping[str, Any]], Backtest],
    periods: int | None,
    *,
    value: str = "sharpe",
) -> Evaluation:
    """Check `parameters`, to which `cost_basis_points` may belong, and evaluate what `backtest_of` makes of them.

    periods: use only the prices that were known after that many in-sample returns. Raises OptimizationValidationError,
    which names the parameter, for an unknown one or a value outside the search space.
    """
    space = {**BUILTIN[objective].search_space, "cost_basis_points": {"type": "float", "low": 0.0, "high": 1000.0}}
    for name in parameters:
        if name not in space:
            raise OptimizationValidationError(f"parameters.{name}", f"unknown; available: {', '.join(space)}")
    given = {"cost_basis_points": COST_BASIS_POINTS, **parameters}
    chosen = {name: _checked(name, given[name], axis) for name, axis in space.items()}
    prices = sp500() if periods is None else sp500().until(WARM_UP_DAYS + periods)
    run, cost = backtest_of(prices, chosen), chosen["cost_basis_points"]
    return judge(prices, run, cost_basis_points=cost, value=value, periods=periods)


def judge(
    prices: Prices, run: Backtest, *, cost_basis_points: float, value: str = "sharpe", periods: int | None = None
) -> Evaluation:
    """The Evaluation of a backtest. `value` names the in-sample figure to optimize: `sharpe` or `calmar`.

    metrics, all of net returns: the in-sample figures by their names, those of the hold-out with `out_of_sample_`
    before them, `turnover` a year (1.0: the capital traded once), and Sharpe ratio, Calmar ratio and maximum drawdown
    of each baseline. Undefined ones are left out. The baseline's returns are those of equal weight; the hold-out does
    not affect the value. With `periods` the prices end in sample, and there is no baseline and no hold-out.
    """
    if periods is not None:
        inside = run.net[WARM_UP_DAYS:]
        dates = prices.dates[WARM_UP_DAYS:]
        return Evaluation(figures(inside)[value], inside.tolist(), TRADING_DAYS, metrics=run.metrics, dates=dates)
    split = split_days(len(prices.closes))
    in_sample, out_of_sample = run.net[split.in_sample], run.net[split.out_of_sample]
    equal_weight, equal_weight_later = baseline_returns(prices, "equal_weight", cost_basis_points)
    chosen = figures(in_sample)
    metrics = {
        **run.metrics,
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
        periods_per_year=TRADING_DAYS,
        metrics={name: figure for name, figure in metrics.items() if math.isfinite(figure)},
        data_fingerprint=prices.fingerprint,
        hold_out_returns=out_of_sample.tolist(),
        baseline_returns=equal_weight.tolist(),
        baseline_hold_out_returns=equal_weight_later.tolist(),
        dates=prices.dates[split.start : split.end],
    )


def _checked(name: str, value: Any, axis: Mapping[str, Any]) -> Any:
    kind = axis["type"]
    if kind == "categorical":
        is_inside = value in axis["choices"]
    else:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_inside = is_number and axis["low"] <= value <= axis["high"] and (kind == "float" or value == int(value))
    if not is_inside:
        raise OptimizationValidationError(f"parameters.{name}", f"{value!r} is not one of {dict(axis)}")
    return int(value) if kind == "int" else value


@lru_cache(maxsize=8)
def baseline_figures(prices: Prices, cost_basis_points: float = COST_BASIS_POINTS) -> dict[str, dict[str, float]]:
    """Sharpe ratio, annual return and volatility, maximum drawdown and Calmar ratio of each baseline.

    Keys: `equal_weight`, `buy_and_hold`, and the same with `out_of_sample_` before them. Cached; the caller must not
    change it.
    """
    found: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        inside, outside = baseline_returns(prices, name, cost_basis_points)
        found[name] = figures(inside)
        found[f"out_of_sample_{name}"] = figures(outside)
    return found


@lru_cache(maxsize=16)
def baseline_returns(prices: Prices, name: str, cost_basis_points: float = COST_BASIS_POINTS) -> tuple[Floats, Floats]:
    """Daily net returns of the baseline `name`, in sample and out of sample. Cached; callers must not change them."""
    split, never = split_days(len(prices.closes)), len(prices.closes)
    if name == "equal_weight":
        inside = outside = _run(prices, split.start - 1, REBALANCE_DAYS, cost_basis_points).net
    else:
        inside = _run(prices, split.start - 1, never, cost_basis_points).net
        outside = _run(prices, split.holdout - 1, never, cost_basis_points).net
    return inside[split.in_sample], outside[split.out_of_sample]


def _run(prices: Prices, first: int, period: int, cost_basis_points: float) -> Backtest:
    equal = np.full(prices.closes.shape, 1.0 / prices.closes.shape[1])
    return backtest(prices.closes, equal, every(len(equal), period, first), cost_basis_points=cost_basis_points)

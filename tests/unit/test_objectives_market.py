"""The strategies on real prices: no look-ahead, a hold-out that the value never sees, and honest inputs."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skfolio.datasets import load_sp500_dataset

from o9.demo.catalogue import BUILTIN, SP500_DATA
from o9.demo.market import portfolio, prices, rules
from o9.demo.market.backtest import Backtest, backtest, calmar_ratio, every, rolling_volatility, sharpe_ratio
from o9.demo.market.judge import baseline_figures, baseline_returns, judge
from o9.demo.market.prices import WARM_UP_DAYS, Prices, sp500, split_days
from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.trial import Evaluation
from o9.strategies.registry import resolve_objective

Run = Callable[[Prices], Backtest]
COST = {"cost_basis_points": 10.0}
DECIDED = WARM_UP_DAYS + 2 * 2_520  # 2,520 days are whole numbers of 3, 5, 21 and 504
FAST = ("sp500_trend", "sp500_cross_section", "sp500_risk_limits")
MARKET = (*FAST, "sp500_portfolio")


def draw(space: Any, generator: random.Random) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for name, axis in space.items():
        if axis["type"] == "categorical":
            point[name] = generator.choice(axis["choices"])
        elif axis["type"] == "int":
            point[name] = generator.randrange(axis["low"], axis["high"] + 1, axis.get("step", 1))
        else:
            point[name] = generator.uniform(axis["low"], axis["high"])
    return point


def runs() -> dict[str, Run]:
    """Every strategy, in variants that take different paths through the code."""
    both = {**rules.TREND, **COST, "side": "both", "band": 0.01, "rebalance_days": 3}
    spread = {**rules.CROSS_SECTION, **COST, "side": "long_short", "weighting": "inverse_volatility"}
    newest = {**rules.CROSS_SECTION, **COST, "signal": "reversal", "lookback": 5, "skip": 0, "rebalance_days": 5}
    stopped = {**rules.RISK_LIMITS, **COST, "drawdown_stop": 0.06, "maximum_leverage": 1.8, "volatility_target": 0.25}
    ratio = {**portfolio.DEFAULTS, **COST, "estimator": "maximum_ratio", "refit_days": 504}
    parity = {**portfolio.DEFAULTS, **COST, "estimator": "hierarchical_risk_parity", "refit_days": 504}
    return {
        "trend": lambda p: rules.trend_backtest(p, {**rules.TREND, **COST}),
        "trend, both sides": lambda p: rules.trend_backtest(p, both),
        "momentum": lambda p: rules.cross_section_backtest(p, {**rules.CROSS_SECTION, **COST}),
        "spread": lambda p: rules.cross_section_backtest(p, spread),
        "reversal": lambda p: rules.cross_section_backtest(p, newest),
        "risk": lambda p: rules.risk_backtest(p, {**rules.RISK_LIMITS, **COST}),
        "risk, stopped often": lambda p: rules.risk_backtest(p, stopped),
        "portfolio, ratio": lambda p: portfolio.portfolio_backtest(p, ratio),
        "portfolio, parity": lambda p: portfolio.portfolio_backtest(p, parity),
    }


RUNS = [pytest.param(name, marks=pytest.mark.slow) if name.startswith("portfolio") else name for name in runs()]


def leaky_runs() -> dict[str, Run]:
    """Strategies that peek, each in another way."""

    def tomorrow(p: Prices) -> Backtest:
        weights = rules.trend_weights(p, rules.TREND)
        return backtest(p.closes, np.concatenate((weights[1:], weights[-1:])), every(len(weights), 1, WARM_UP_DAYS))

    def whole_sample_volatility(p: Prices) -> Backtest:
        weights = np.ones_like(p.closes) / p.returns.std(axis=0)
        return backtest(p.closes, weights / weights.sum(axis=1, keepdims=True), every(len(weights), 21, WARM_UP_DAYS))

    def centred_mean(p: Prices) -> Backtest:
        smooth = np.apply_along_axis(lambda column: np.convolve(column, np.ones(5) / 5, "same"), 0, p.closes)
        return backtest(p.closes, (p.closes > smooth) / 20.0, every(len(smooth), 1, WARM_UP_DAYS))

    return {"tomorrow": tomorrow, "whole-sample volatility": whole_sample_volatility, "centred mean": centred_mean}


def sees_the_future(run: Run, cut: int) -> bool:
    """Whether knowing the days from `cut` on changes anything before it, by as little as one bit."""
    known, more = run(sp500().until(cut)), run(sp500())
    return not all(
        np.array_equal(getattr(known, name), getattr(more, name)[:cut]) for name in ("held", "net", "gross", "turnover")
    )


@pytest.mark.parametrize("name", RUNS)
def test_later_days_change_nothing_earlier(name: str) -> None:
    # The last known day of DECIDED is one on which every strategy decides, where a peek by one day shows.
    cuts = (DECIDED,) if name.startswith("portfolio") else (1_500, DECIDED, 6_006, 8_312)
    for cut in cuts:
        assert not sees_the_future(runs()[name], cut), f"{name} changed before day {cut}"


@pytest.mark.parametrize("name", list(leaky_runs()))
def test_a_strategy_that_peeks_is_caught(name: str) -> None:
    assert any(sees_the_future(leaky_runs()[name], cut) for cut in (1_500, 4_321, 6_006))


def with_other_holdout(original: Prices) -> Prices:
    """The same prices until the hold-out begins, and then others."""
    split = split_days(len(original.closes))
    closes = original.closes.copy()
    shape = (split.end - split.holdout, closes.shape[1])
    closes[split.holdout :] *= np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.02, shape), axis=0))
    return Prices(closes, original.dates.copy(), original.tickers, original.name)


@pytest.mark.parametrize("name", RUNS)
def test_the_value_never_sees_the_holdout(name: str) -> None:
    def judged(data: Prices) -> Evaluation:
        return judge(data, runs()[name](data), cost_basis_points=10.0)

    one, other = judged(sp500()), judged(with_other_holdout(sp500()))
    assert one.value == other.value
    assert one.returns == other.returns
    for figure, value in one.metrics.items():
        assert (other.metrics[figure] == value) != figure.startswith("out_of_sample_"), figure


def test_the_value_is_the_figure_of_the_returns_that_come_with_it() -> None:
    split = split_days(len(sp500().closes))
    for name, figure in (("sp500_trend", sharpe_ratio), ("sp500_risk_limits", calmar_ratio)):
        found = resolve_objective(name).function({})
        assert isinstance(found, Evaluation)
        assert found.returns is not None
        assert len(found.returns) == split.holdout - split.start
        assert found.value == figure(np.array(found.returns))
        assert found.periods_per_year == 252
        assert found.data_fingerprint == BUILTIN[name].data == SP500_DATA
        assert all(type(value) is float and math.isfinite(value) for value in found.metrics.values())
        assert type(found.value) is float
        assert type(found.returns[0]) is float


def test_baselines() -> None:
    found = baseline_figures(sp500())
    assert found is baseline_figures(sp500()), "computed once"
    assert set(found) == {
        "equal_weight", "buy_and_hold", "out_of_sample_equal_weight", "out_of_sample_buy_and_hold"
    }  # fmt: skip
    inside, outside = baseline_returns(sp500(), "buy_and_hold")
    split, closes = split_days(len(sp500().closes)), sp500().closes
    # Bought once for 10 basis points: wealth is the mean of the relative prices.
    for returns, first, last in ((inside, split.start, split.holdout), (outside, split.holdout, split.end)):
        wealth = 0.999 * (closes[last - 1] / closes[first - 1]).mean()
        assert np.prod(1 + returns) == pytest.approx(wealth, rel=1e-9)
    assert baseline_figures(sp500(), 50.0)["equal_weight"]["sharpe"] < found["equal_weight"]["sharpe"]


def test_the_stop_sells_everything_and_comes_back() -> None:
    closes = sp500().closes
    weekly = every(len(closes), rules.RISK_REBALANCE_DAYS, WARM_UP_DAYS - 1)
    chosen = {**rules.RISK_LIMITS, **COST, "drawdown_stop": 0.10}
    unstopped = backtest(closes, rules.limited_weights(sp500(), chosen), weekly)
    invested = rules._invested(unstopped, 0.10, 21, 10.0)
    run = rules.risk_backtest(sp500(), chosen)
    assert not run.held[~invested].any()
    # Divided by the other's capital once more, since it is bought back and drifts on: equal but for rounding.
    np.testing.assert_allclose(run.held[invested], unstopped.held[invested], rtol=1e-9, atol=1e-15)
    edges = np.flatnonzero(np.diff(invested[WARM_UP_DAYS - 1 :].astype(int))) + WARM_UP_DAYS
    stops, returns_to_market = edges[::2], edges[1::2]
    assert len(stops) > 3
    assert set((returns_to_market - stops[: len(returns_to_market)]).tolist()) == {21}
    for begun, stopped in zip((WARM_UP_DAYS - 1, *returns_to_market), stops, strict=False):
        wealth = np.cumprod(np.concatenate(([1.0], 1.0 + run.net[begun + 1 : stopped + 1])))
        assert wealth[-1] < 0.90 * wealth.max()
        assert (wealth[:-1] >= 0.899 * np.maximum.accumulate(wealth[:-1])).all()


def test_limits_hold_on_the_days_of_trading() -> None:
    limits = {**rules.RISK_LIMITS, "position_cap": 0.08, "maximum_leverage": 0.7}
    weights = rules.limited_weights(sp500(), limits)[WARM_UP_DAYS:]
    assert weights.max() <= 0.08 + 1e-12
    assert weights.sum(axis=1).max() <= 0.7 + 1e-12
    assert weights.min() >= 0.0


def test_cross_sectional_weights_by_hand() -> None:
    days = np.array([2_000])
    score = sp500().closes[1_979] / sp500().closes[1_979 - 231]
    best, worst = np.argsort(-score)[:5], np.argsort(score)[:5]
    long = rules.cross_section_weights(sp500(), rules.CROSS_SECTION, days)[0]
    assert set(np.flatnonzero(long)) == set(best)
    assert long.sum() == pytest.approx(1.0)
    spread = {**rules.CROSS_SECTION, "side": "long_short", "signal": "reversal"}
    weights = rules.cross_section_weights(sp500(), spread, days)[0]
    assert set(np.flatnonzero(weights > 0)) == set(worst)
    assert set(np.flatnonzero(weights < 0)) == set(best)
    assert weights.sum() == pytest.approx(0.0)
    assert np.abs(weights).sum() == pytest.approx(1.0)


def test_trend_weights_by_hand() -> None:
    day, chosen = 3_000, {**rules.TREND, "side": "both", "volatility_target": 0.1}
    closes, weights = sp500().closes, rules.trend_weights(sp500(), chosen)[3_000]
    fast, slow = closes[day - 19 : day + 1].mean(axis=0), closes[day - 199 : day + 1].mean(axis=0)
    volatility = rolling_volatility(sp500().returns, 60)[day]
    np.testing.assert_allclose(weights, np.sign(fast - slow) * 0.1 / volatility / 20, rtol=1e-9)
    assert np.abs(rules.trend_weights(sp500(), {**chosen, "volatility_target": 0.6})).sum(axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize("estimator", BUILTIN["sp500_portfolio"].search_space["estimator"]["choices"])
@pytest.mark.parametrize("measure", ["variance", "cvar"])
@pytest.mark.slow
def test_every_estimator_gives_weights_within_its_limits(estimator: str, measure: str) -> None:
    covariances = BUILTIN["sp500_portfolio"].search_space["covariance"]["choices"]
    for covariance in covariances if measure == "variance" else covariances[:1]:
        chosen = {
            **portfolio.DEFAULTS,
            "estimator": estimator,
            "risk_measure": measure,
            "covariance": covariance,
            "max_weight": 0.12,
        }
        weights = portfolio.fitted_weights(chosen)(sp500().returns[3_000:3_756])
        assert weights is not None
        assert weights.sum() == pytest.approx(1.0)
        assert weights.min() >= -1e-9
        assert weights.max() <= 0.12 + 1e-6


def test_a_refit_that_fails_keeps_the_weights_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [np.full(20, 0.05), None, np.eye(20)[0]]

    def fit(chosen: Any) -> Any:
        return lambda window: answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(portfolio, "fitted_weights", fit)
    run = portfolio.portfolio_backtest(sp500(), {**portfolio.DEFAULTS, **COST})
    assert run.metrics == {"failed_refits": 1.0}
    np.testing.assert_allclose(run.held[WARM_UP_DAYS - 1 + 252], 0.05)
    assert run.held[WARM_UP_DAYS - 1 + 504, 0] == 1.0
    answers[:] = [None]
    with pytest.raises(OptimizationStrategyError, match="first fit"):
        portfolio.portfolio_backtest(sp500(), {**portfolio.DEFAULTS, **COST})


@pytest.mark.parametrize("name", FAST)
def test_the_whole_search_space_can_be_evaluated_and_fast(name: str) -> None:
    generator, space = random.Random(11), BUILTIN[name].search_space
    lows = {key: axis["choices"][0] if "choices" in axis else axis["low"] for key, axis in space.items()}
    highs = {key: axis["choices"][-1] if "choices" in axis else axis["high"] for key, axis in space.items()}
    seconds, function = [], resolve_objective(name).function
    function({})
    for point in (lows, highs, *(draw(space, generator) for _ in range(40))):
        begun = time.process_time()
        found = function(point)
        seconds.append(time.process_time() - begun)
        assert isinstance(found, Evaluation)
        assert found.value is not None
        assert math.isfinite(found.value), point
        assert found.metrics["turnover"] >= 0
    assert statistics.median(seconds) < 0.1


def test_a_portfolio_trial_reports_its_refits() -> None:
    found = resolve_objective("sp500_portfolio").function({"refit_days": 504})
    assert isinstance(found, Evaluation)
    assert found.metrics["failed_refits"] == 0.0
    assert found.metrics["annual_volatility"] < baseline_figures(sp500())["equal_weight"]["annual_volatility"]


def test_dearer_trading_lowers_the_value() -> None:
    cheap, usual, dear = (
        resolve_objective("sp500_trend").function({"cost_basis_points": cost}).value or 0.0
        for cost in (0.0, 10.0, 20.0)
    )
    assert cheap > usual > dear


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"fats": 10}, "parameters.fats"),
        ({"fast": 4}, "parameters.fast"),
        ({"fast": 10.5}, "parameters.fast"),
        ({"fast": True}, "parameters.fast"),
        ({"band": math.nan}, "parameters.band"),
        ({"side": "short"}, "parameters.side"),
        ({"cost_basis_points": -1}, "parameters.cost_basis_points"),
    ],
)
def test_a_wrong_parameter_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(OptimizationValidationError) as caught:
        resolve_objective("sp500_trend").function(given)
    assert caught.value.field == field


def test_every_default_lies_in_its_search_space() -> None:
    of_all = (rules.TREND, rules.CROSS_SECTION, rules.RISK_LIMITS, portfolio.DEFAULTS)
    for name, defaults in zip(MARKET, of_all, strict=True):
        assert set(defaults) == set(BUILTIN[name].search_space)


@pytest.mark.slow
def test_prices_are_those_of_skfolio_read_without_it_and_without_a_network() -> None:
    code = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = refuse
from o9.demo.market.prices import sp500
assert sp500().closes.shape == (8313, 20) and str(sp500().dates[-1]) == "2022-12-28"
assert not {"skfolio", "pandas", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    official = load_sp500_dataset()
    assert np.array_equal(official.to_numpy(), sp500().closes)
    assert tuple(official.columns) == sp500().tickers
    assert sp500().fingerprint == SP500_DATA


def test_without_skfolio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "find_spec", lambda name: None)
    with pytest.raises(OptimizationStrategyError, match=r"pip install 'prefect-o9\[quant\]'"):
        sp500.__wrapped__()

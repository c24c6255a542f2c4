"""The accounting, compared with a slow loop in dollars and its costs, and figures that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from o9.demo.market import backtest as accounting
from o9.demo.market.backtest import (
    VOLATILITY_FLOOR,
    Backtest,
    Mask,
    annual_return,
    annual_volatility,
    backtest,
    calmar_ratio,
    every,
    figures,
    maximum_drawdown,
    rolling_mean,
    rolling_volatility,
    sharpe_ratio,
)
from o9.demo.market.prices import WARM_UP_DAYS, Floats, split_days
from o9.model.errors import OptimizationStrategyError


def random_closes(days: int, stocks: int, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    closes: Floats = 50.0 * np.exp(np.cumsum(generator.normal(0.0003, 0.015, (days, stocks)), axis=0))
    return closes


def slow_backtest(closes: Floats, targets: Floats, rebalance: Mask, cost_basis_points: float) -> Backtest:
    """The same contract in dollars and shares, one day after the other."""
    days, stocks = closes.shape
    net, gross, turnover, held = np.zeros(days), np.zeros(days), np.zeros(days), np.zeros((days, stocks))
    wealth, dollars = 1_000_000.0, np.zeros(stocks)
    booked = wealth
    for day in range(days):
        if day:
            before_prices = wealth
            gains = dollars * (closes[day] / closes[day - 1] - 1.0)
            dollars, wealth = dollars + gains, wealth + gains.sum()
            gross[day] = wealth / before_prices - 1.0
            net[day] = wealth / booked - 1.0
            booked = wealth
        if rebalance[day]:
            traded = np.abs(targets[day] * wealth - dollars).sum()
            turnover[day] = traded / wealth
            wealth -= traded * cost_basis_points / 10_000
            dollars = targets[day] * wealth
        held[day] = dollars / wealth
        borrowed, short = max(dollars.sum() - wealth, 0.0), -dollars[dollars < 0].sum()
        paid = (borrowed * accounting.BORROWING_RATE + short * accounting.SHORT_FEE) / 252 / wealth
        wealth, dollars = wealth * (1.0 - paid), dollars * (1.0 - paid)
    return Backtest(net, gross, turnover, held)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("period", [1, 7, 60])
def test_the_accounting_equals_a_slow_loop(seed: int, period: int) -> None:
    generator = np.random.default_rng(seed)
    closes = random_closes(300, 6, seed)
    targets = generator.uniform(-0.3, 0.6, closes.shape)  # short, levered and in cash by turns
    rebalance = every(300, period, 20) | (generator.random(300) < 0.02)
    fast = backtest(closes, targets, rebalance, cost_basis_points=25.0)
    slow = slow_backtest(closes, targets, rebalance, 25.0)
    for name in ("net", "gross", "turnover", "held"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-10, atol=1e-13, err_msg=name)
    assert (fast.gross > fast.net)[21:].any()
    assert fast.turnover.sum() > 1.0


def test_a_decision_earns_the_next_day_and_not_its_own() -> None:
    closes = np.array([[100.0], [200.0], [100.0], [150.0]])
    targets = np.array([[0.0], [1.0], [1.0], [1.0]])
    run = backtest(closes, targets, np.array([True, True, False, False]), cost_basis_points=0.0)
    assert run.net.tolist() == [0.0, 0.0, -0.5, 0.5]


def test_what_is_not_traded_costs_nothing() -> None:
    closes = random_closes(400, 4)
    never = np.zeros(400, dtype=np.bool_)
    assert not backtest(closes, np.full_like(closes, 0.25), never, cost_basis_points=500.0).net.any()
    once = every(400, 400, 10)
    cheap = backtest(closes, np.full_like(closes, 0.25), once, cost_basis_points=0.0)
    dear = backtest(closes, np.full_like(closes, 0.25), once, cost_basis_points=100.0)
    assert dear.turnover[10] == pytest.approx(1.0)
    assert not np.delete(dear.turnover, 10).any()
    assert dear.net[11] == pytest.approx(cheap.net[11] - 0.01 * (1 + cheap.net[11]))
    assert np.array_equal(np.delete(dear.net, 11), np.delete(cheap.net, 11))
    np.testing.assert_allclose(cheap.net, cheap.gross, atol=1e-15)


def test_doubled_costs_lower_the_return_twice_as_much() -> None:
    closes = random_closes(500, 4)
    targets = np.random.default_rng(1).dirichlet(np.ones(4), 500)
    wealth = [
        np.log1p(backtest(closes, targets, every(500, 5, 0), cost_basis_points=cost).net).sum() for cost in (0, 10, 20)
    ]
    assert wealth[0] > wealth[1] > wealth[2]
    assert (wealth[0] - wealth[2]) / (wealth[0] - wealth[1]) == pytest.approx(2.0, rel=0.01)


def test_turnover_counts_the_drift() -> None:
    closes = np.array([[1.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    run = backtest(closes, np.full((3, 2), 0.5), np.array([True, True, False]), cost_basis_points=0.0)
    # Halves become two thirds and a third: a sixth is sold, and a sixth bought.
    assert run.turnover.tolist() == pytest.approx([1.0, 1 / 3, 0.0])


@pytest.mark.parametrize("period", [1, 3])
def test_ruin_is_an_error(period: int) -> None:
    closes = np.array([[100.0], [80.0], [55.0], [54.0]])
    with pytest.raises(OptimizationStrategyError, match="whole capital"):
        backtest(closes, np.full((4, 1), 4.0), every(4, period, 0))


def test_figures_by_hand() -> None:
    returns = np.array([0.10, -0.50, 0.20, 0.05])
    assert maximum_drawdown(returns) == pytest.approx(0.5)
    assert maximum_drawdown(np.array([-0.25, 0.1])) == pytest.approx(0.25), "a loss from the first day on is one"
    growth = 1.1 * 0.5 * 1.2 * 1.05
    assert annual_return(returns) == pytest.approx(growth ** (252 / 4) - 1)
    assert annual_volatility(returns) == pytest.approx(np.std(returns, ddof=1) * math.sqrt(252))
    assert sharpe_ratio(returns) == pytest.approx(np.mean(returns) / np.std(returns, ddof=1) * math.sqrt(252))
    assert calmar_ratio(returns) == pytest.approx(annual_return(returns) / 0.5)
    assert set(figures(returns, "x_")) == {
        "x_sharpe", "x_annual_return", "x_annual_volatility", "x_max_drawdown", "x_calmar"
    }  # fmt: skip


def test_figures_that_are_undefined_are_nan() -> None:
    assert math.isnan(sharpe_ratio(np.zeros(10)))
    assert math.isnan(calmar_ratio(np.zeros(10)))


def test_rolling_windows_equal_the_plain_definition_and_ignore_the_future() -> None:
    values = np.random.default_rng(5).normal(0, 0.02, (120, 3))
    mean, volatility = rolling_mean(values, 20), rolling_volatility(values, 20)
    for day in (0, 7, 19, 20, 119):
        window = values[max(0, day - 19) : day + 1]
        np.testing.assert_allclose(mean[day], window.mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(volatility[day], np.sqrt((window**2).mean(axis=0) * 252), rtol=1e-10)
    assert np.array_equal(rolling_mean(values[:60], 20), mean[:60])
    assert (rolling_volatility(np.zeros((30, 1)), 10) == VOLATILITY_FLOOR).all()


@pytest.mark.parametrize("days", [3300, 8313, 9001])
def test_the_days_are_cut_once_into_warm_up_sample_and_hold_out(days: int) -> None:
    split = split_days(days)
    assert split.in_sample == slice(split.start, split.holdout)
    assert split.start == WARM_UP_DAYS
    assert split.out_of_sample == slice(split.holdout, days)
    assert (split.end - split.holdout) / days == pytest.approx(0.30, abs=0.001)


def test_too_few_days_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        split_days(3000)

"""The figures by which a series of returns is read. Pure; a figure that is undefined is NaN, never a guess."""

from __future__ import annotations

import math

import numpy as np

from o9.demo.market.prices import Floats

PERIODS_PER_YEAR = 252.0


def sharpe_ratio(returns: Floats) -> float:
    """Annualised: √252 · mean / standard deviation (n - 1) of daily returns over zero; NaN if they never vary."""
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    return math.sqrt(PERIODS_PER_YEAR) * float(returns.mean()) / deviation if deviation > 0 else math.nan


def annual_return(returns: Floats) -> float:
    """The constant compound return a year that ends at the same wealth."""
    return float(np.exp(np.log1p(returns).mean() * PERIODS_PER_YEAR) - 1.0) if len(returns) else math.nan


def annual_volatility(returns: Floats) -> float:
    """√252 · standard deviation (n - 1) of daily returns."""
    return math.sqrt(PERIODS_PER_YEAR) * float(returns.std(ddof=1)) if len(returns) > 1 else math.nan


def maximum_drawdown(returns: Floats) -> float:
    """The largest loss from a high of wealth, the beginning counted as one; 0.25 is a loss of a quarter."""
    wealth = np.concatenate(([1.0], np.cumprod(1.0 + returns)))
    return float((1.0 - wealth / np.maximum.accumulate(wealth)).max())


def calmar_ratio(returns: Floats) -> float:
    """Annual return over the largest drawdown; NaN where nothing was ever lost. Source: Young 1991."""
    drawdown = maximum_drawdown(returns)
    return annual_return(returns) / drawdown if drawdown > 0 else math.nan


def figures(returns: Floats, prefix: str = "") -> dict[str, float]:
    """All of them by name, each name with `prefix` before it."""
    named = (sharpe_ratio, annual_return, annual_volatility, maximum_drawdown, calmar_ratio)
    return {
        f"{prefix}{figure.__name__.removesuffix('_ratio').replace('maximum', 'max')}": figure(returns)
        for figure in named
    }

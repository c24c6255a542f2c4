"""The work that both sides of lifecycle.py do. Evaluation processes import it, so it imports nothing."""

from __future__ import annotations

from typing import Any

TRIALS = 10  # backtests in a step


def computation(x: float) -> float:
    """A few milliseconds of arithmetic: about the least that is worth a Prefect task."""
    total = 0.0
    for n in range(1, 20_000):
        total += (x - n) ** 2 / n**3
    return total


async def async_computation(parameters: dict[str, Any]) -> float:
    return computation(parameters["x"])


def backtest_computation(parameters: dict[str, Any], periods: int = 400_000) -> float:
    """Some 20 ms of numpy: the crossover of two averages over a random walk."""
    import numpy as np

    prices = np.cumsum(np.random.default_rng(7).normal(0.0, 1.0, periods))
    sums = np.cumsum(prices)
    fast, slow = ((sums[n:] - sums[:-n]) / n for n in (parameters["fast"], parameters["slow"]))
    positions = np.sign(fast[-len(slow) :] - slow)[:-1]
    earned = positions * np.diff(prices[-len(slow) :])
    return float(earned.mean() / earned.std())


def sync_computation(parameters: dict[str, Any]) -> float:
    return computation(parameters["x"])

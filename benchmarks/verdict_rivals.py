"""Other people's forecasts of a live Sharpe ratio, to compare the product's with; for `benchmarks/verdict.py`.

Contract. Pure. Sharpe ratios are annual, spans in years. Each rival discounts the Sharpe ratio in sample in its way.
What is left is averaged with the hold-out's, each weighted by its years, and the errors of both spans and of the live
one make an interval of 80 %. None of them allows for serial correlation or for edges that die.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from o9.health.overfitting import adjust_p_values, expected_maximum_sharpe

NORMAL = NormalDist()
REACH = NORMAL.inv_cdf(0.9)


@dataclass(frozen=True)
class ObservedState:
    """sharpes: of all trials in sample, the best one's is `claimed`. effective: independent trials that they amount to.
    parameters: how many were searched; None where there were none."""

    sharpes: Any
    claimed: float
    years: float
    effective: float
    parameters: int | None


def naive(seen: ObservedState) -> float:
    """No discount."""
    return seen.claimed


def sric(seen: ObservedState) -> float:
    """SR - k/(T·SR), not below 0. Source: Paulsen and Söhl 2020 (Noise fit, estimation error and a Sharpe information
    criterion).

    k is the number of parameters searched; of a set without parameters, what the choice alone gains: the squared
    expected maximum of so many independent trials.
    """
    if seen.claimed <= 0:
        return seen.claimed
    gained = expected_maximum_sharpe(seen.effective)
    spent = float(seen.parameters) if seen.parameters is not None else (gained if isinstance(gained, float) else 0) ** 2
    return max(seen.claimed - spent / (seen.years * seen.claimed), 0.0)


def harvey_liu(seen: ObservedState) -> float:
    """The Sharpe ratio whose own p-value is the adjusted one (BHY over all trials). Source: Harvey and Liu 2015
    (Backtesting)."""
    if seen.claimed <= 0:
        return seen.claimed
    root = math.sqrt(seen.years)
    p = np.array([2 * NORMAL.cdf(-abs(float(each)) * root) for each in seen.sharpes])
    adjusted = adjust_p_values(p, "bhy")
    best = float(np.asarray(adjusted)[int(np.argmax(seen.sharpes))])
    return -NORMAL.inv_cdf(min(max(best, 1e-300), 1.0) / 2) / root if best < 1 else 0.0


RIVALS: dict[str, Callable[[ObservedState], float]] = {"naive": naive, "SRIC": sric, "Harvey-Liu": harvey_liu}


def interval(
    discounted: float, years: float, held: tuple[float, float] | None, live: float
) -> tuple[float, float, float]:
    """(mean, low, high). held: the hold-out's Sharpe ratio and its years."""
    if held is not None:
        sharpe, span = held
        discounted, years = (discounted * years + sharpe * span) / (years + span), years + span
    reach = REACH * math.sqrt(1.0 / years + 1.0 / live)
    return discounted, discounted - reach, discounted + reach

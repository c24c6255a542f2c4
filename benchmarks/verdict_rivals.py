"""Other people's forecasts of a live Sharpe ratio, to compare the product's with; for `benchmarks/verdict.py`.

Contract. Pure. Sharpe ratios are annual, spans in years. Each rival discounts the Sharpe ratio in sample in its way.
What is left is averaged with the hold-out's, each weighted by its years, and the errors of both spans and of the live
one make an interval of 80 %. None of them allows for serial correlation or for edges that die.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, norm

from o9.health.statistics.overfitting import expected_maximum_sharpe

REACH = float(norm.isf(0.1))


@dataclass(frozen=True)
class InSample:
    """sharpes: of all trials in sample, the best one's is `claimed`. effective: independent trials that they amount to.
    parameters: how many were searched; None where there were none."""

    sharpes: Any
    claimed: float
    years: float
    effective: float
    parameters: int | None


def naive(seen: InSample) -> float:
    """No discount."""
    return seen.claimed


def sric(seen: InSample) -> float:
    """SR - k/(T·SR), not below 0. Source: Paulsen and Söhl 2020 (Noise fit, estimation error and a Sharpe information
    criterion).

    k is the number of parameters searched; of a set without parameters, what the choice alone gains: the squared
    expected maximum of this many independent trials.
    """
    if seen.claimed <= 0:
        return seen.claimed
    gained = expected_maximum_sharpe(seen.effective)
    spent = float(seen.parameters) if seen.parameters is not None else (gained if isinstance(gained, float) else 0) ** 2
    return max(seen.claimed - spent / (seen.years * seen.claimed), 0.0)


def harvey_liu(seen: InSample) -> float:
    """The Sharpe ratio whose own p-value is the adjusted one (BHY over all trials). Source: Harvey and Liu 2015
    (Backtesting)."""
    if seen.claimed <= 0:
        return seen.claimed
    root = math.sqrt(seen.years)
    adjusted = false_discovery_control(2 * norm.sf(np.abs(np.asarray(seen.sharpes)) * root), method="by")
    return float(norm.isf(adjusted[int(np.argmax(seen.sharpes))] / 2)) / root


RIVALS: dict[str, Callable[[InSample], float]] = {"naive": naive, "SRIC": sric, "Harvey-Liu": harvey_liu}


def interval(
    discounted: float, years: float, held: tuple[float, float] | None, live: float
) -> tuple[float, float, float]:
    """(mean, low, high). held: the hold-out's Sharpe ratio and its years."""
    if held is not None:
        sharpe, span = held
        discounted, years = (discounted * years + sharpe * span) / (years + span), years + span
    reach = REACH * math.sqrt(1.0 / years + 1.0 / live)
    return discounted, discounted - reach, discounted + reach

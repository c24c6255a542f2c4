"""Placebo runs of worthless searches: are their p-values uniform? For `benchmarks/verdict.py`.

Contract. Each search is the product's sampler over data without an edge, then the same search on `RUNS` placebos, which
the product's own `without_edge` makes; the p-value is its `placebo_of`. P-values are multiples of 1/(RUNS + 1): each is
moved down by a random part of a step, which makes it uniform on 0 to 1 if no placebo differs from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest
from verdict_families import Floats, keeping

from o9.health.placebo import placebo_of
from o9.model.search_space import SearchSpace
from o9.model.specification import read_metadata
from o9.store.optimizations.placebos import PlaceboRuns
from o9.strategies.plan import Plan
from o9.strategies.samplers import make_asker
from o9.workers.resampling import without_edge

RUNS, TRIALS, COUNT = 19, 25, 180
DAYS = 750
LEAST_KS_P = 0.01  # of a Kolmogorov-Smirnov test, below which the p-values are not uniform


@dataclass(frozen=True)
class PlaceboRow:
    """data: without an edge, from a generator. value: of the data and a point of `parameters` numbers from -1 to 1."""

    name: str
    sampler: str
    parameters: int
    kind: str
    data: Callable[[np.random.Generator], Any]
    value: Callable[[Any, Floats], float]


def walk(rng: np.random.Generator) -> Floats:
    """Prices whose returns are fat-tailed and know nothing of those before."""
    return 100.0 * np.exp(np.cumsum(0.01 * rng.standard_t(4, DAYS)))


def crossover(prices: Floats, point: Floats) -> float:
    """Long while the short average is above the long one by a band, else short. The Sharpe ratio a day."""
    fast, slow = 2 + round(9 * (point[0] + 1)), 25 + round(50 * (point[1] + 1))
    sums = np.concatenate([[0.0], np.cumsum(prices)])

    def average(days: int) -> Floats:
        return (sums[slow:] - sums[slow - days : len(sums) - days]) / days

    held = np.where(average(fast) > average(slow) * (1 + 0.02 * point[2]), 1.0, -1.0)[:-1]
    return _sharpe(held * np.diff(prices[slow - 1 :]) / prices[slow - 1 : -1])


def signals(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Five slow signals, and a rising market that they say nothing of."""
    return keeping(0.9)(rng, DAYS, 5), 0.01 * (rng.standard_normal(DAYS) + 0.03)


def weighted(data: tuple[Floats, Floats], point: Floats) -> float:
    known, market = data
    return _sharpe(np.where(known @ point >= 0, market, -market))


def _sharpe(returns: Floats) -> float:
    return float(returns.mean() / returns.std())


ROWS = (
    PlaceboRow("tpe, crossover of averages, shuffle", "tpe", 3, "shuffle", walk, crossover),
    PlaceboRow("cmaes, weights of signals, shift", "cmaes", 5, "shift", signals, weighted),
    PlaceboRow("tpe, weights of signals, shift", "tpe", 5, "shift", signals, weighted),
)


def p_value(row: PlaceboRow, number: int) -> float:
    """Of one worthless search."""
    rng = np.random.default_rng([ROWS.index(row), number])
    data = row.data(rng)

    seen = best(row, data, int(rng.integers(2**31)))
    others = [
        best(row, without_edge(data, row.kind, int(rng.integers(2**31))), int(rng.integers(2**31))) for _ in range(RUNS)
    ]
    found = placebo_of(seen, PlaceboRuns({}, dict(enumerate(others, 1))), "maximize")
    assert found is not None
    return found.p_value


def best(row: PlaceboRow, data: Any, seed: int) -> float:
    """What one search reaches."""
    names = [f"w{number}" for number in range(row.parameters)]
    space = SearchSpace.parse({name: {"type": "float", "low": -1.0, "high": 1.0} for name in names})
    plan = Plan(read_metadata({"sampler": row.sampler, "seed": seed}), space, "maximize", 1, TRIALS)
    asker = make_asker(plan, seed)
    values = []
    for _ in range(TRIALS):
        (asked,) = asker.ask(1)
        values.append(row.value(data, np.array([asked[name] for name in names])))
        asker.tell(values[-1:])
    return max(values)


def placebo_line(row: PlaceboRow, found: Sequence[float]) -> tuple[str, bool]:
    """A line of the table; are the p-values uniform, and at most 5 % of them at 0.05 within two standard errors?"""
    steps = np.random.default_rng(0).random(len(found)) / (RUNS + 1)
    test = kstest(np.asarray(found) - steps, "uniform")
    least = sum(p <= 1.0 / (RUNS + 1) + 1e-9 for p in found) / len(found)
    error = math.sqrt(0.05 * 0.95 / len(found))
    met = bool(test.pvalue >= LEAST_KS_P) and least <= 0.05 + 2 * error
    figures = f"{len(found)} | {100 * least:.1f} ± {100 * error:.1f} | {np.mean(found):.3f} | {test.statistic:.3f}"
    return f"| {row.name} | {figures} | {test.pvalue:.2f} | {'met' if met else 'MISSED'} |", met

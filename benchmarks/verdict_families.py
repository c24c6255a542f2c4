"""Searches with a known truth: families of strategies whose edge is zero, real, or dies; for `benchmarks/verdict.py`.

Contract. Each maker takes a generator and gives one `Search`: what was tried over ten years, and what the chosen trial
would earn after them, drawn as often as wanted. All randomness comes from the generators. Returns are simple returns a
period with a deviation of `VOLATILITY`; Sharpe ratios are annual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import lfilter

from o9.health.statistics.spa import sharpe_ratios
from o9.model.search_space import SearchSpace
from o9.model.specification import read_metadata
from o9.strategies.plan import Plan
from o9.strategies.samplers import make_asker

Floats = Any
Future = Callable[[np.random.Generator, int], tuple[Floats, Floats | None]]

IN_SAMPLE, HELD, SHORT_HELD, LIVE = 10, 5, 2, 5  # years
WEEKS, DAYS, MONTHS = 52, 252, 12  # a year
VOLATILITY = 0.01
WARM_UP = 300
MARKET_SHARPE = 0.5
HOLDING = 8.0  # weeks that a random timing stays in or out of the market, on average


@dataclass(frozen=True)
class Search:
    """What a search tried and chose from, and what comes after.

    trials: (periods, N) in sample; baseline: (periods,) or None. future: the returns of the trial in a column, and the
    baseline's, over HELD + LIVE years, one draw. adaptive: the trials were chosen by results. parameters: how many were
    searched; None for a set of trials that has none.
    """

    trials: Floats
    future: Future
    a_year: int = WEEKS
    baseline: Floats | None = None
    market_neutral: bool = True
    adaptive: bool = False
    parameters: int | None = None


Maker = Callable[[np.random.Generator], Search]  # each call another one
Noise = Callable[[np.random.Generator, int, int], Floats]  # periods, strategies; deviation one in the long run


def normal(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
    return rng.standard_normal((periods, strategies))


def fat_tailed(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
    """Student's t with 3 degrees of freedom: the kurtosis is infinite."""
    return rng.standard_t(3, (periods, strategies)) / math.sqrt(3)


def keeping(kept: float) -> Noise:
    """Each return keeps so much of the one before; of long-run deviation one."""

    def noise(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
        shocks = rng.standard_normal((WARM_UP + periods, strategies))
        return lfilter([1.0 - kept], [1.0, -kept], shocks, axis=0)[WARM_UP:]

    return noise


def regimes(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
    """The volatility of all triples for a quarter of the time, half a year at a stretch."""
    stormy = _spells(rng, periods, 1, 26.0, 0.25)[:, 0]
    return rng.standard_normal((periods, strategies)) * np.where(stormy, 3.0, 1.0)[:, None]


def garch(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
    """GARCH(1, 1): 0.1 of the last shock, 0.88 of the last variance. Each strategy has a volatility of its own."""
    shocks = rng.standard_normal((WARM_UP + periods, strategies))
    returns, variance = np.empty_like(shocks), np.ones(strategies)
    for period, shock in enumerate(shocks):
        returns[period] = shock * np.sqrt(variance)
        variance = 0.02 + 0.1 * returns[period] ** 2 + 0.88 * variance
    return returns[WARM_UP:]


def alike(correlation: float) -> Noise:
    def noise(rng: np.random.Generator, periods: int, strategies: int) -> Floats:
        common = rng.standard_normal((periods, 1))
        return math.sqrt(correlation) * common + math.sqrt(1 - correlation) * rng.standard_normal((periods, strategies))

    return noise


def family(
    noise: Noise,
    *,
    strategies: int = 200,
    a_year: int = WEEKS,
    edge: float = 0.0,
    persists: bool = True,
    all_have_it: bool = False,
) -> Maker:
    """A fixed set of strategies; one of them (or all) has a true annual Sharpe ratio of `edge`."""
    drift = edge / math.sqrt(a_year)

    def make(rng: np.random.Generator) -> Search:
        trials = noise(rng, IN_SAMPLE * a_year, strategies)
        planted = int(rng.integers(strategies))
        if all_have_it:
            trials += drift
        else:
            trials[:, planted] += drift

        def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, None]:
            returns = noise(draws, (HELD + LIVE) * a_year, 1)[:, 0]
            lives = persists and (all_have_it or chosen == planted)
            return (returns + (drift if lives else 0.0)) * VOLATILITY, None

        return Search(trials * VOLATILITY, future, a_year)

    return make


def timing(*, baseline: bool, strategies: int = 200) -> Maker:
    """In and out of one rising market at random: what it earns is the market's."""

    def market(rng: np.random.Generator, periods: int) -> Floats:
        return (garch(rng, periods, 1)[:, 0] + MARKET_SHARPE / math.sqrt(WEEKS)) * VOLATILITY

    def make(rng: np.random.Generator) -> Search:
        periods = IN_SAMPLE * WEEKS
        past = market(rng, periods)

        def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, Floats | None]:
            after = market(draws, (HELD + LIVE) * WEEKS)
            held = in_market(draws, len(after), 1, HOLDING)[:, 0]
            return held * after, after if baseline else None

        trials = in_market(rng, periods, strategies, HOLDING) * past[:, None]
        return Search(trials, future, baseline=past if baseline else None, market_neutral=False)

    return make


def in_market(rng: np.random.Generator, periods: int, strategies: int, holding: float) -> Floats:
    """Ones and zeros, each lasting `holding` periods on average."""
    return _spells(rng, periods, strategies, holding, 0.5).astype(float)


def crash_to_come(rng: np.random.Generator) -> Search:
    """Fifty premiums of 0.8 to 1.6 a year that a crash, once in twelve years, takes back. None was in the sample."""
    strategies, crashes = 50, 1.0 / (12 * WEEKS)
    premiums = rng.uniform(0.8, 1.6, strategies) / math.sqrt(WEEKS)
    common = rng.standard_normal((IN_SAMPLE * WEEKS, 1))
    own = rng.standard_normal((IN_SAMPLE * WEEKS, strategies))

    def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, None]:
        periods = (HELD + LIVE) * WEEKS
        loss = (draws.random(periods) < crashes) * premiums[chosen] / crashes
        return (draws.standard_normal(periods) + premiums[chosen] - loss) * VOLATILITY, None

    return Search((math.sqrt(0.3) * common + math.sqrt(0.7) * own + premiums) * VOLATILITY, future)


# --- searches that look at results -----------------------------------------------------------------------------------


Space = Callable[[np.random.Generator, int], Callable[[Floats], Floats]]  # parameters → returns in sample


def linear(rng: np.random.Generator, parameters: int) -> Callable[[Floats], Floats]:
    """Weights of worthless assets."""
    assets = rng.standard_normal((IN_SAMPLE * WEEKS, parameters))

    def returns(point: Floats) -> Floats:
        return assets @ point / (float(np.linalg.norm(point)) or 1.0)

    return returns


def nonlinear(rng: np.random.Generator, parameters: int) -> Callable[[Floats], Floats]:
    """Long or short by a wave over as many features as there are parameters; the features say nothing."""
    features = keeping(0.9)(rng, IN_SAMPLE * WEEKS, parameters)
    features /= features.std(axis=0)
    market = rng.standard_normal(IN_SAMPLE * WEEKS)

    def returns(point: Floats) -> Floats:
        return np.where(np.sin(3.0 * features @ point) >= 0, market, -market)

    return returns


def searched(sampler: str, space: Space, parameters: int, trials: int, edge: float = 0.0) -> Maker:
    """The product's own sampler over a space without an edge; with `edge`, the first asset of a linear space has it."""

    def make(rng: np.random.Generator) -> Search:
        returns = space(rng, parameters)
        bonus = edge / math.sqrt(WEEKS)

        def trial(point: Floats) -> Floats:
            return (returns(point) + bonus * share(point)) * VOLATILITY

        tried, points = search(trial, sampler, parameters, trials, int(rng.integers(2**31)))

        def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, None]:
            earned = draws.standard_normal((HELD + LIVE) * WEEKS)
            return (earned + bonus * share(points[chosen])) * VOLATILITY, None

        return Search(tried, future, adaptive=sampler not in {"random", "grid", "qmc"}, parameters=parameters)

    return make


def share(point: Floats) -> float:
    """Of the first asset's Sharpe ratio that these weights have."""
    return float(point[0]) / (float(np.linalg.norm(point)) or 1.0)


def search(
    trial: Callable[[Floats], Floats], sampler: str, parameters: int, trials: int, seed: int
) -> tuple[Floats, list[Floats]]:
    """Ask, evaluate, tell the Sharpe ratio: the returns of all trials, (periods, trials), and their parameters."""
    names = [f"w{number}" for number in range(parameters)]
    space = SearchSpace.parse({name: {"type": "float", "low": -1.0, "high": 1.0} for name in names})
    plan = Plan(read_metadata({"sampler": sampler, "seed": seed}), space, "maximize", 1, trials)
    asker = make_asker(plan, seed)
    returns, points = [], []
    for _ in range(trials):
        (asked,) = asker.ask(1)
        points.append(np.array([asked[name] for name in names]))
        returns.append(trial(points[-1]))
        asker.tell([float(sharpe_ratios(returns[-1][:, None])[0])])
    return np.column_stack(returns), points


def _spells(rng: np.random.Generator, periods: int, columns: int, length: float, share_true: float) -> Any:
    """A two-state Markov chain; true for `share_true` of the time, `length` periods at a stretch on average."""
    to_false, to_true = 1.0 / length, share_true / (1.0 - share_true) / length
    drawn = rng.random((periods, columns))
    state = rng.random(columns) < share_true
    states = np.empty((periods, columns), dtype=bool)
    for period in range(periods):
        state = np.where(state, drawn[period] >= to_false, drawn[period] < to_true)
        states[period] = state
    return states

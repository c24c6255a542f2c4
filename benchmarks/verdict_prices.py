"""Rules and random timings on real prices, for `benchmarks/verdict.py`: skfolio's bundled stocks and index.

Contract. 20 large US stocks, all of them equally weighted, and the S&P 500 index, daily, 1990 to 2022. A position is
taken at the close and earns the next day; no costs. Everything is measured over holding the same thing, by its beta.
No download.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from verdict_families import DAYS, HELD, IN_SAMPLE, LIVE, Floats, Search, in_market

from o9.demo.market.prices import sp500

CUT = np.datetime64("2013-01-01")  # chosen and held out before, live after
RANDOM_HOLDING = 20.0  # days
RANDOM_TRIALS = 100
MONTH = 21


@dataclass(frozen=True)
class Asset:
    """closes: (days,) of one price, or (days, stocks) of a basket for rules that choose between stocks."""

    name: str
    closes: Floats
    dates: Any

    @property
    def returns(self) -> Floats:
        """(days,): what is held without a rule earns on each day; 0 on the first."""
        each = np.zeros_like(self.closes)
        each[1:] = self.closes[1:] / self.closes[:-1] - 1.0
        return each if each.ndim == 1 else each.mean(axis=1)


@lru_cache(maxsize=1)
def assets() -> tuple[Asset, ...]:
    prices = sp500()
    single = [Asset(name, prices.closes[:, i], prices.dates) for i, name in enumerate(prices.tickers)]
    basket = Asset("all 20", np.cumprod(1.0 + prices.returns.mean(axis=1)), prices.dates)
    return (*single, basket, _index())


def stocks() -> Asset:
    """All 20 as columns."""
    prices = sp500()
    return Asset("20 stocks", prices.closes, prices.dates)


def _index() -> Asset:
    spec = find_spec("skfolio")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    lines = gzip.decompress((folder / "sp500_index.csv.gz").read_bytes()).decode().split()[1:]
    dates = np.array([line[:10] for line in lines], dtype="datetime64[D]")
    return Asset("S&P 500", np.array([float(line.split(",")[1]) for line in lines]), dates)


def rolling(series: Floats, days: int, of: Callable[..., Floats]) -> Floats:
    """`of` the last `days` values at each position; at the beginning of as many as there are."""
    padded = np.concatenate([np.full(days - 1, series[0]), series])
    return of(sliding_window_view(padded, days), axis=1)


def crossover(asset: Asset) -> Iterator[Floats]:
    for fast in (5, 10, 20, 50):
        for slow in (80, 120, 160, 200):
            yield rolling(asset.closes, fast, np.mean) > rolling(asset.closes, slow, np.mean)


def momentum(asset: Asset) -> Iterator[Floats]:
    logs = np.log(asset.closes)
    for days in (20, 40, 60, 90, 120, 180, 250):
        change = np.sign(logs - np.concatenate([np.full(days, logs[0]), logs[:-days]]))
        yield change > 0
        yield change


def breakout(asset: Asset) -> Iterator[Floats]:
    for days in (20, 40, 60, 90, 120, 180, 250):
        high, low = rolling(asset.closes, days, np.max), rolling(asset.closes, days, np.min)
        for level in (0.5, 0.7, 0.9):
            yield asset.closes >= low + level * (high - low)


def reversal(asset: Asset) -> Iterator[Floats]:
    for days in (2, 3, 5, 10, 20):
        mean, deviation = rolling(asset.closes, days, np.mean), rolling(asset.returns, 60, np.std) + 1e-9
        score = (asset.closes / mean - 1.0) / (deviation * np.sqrt(days))
        for level in (0.0, 0.5, 1.0):
            yield score < -level
            yield np.sign(-score) * (np.abs(score) > level)


def calm(asset: Asset) -> Iterator[Floats]:
    for days in (20, 40, 60):
        deviation = rolling(asset.returns, days, np.std) + 1e-9
        for years in (1, 3):
            usual = rolling(deviation, years * DAYS, np.median)
            for factor in (0.9, 1.1, 1.4):
                yield deviation < factor * usual
        yield np.minimum(0.01 / deviation, 2.0)


def calendar(asset: Asset) -> Iterator[Floats]:
    months = asset.dates.astype("datetime64[M]")
    day = (asset.dates - months).astype(int)
    for first, last in ((0, 7), (0, 15), (8, 22), (15, 31), (22, 31)):
        yield (day >= first) & (day <= last)
    weekday = (asset.dates.astype("datetime64[D]").astype(int) + 3) % 7  # Monday is 0
    for each in range(5):
        yield weekday == each
        yield weekday != each
    month = months.astype(int) % 12
    for start in range(0, 12, 2):
        yield (month - start) % 12 < 6


TIMING: dict[str, Callable[[Asset], Iterator[Floats]]] = {
    "crossover": crossover,
    "momentum": momentum,
    "breakout": breakout,
    "reversal": reversal,
    "calm": calm,
    "calendar": calendar,
}


def ranked(asset: Asset) -> dict[str, list[Floats]]:
    """Rules that choose among all stocks once a month: the returns of each, by kind."""
    logs, each = np.log(asset.closes), np.zeros_like(asset.closes)
    each[1:] = asset.closes[1:] / asset.closes[:-1] - 1.0
    found: dict[str, list[Floats]] = {"strongest stocks": [], "weakest stocks": [], "calmest stocks": []}
    for days in (20, 60, 120, 180, 250):
        change = logs - np.concatenate([np.repeat(logs[:1], days, axis=0), logs[:-days]])
        risk = np.stack([rolling(column, days, np.std) for column in each.T], axis=1)
        for kind, score in (("strongest stocks", change), ("weakest stocks", -change), ("calmest stocks", -risk)):
            order = score.argsort(axis=1).argsort(axis=1)
            for count in (3, 5, 10):
                weights = (order >= asset.closes.shape[1] - count) / count
                monthly = weights[(np.arange(len(weights)) // MONTH) * MONTH]
                found[kind].append((monthly[:-1] * each[1:]).sum(axis=1))
    return found


def rules() -> Iterator[tuple[str, str, Floats, Floats, Any]]:
    """(kind of rule, asset, returns (days, trials), baseline (days,), dates) of each family, over all days but the
    first."""
    for asset in assets():
        earned = asset.returns[1:]
        for kind, rule in TIMING.items():
            positions = np.stack([np.asarray(each, dtype=float) for each in rule(asset)], axis=1)
            yield kind, asset.name, positions[:-1] * earned[:, None], earned, asset.dates[1:]
    all_stocks = stocks()
    for kind, columns in ranked(all_stocks).items():
        yield kind, all_stocks.name, np.stack(columns, axis=1), all_stocks.returns[1:], all_stocks.dates[1:]


def chosen_before(returns: Floats, baseline: Floats, dates: Any, live_from: int = 0) -> Search:
    """Ten years and five held out that end at CUT; live are the five years that begin `live_from` years after it."""
    cut = int(np.searchsorted(dates, CUT))
    held = cut - HELD * DAYS
    begin = cut + live_from * DAYS
    after = np.r_[held:cut, begin : min(begin + LIVE * DAYS, len(returns))]

    def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, Floats]:
        return returns[after, chosen], baseline[after]

    past = slice(held - IN_SAMPLE * DAYS, held)
    return Search(returns[past], future, DAYS, baseline[past], market_neutral=False)


def random_timing(*, baseline: bool) -> Callable[[np.random.Generator], Search]:
    """In and out of one of the assets at random, over twenty years that begin on a random day."""

    def make(rng: np.random.Generator) -> Search:
        known = assets()
        earned = known[int(rng.integers(len(known)))].returns[1:]
        years = IN_SAMPLE + HELD + LIVE
        start = int(rng.integers(len(earned) - years * DAYS + 1))
        span = earned[start : start + years * DAYS]
        cut = IN_SAMPLE * DAYS
        positions = in_market(rng, cut, RANDOM_TRIALS, RANDOM_HOLDING)

        def future(draws: np.random.Generator, chosen: int) -> tuple[Floats, Floats | None]:
            held = in_market(draws, len(span) - cut, 1, RANDOM_HOLDING)[:, 0]
            return held * span[cut:], span[cut:] if baseline else None

        past = span[:cut]
        trials = positions * past[:, None]
        return Search(trials, future, DAYS, past if baseline else None, market_neutral=False)

    return make

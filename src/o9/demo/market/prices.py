"""Real prices: 20 large US stocks of the S&P 500, daily adjusted closes from 1990-01-02 to 2022-12-28.

Contract. `sp500()` reads the file that skfolio ships (no download) once per process and returns read-only arrays; safe
from any thread. Without skfolio it raises OptimizationStrategyError, which names the extra to install. All objectives
split the days in the same way, so that they compare with the same baselines:

    | warm-up, 1,009 closes | in sample                             | hold-out, the last 30 % of all days |
      nothing is earned yet   the value to optimize comes from here   reported beside it, never optimized

skfolio's authors chose the 20 from companies that are large today, so the data has survivorship bias: a long strategy
looks better than it could have been in 1990, when nobody knew which would survive. Baselines on the same stocks have
the same bias, so results mean something only in comparison with them. The data has no cash rate: Sharpe ratios are of
returns over zero, and cash earns nothing.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o9.model.errors import OptimizationStrategyError
from o9.model.trial import fingerprint

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]
WARM_UP_DAYS = 1_009  # closes: 1,008 returns, four years, the longest lookback of any objective here
HOLDOUT_SHARE = 0.30
LEAST_DAYS = 5 * 252  # in sample


@dataclass(frozen=True, eq=False)
class Prices:
    """Adjusted daily closes in read-only arrays.

    closes: shape (days, stocks), US dollars, positive, without gaps. dates: shape (days,), datetime64[D], ascending.
    tickers: one for each column. name: of the data set; with a hash of its content it is the `fingerprint`.
    """

    closes: Floats
    dates: Dates
    tickers: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        self.closes.setflags(write=False)
        self.dates.setflags(write=False)

    @cached_property
    def returns(self) -> Floats:
        """Shape (days, stocks): the return of each stock since the previous close; 0 on the first day."""
        returns = np.zeros_like(self.closes)
        returns[1:] = self.closes[1:] / self.closes[:-1] - 1.0
        returns.setflags(write=False)
        return returns

    @cached_property
    def fingerprint(self) -> str:
        """The name, and a hash of dates, tickers and closes."""
        dates = self.dates.astype("datetime64[D]").astype("<i8").tobytes()
        content = b"\x1f".join((",".join(self.tickers).encode(), dates, self.closes.astype("<f8").tobytes()))
        return f"{self.name}-{fingerprint(content)[:12]}"

    def until(self, days: int) -> Prices:
        """The first `days` days, as they were known then."""
        return Prices(self.closes[:days].copy(), self.dates[:days].copy(), self.tickers, self.name)


@lru_cache(maxsize=1)
def sp500() -> Prices:
    """skfolio's S&P 500 prices: 8,313 days of 20 stocks."""
    spec = find_spec("skfolio")  # importing it takes seconds
    if spec is None or spec.origin is None:
        raise OptimizationStrategyError(
            "real prices come with skfolio, which is not installed: pip install 'prefect-o9[quant]'"
        )
    packed = (Path(spec.origin).parent / "datasets" / "data" / "sp500_dataset.csv.gz").read_bytes()
    header, *lines = gzip.decompress(packed).decode("utf-8").split()
    tickers = header.split(",")[1:]
    dates = np.array([line[:10] for line in lines], dtype="datetime64[D]")
    closes = np.array(",".join(line[11:] for line in lines).split(","), dtype=np.float64)
    return Prices(closes.reshape(len(dates), len(tickers)), dates, tuple(tickers), "skfolio-sp500")


@dataclass(frozen=True)
class Split:
    """Days by number: the first whose return counts, the first of the hold-out, and one past the last.

    Positions are first taken at the close of the day before `start`.
    """

    start: int
    holdout: int
    end: int

    @property
    def in_sample(self) -> slice:
        return slice(self.start, self.holdout)

    @property
    def out_of_sample(self) -> slice:
        return slice(self.holdout, self.end)


def split_days(days: int) -> Split:
    """The split of `days` daily closes. Raises ValueError if they are too few for the warm-up and LEAST_DAYS."""
    holdout = days - int(days * HOLDOUT_SHARE)
    if holdout - WARM_UP_DAYS < LEAST_DAYS:
        raise ValueError(
            f"{days} days are too few: {WARM_UP_DAYS} are for the warm-up, and at least {LEAST_DAYS} in sample"
        )
    return Split(WARM_UP_DAYS, holdout, days)

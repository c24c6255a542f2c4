"""Real prices: 20 large US stocks of the S&P 500, daily adjusted closes from 1990-01-02 to 2022-12-28.

Contract. `sp500()` reads the file that skfolio ships (no download) once per process and returns read-only arrays; safe
from any thread. Without skfolio it raises OptimizationStrategyError that names the extra to install.

The 20 were chosen by skfolio's authors from companies that are large today, so the data has survivorship bias: every
long strategy on it looks better than it could have in 1990, when nobody knew which would survive.
Baselines on the same stocks carry the same bias, which is why results are to be read against them and not alone.
There is no cash rate in it: Sharpe ratios are of returns over zero, cash earns nothing and borrowing costs nothing.
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


@dataclass(frozen=True, eq=False)
class Prices:
    """Adjusted daily closes. The arrays are read-only once they are here.

    closes: shape (days, stocks), US dollars, positive, without gaps.
    dates: shape (days,), datetime64[D], ascending.
    tickers: one for each column.
    name: what the data set is; with a hash of its content it makes `fingerprint`.
    """

    closes: Floats
    dates: Dates
    tickers: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        days, stocks = self.closes.shape
        if len(self.dates) != days or len(self.tickers) != stocks:
            raise ValueError(f"{self.closes.shape} closes need as many dates ({len(self.dates)}) and tickers")
        if not (np.isfinite(self.closes).all() and (self.closes > 0).all()):
            raise ValueError("closes must be finite and positive: fill or drop the gaps first")
        if not (self.dates[1:] > self.dates[:-1]).all():
            raise ValueError("dates must ascend without repetition")
        self.closes.setflags(write=False)
        self.dates.setflags(write=False)

    @cached_property
    def returns(self) -> Floats:
        """Shape (days, stocks): what each stock earned from the close before to this close; 0 on the first day."""
        returns = np.zeros_like(self.closes)
        returns[1:] = self.closes[1:] / self.closes[:-1] - 1.0
        returns.setflags(write=False)
        return returns

    @cached_property
    def fingerprint(self) -> str:
        """The name and a hash of dates, tickers and closes: other prices, another fingerprint."""
        dates = self.dates.astype("datetime64[D]").astype("<i8").tobytes()
        content = b"\x1f".join((",".join(self.tickers).encode(), dates, self.closes.astype("<f8").tobytes()))
        return f"{self.name}-{fingerprint(content)[:12]}"

    def until(self, days: int) -> Prices:
        """The first `days` days alone, as they were known then."""
        return Prices(self.closes[:days].copy(), self.dates[:days].copy(), self.tickers, self.name)


@lru_cache(maxsize=1)
def sp500() -> Prices:
    """skfolio's S&P 500 prices: 8,313 days of 20 stocks."""
    path = _shipped_file()
    return _read(path) if path is not None else _official()


_NAME = "skfolio-sp500"
_MISSING = "real prices come with skfolio, which is not installed: pip install 'prefect-o9[quant]'"


def _shipped_file() -> Path | None:
    """Where skfolio keeps the file, without importing skfolio (that takes seconds); None if it lies elsewhere."""
    spec = find_spec("skfolio")
    if spec is None:
        raise OptimizationStrategyError(_MISSING)
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / "datasets" / "data" / "sp500_dataset.csv.gz"
        if path.is_file():
            return path
    return None


def _read(path: Path) -> Prices:
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split()
    first, *tickers = lines[0].split(",")
    if first != "Date" or not tickers:
        raise OptimizationStrategyError(
            f"{path} does not begin with a Date column: install a release that is known to work, "
            "pip install --force-reinstall 'prefect-o9[quant]'"
        )
    dates = np.array([line[:10] for line in lines[1:]], dtype="datetime64[D]")
    closes = np.array(",".join(line[11:] for line in lines[1:]).split(","), dtype=np.float64)
    return Prices(closes.reshape(len(dates), len(tickers)), dates, tuple(tickers), _NAME)


def _official() -> Prices:
    from skfolio.datasets import load_sp500_dataset

    frame = load_sp500_dataset()
    closes = np.ascontiguousarray(frame.to_numpy(dtype=np.float64))
    return Prices(closes, frame.index.to_numpy().astype("datetime64[D]"), tuple(map(str, frame.columns)), _NAME)

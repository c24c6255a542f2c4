"""Destroys the edge in data, for placebo runs. Runs in child processes, too.

Contract. Deterministic for a seed. The result has the type, shape, index and columns of the given data, which are not
changed. Time is the first axis. Prices (all values above 0) keep their first row, and the other rows are rebuilt from
drawn ratios of consecutive rows; of other data the rows themselves are drawn. All columns, and all parts of a mapping,
a tuple or a list, use the same rows, so that relations at one time are kept. In a frame with a column `close`, open,
high and low follow the drawn close, and volumes stay with their row. Data that cannot be resampled raise DataError.

The kinds of resampling, for `placebo` of `@objective`; the guide's table says what each destroys and keeps:

    "shuffle"         every row once, in another order; the p-value is exact for independent rows (Masters 2020)
    "bootstrap"       rows drawn independently, with replacement
    "bootstrap:N"     the stationary bootstrap (Politis and Romano 1994) with blocks of N rows on average
    "bootstrap:auto"  the same with the optimal block length for a mean (Politis and White 2004, `arch`)
    "shift"           signals are rotated by at least a tenth; the data are a pair, or a mapping with `signals`
    a function        function(data, generator) returns the data; generator is a numpy.random.Generator
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from o9.workers.objective_data import SHIFT, SHUFFLE

Kind = str | Callable[[Any, np.random.Generator], Any]
LEAST_ROWS = 20
_BAR = ("open", "high", "low", "close")
_REMEDY = "declare @objective(…, placebo=function), where function(data, generator) returns data without the edge"


class DataError(Exception):
    """These data cannot be resampled. The message has the reason and the remedy."""


def without_edge(data: Any, kind: Kind, seed: int) -> Any:
    """Return `data` resampled for a placebo run with this seed."""
    generator = np.random.default_rng(seed)
    if callable(kind):
        return kind(data, generator)
    if kind == SHIFT:
        return _shifted(data, generator)
    rows = _rows(data)
    if kind == SHUFFLE:
        return _drawn(data, 1 + generator.permutation(rows - 1))
    block = kind.partition(":")[2]
    length = _optimal_block(data) if block == "auto" else int(block or 1)
    return _drawn(data, 1 + stationary_rows(rows - 1, length, generator))


def stationary_rows(count: int, block: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Draw `count` row numbers below `count`, in blocks of `block` on average, which wrap around at the end."""
    starts = generator.integers(0, count, count)
    begins = generator.random(count) < 1.0 / block
    begins[0] = True
    first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    found: NDArray[np.intp] = (starts[first] + np.arange(count) - first) % count
    return found


def _drawn(data: Any, rows: NDArray[np.intp]) -> Any:
    """Replace each row but the first by the one in `rows`."""
    if isinstance(data, Mapping):
        return {name: _drawn(part, rows) for name, part in data.items()}
    if (parts := _parts(data)) is not None:
        return type(data)(_drawn(part, rows) for part in parts)
    values = _numbers(data)
    columns = [str(name).lower() for name in getattr(data, "columns", ())]
    if "close" in columns and len(columns) == values.shape[1]:
        found = _drawn_bars(values, columns, rows)
    elif (values > 0).all():
        ratios = values[1:] / values[:-1]
        found = np.concatenate([values[:1], values[0] * np.cumprod(ratios[rows - 1], axis=0)])
    else:
        found = np.concatenate([values[:1], values[rows]])
    return _like(data, found)


def _drawn_bars(values: NDArray[np.float64], columns: list[str], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    close = values[:, columns.index("close")]
    if not (close > 0).all():
        raise DataError(f"the column close has prices that are not above 0; {_REMEDY}")
    drawn = np.concatenate([close[:1], close[0] * np.cumprod((close[1:] / close[:-1])[rows - 1])])
    found = np.concatenate([values[:1], values[rows]])
    for place, name in enumerate(columns):
        if name in _BAR or name.startswith("adj"):
            found[1:, place] = values[rows, place] / close[rows - 1] * drawn[:-1]
    return found


def _shifted(data: Any, generator: np.random.Generator) -> Any:
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if not pair and not (isinstance(data, Mapping) and "signals" in data):
        raise DataError('placebo="shift" needs a pair (signals, rest), or a mapping with "signals", as data')
    signals = data[0] if pair else data["signals"]
    values = np.asarray(signals)
    least = len(values) // 10
    by = int(generator.integers(max(1, least), max(2, len(values) - least)))
    moved = _like(signals, np.roll(values, by, axis=0))
    return type(data)((moved, data[1])) if pair else {**data, "signals": moved}


def _rows(data: Any) -> int:
    """Return the number of rows, which all parts must share."""
    if (parts := _parts(data)) is not None:
        lengths = {_rows(part) for part in parts}
        if len(lengths) != 1:
            raise DataError(f"the parts of the data have different numbers of rows, {sorted(lengths)}; {_REMEDY}")
        return lengths.pop()
    rows = len(_numbers(data))
    if rows < LEAST_ROWS:
        raise DataError(f"the data have {rows} rows; at least {LEAST_ROWS} are needed")
    return rows


def _optimal_block(data: Any) -> int:
    try:
        from arch.bootstrap import optimal_block_length
    except ImportError as error:
        raise DataError("the package arch is not installed: pip install 'prefect-o9[quant]'") from error
    if (parts := _parts(data)) is not None:
        return max(map(_optimal_block, parts))
    values = _numbers(data)
    changes = values[1:] / values[:-1] - 1 if (values > 0).all() else values
    lengths = optimal_block_length(changes.reshape(len(changes), -1))["stationary"]
    return max(1, round(float(np.nanmean(lengths))))


def _numbers(data: Any) -> NDArray[np.float64]:
    try:
        values = np.array(data.to_numpy() if hasattr(data, "to_numpy") else data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"data of type {type(data).__name__} are not numbers ({error}); {_REMEDY}") from error
    if values.ndim == 0:
        raise DataError(f"data of type {type(data).__name__} have no rows; {_REMEDY}")
    if not np.isfinite(values).all():
        raise DataError(f"the data have gaps (NaN) or infinite numbers; fill or drop them, or {_REMEDY}")
    return values


def _parts(data: Any) -> list[Any] | None:
    """Return the parts of a mapping, a tuple or a list; None for a single series, such as a list of numbers."""
    if isinstance(data, Mapping):
        return list(data.values())
    if not isinstance(data, (tuple, list)) or (data and isinstance(data[0], (int, float))):
        return None
    return list(data)


def _like(data: Any, values: NDArray[Any]) -> Any:
    if hasattr(data, "columns"):
        return type(data)(values, index=data.index, columns=data.columns)
    if hasattr(data, "index") and not callable(data.index):
        return type(data)(values, index=data.index, name=data.name)
    return type(data)(values.tolist()) if isinstance(data, (tuple, list)) else values

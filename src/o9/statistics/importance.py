"""The importance of parameters and of their pairs, from the ledger alone. Pure and deterministic.

The importance of a parameter is its first-order Sobol index Var(E[y | x]) / Var(y), estimated from the given trials by
partition of x (E. Plischke, E. Borgonovo, C. L. Smith, "Global sensitivity measures from given data", EJOR 226, 2013).
y is the rank of a value, so that outliers weigh no more than their rank, and maximizing and minimizing give the same
result. The share that as many cells would explain by chance is subtracted, as in Kelley's epsilon squared (T. L.
Kelley, "An unbiased correlation ratio measure", PNAS 21, 1935): ε² = 1 - (1 - η²)·(n - 1)/(n - k) for k cells. The
p-value is that of the F test of a one-way analysis of variance on the ranks. The interaction of a pair is ε² of their
joint cells minus ε² of each parameter; it is negative if both explain the same, as when a sampler moves them together.

No forest is fitted, so no seed is needed. A search that soon settles in one region says little about the others, as
`note` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from o9.model.states import TrialState
from o9.model.trial import Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Cells = NDArray[np.int64]
    Ranks = NDArray[np.float64]

FEWEST_TRIALS = 30
FEWEST_FOR_PAIRS = 60
MOST_TRIALS = 20_000
MOST_BINS, PAIR_BINS = 8, 3
MOST_PARAMETERS_FOR_PAIRS = 20
_ABSENT = object()  # the value of a conditional parameter in trials that do not have it
METHOD = "first-order Sobol indices of the values' ranks from given data, corrected for chance (epsilon squared)"
NOTE = (
    "based on the trials made: a sampler that settles in one region leaves the rest unknown, and parameters that it "
    "moved together share what they explain"
)


def importance(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the importance (share of variance) of each parameter, highest first, and the interaction of each pair.

    Only completed trials count. An unknown figure is None, with a `reason`.
    """
    usable = [trial for trial in trials if trial.state is TrialState.COMPLETED and trial.value is not None]
    result: dict[str, Any] = {"trials": len(usable), "method": METHOD, "note": NOTE, "parameters": None, "pairs": None}
    if len(usable) < FEWEST_TRIALS:
        return result | {"reason": f"{len(usable)} completed trials have a value; {FEWEST_TRIALS} are needed"}
    if len({trial.value for trial in usable}) == 1:
        return result | {"reason": "all trials have the same value"}
    import numpy as np
    from scipy.stats import rankdata

    ranks: Ranks = np.asarray(rankdata([trial.value for trial in usable]), dtype=np.float64)
    names = sorted({name for trial in usable for name in trial.parameters})
    columns = {name: [trial.parameters.get(name, _ABSENT) for trial in usable] for name in names}
    bins = max(2, min(MOST_BINS, round(len(usable) ** (1 / 3))))
    alone = {name: _one(_cells(columns[name], bins), ranks) for name in names}
    order = sorted(names, key=lambda name: (-(alone[name]["importance"] or 0.0), name))
    result["parameters"] = {name: alone[name] for name in order}
    varied = [name for name in order if alone[name]["importance"] is not None]
    return result | _pairs(varied[:MOST_PARAMETERS_FOR_PAIRS], columns, ranks)


def _one(cells: Cells | None, ranks: Ranks) -> dict[str, Any]:
    unknown = {"importance": None, "p_value": None}
    if cells is None:
        return unknown | {"reason": "its values have no order and hardly repeat"}
    if int(cells.max()) == 0:
        return unknown | {"reason": "it had the same value in all trials"}
    share, p_value = _explained(cells, ranks)
    return {"importance": max(0.0, share), "p_value": p_value, "cells": int(cells.max()) + 1}


def _pairs(names: Sequence[str], columns: Mapping[str, Sequence[Any]], ranks: Ranks) -> dict[str, Any]:
    if len(ranks) < FEWEST_FOR_PAIRS:
        return {"pairs_reason": f"pairs need {FEWEST_FOR_PAIRS} completed trials, there are {len(ranks)}"}
    cells = {name: found for name in names if (found := _cells(columns[name], PAIR_BINS)) is not None}
    alone = {name: _explained(each, ranks)[0] for name, each in cells.items()}
    pairs: list[dict[str, Any]] = []
    for one, other in combinations(cells, 2):
        both = _renumbered(cells[one] * (int(cells[other].max()) + 1) + cells[other])
        if 2 * (int(both.max()) + 1) > len(ranks):
            continue  # too many choices, with too few trials in each cell
        together = _explained(both, ranks)[0]
        pairs.append({"parameters": sorted((one, other)), "interaction": together - alone[one] - alone[other]})
    pairs.sort(key=lambda pair: (-pair["interaction"], pair["parameters"]))
    return {"pairs": pairs}


def _explained(cells: Cells, ranks: Ranks) -> tuple[float, float]:
    """Return epsilon squared of the ranks by cells, and the p-value of the F test."""
    import numpy as np
    from scipy.special import fdtrc

    count, number = len(ranks), int(cells.max()) + 1
    if number < 2:
        return 0.0, 1.0
    sizes = np.bincount(cells, minlength=number)
    means = np.bincount(cells, weights=ranks, minlength=number) / sizes
    between = float((sizes * (means - ranks.mean()) ** 2).sum())
    whole = float(((ranks - ranks.mean()) ** 2).sum())
    within = max(0.0, whole - between)
    if within == 0.0:
        return 1.0, 0.0
    share = 1.0 - (within / (count - number)) / (whole / (count - 1))
    ratio = (between / (number - 1)) / (within / (count - number))
    return share, float(fdtrc(number - 1, count - number, ratio))


def _cells(values: Sequence[Any], bins: int) -> Cells | None:
    """Return the cell of each value: quantiles of numbers, or the choices; None if choices hardly repeat."""
    import numpy as np

    given = [value for value in values if value is not _ABSENT]
    if given and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given):
        distinct = sorted(set(given))
        if len(distinct) > bins:
            edges = np.unique(np.quantile(np.asarray(given, dtype=float), np.linspace(0, 1, bins + 1)[1:-1]))
            marks = [-1 if v is _ABSENT else int(np.searchsorted(edges, float(v), side="right")) for v in values]
            return _renumbered(np.asarray(marks))
    choices = [_spelled(value) for value in values]
    known = {choice: place for place, choice in enumerate(sorted(set(choices)))}
    if 2 * len(known) > len(values):
        return None
    return np.asarray([known[choice] for choice in choices])


def _renumbered(marks: Cells) -> Cells:
    """Return the cells numbered from 0 without gaps."""
    import numpy as np

    return np.unique(marks, return_inverse=True)[1].reshape(-1)


def _spelled(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, sort_keys=True, default=str)

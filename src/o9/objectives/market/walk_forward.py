"""Which days a parameter set is chosen by, and which it is only judged by.

The days are cut once, for every objective alike, so that all are read against the same baselines:

    | warm-up, 1,009 closes | in sample, cut into 5 folds           | hold-out, the last 30 % of all days |
      nothing is earned yet   the value to optimize comes from here   reported beside it, never optimized

- Positions of any day follow from closes up to that day, in sample and in the hold-out alike.
- The value, and the `returns` by which O9 doubts it, come from the in-sample days and from nothing after them. The
  folds lie side by side without overlap and cover those days.
- The hold-out runs on with the same parameters and positions. Its figures are honest for a parameter set that was
  chosen by its value; choosing by them would make them in-sample figures.
- Whatever is fitted is refitted as time goes on, each fit from the days before it.
- `reselected` answers the question that no single parameter set can: what would somebody have earned who, at the
  beginning of each fold, switched to the parameter set that had been best until then?
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from o9.objectives.market.figures import sharpe_ratio
from o9.objectives.market.prices import Floats

WARM_UP_DAYS = 1_009  # closes: 1,008 returns, four years, the longest lookback of any objective here
HOLDOUT_SHARE = 0.30
FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Days by number: the first whose return counts, the first of the hold-out, and one past the last.

    Positions are first taken at the close of the day before `start`.
    """

    start: int
    holdout: int
    end: int
    folds: tuple[slice, ...]

    @property
    def in_sample(self) -> slice:
        return slice(self.start, self.holdout)

    @property
    def out_of_sample(self) -> slice:
        return slice(self.holdout, self.end)

    @property
    def first_decision(self) -> int:
        return self.start - 1


def split_days(days: int) -> Split:
    """The split of `days` daily closes. Raises ValueError where they are too few for the warm-up and a year a fold."""
    holdout = days - int(days * HOLDOUT_SHARE)
    if holdout - WARM_UP_DAYS < FOLDS * 252:
        raise ValueError(f"{days} days are too few: the warm-up takes {WARM_UP_DAYS}, and each of {FOLDS} folds a year")
    edges = np.linspace(WARM_UP_DAYS, holdout, FOLDS + 1).astype(int).tolist()
    folds = tuple(slice(first, last) for first, last in pairwise(edges))
    return Split(WARM_UP_DAYS, holdout, days, folds)


def reselected(returns: Floats, split: Split) -> Floats:
    """Daily returns of switching, at the beginning of each fold but the first, to the best column until then.

    returns: shape (in-sample days, parameter sets), as in `Evaluation.returns`. Best is the highest Sharpe ratio over
    all folds before; of equals the first. The costs of switching are not charged. Covers the second to the last fold.

    It flatters where a sampler proposed the columns after seeing values of the whole in-sample time (TPE does, a random
    or grid search does not): which parameter sets are there to choose from then knows of the later folds.
    """
    if returns.shape[0] != split.holdout - split.start:
        raise ValueError(f"expected {split.holdout - split.start} in-sample days, got {returns.shape[0]}")
    earned = []
    for fold in split.folds[1:]:
        past = returns[: fold.start - split.start]
        ratios = np.array([sharpe_ratio(column) for column in past.T])
        best = int(np.argmax(np.nan_to_num(ratios, nan=-np.inf)))
        earned.append(returns[fold.start - split.start : fold.stop - split.start, best])
    return np.concatenate(earned)

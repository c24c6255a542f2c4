"""Which days a parameter set is chosen by, and which it is only judged by.

The days are cut once, for every objective alike, so that all are read against the same baselines:

    | warm-up, 1,009 closes | in sample                             | hold-out, the last 30 % of all days |
      nothing is earned yet   the value to optimize comes from here   reported beside it, never optimized

- Positions of any day follow from closes up to that day, in sample and in the hold-out alike.
- The value, and the `returns` by which O9 judges it, come from the in-sample days and from nothing after them.
- The hold-out runs on with the same parameters and positions. Its figures are honest for a parameter set that was
  chosen by its value; choosing by them would make them in-sample figures.
- Whatever is fitted is refitted as time goes on, each fit from the days before it.
"""

from __future__ import annotations

from dataclasses import dataclass

WARM_UP_DAYS = 1_009  # closes: 1,008 returns, four years, the longest lookback of any objective here
HOLDOUT_SHARE = 0.30
LEAST_DAYS = 5 * 252  # in sample


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

    @property
    def first_decision(self) -> int:
        return self.start - 1


def split_days(days: int) -> Split:
    """The split of `days` daily closes. Raises ValueError where they are too few for the warm-up and LEAST_DAYS."""
    holdout = days - int(days * HOLDOUT_SHARE)
    if holdout - WARM_UP_DAYS < LEAST_DAYS:
        raise ValueError(
            f"{days} days are too few: {WARM_UP_DAYS} are for the warm-up, and at least {LEAST_DAYS} in sample"
        )
    return Split(WARM_UP_DAYS, holdout, days)

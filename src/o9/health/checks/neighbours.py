"""Is the best trial on a peak or a plateau? Compares it with its neighbours in the search space.

Contract. Pure. A result that survives small changes of its parameters is more likely to last; an isolated spike is
typical of a fit to noise. The answer is a `Neighbourhood`, or an `Unknown` with the reason.

The distance of two parameter sets is the mean of the distances of their parameters, each 0 to 1: a number's difference
over its range (of the logarithms on a logarithmic scale); 0 for equal choices, else 1. A parameter with only one
possible value is left out. Source: Gower 1971 (A General Coefficient of Similarity), equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from o9.health.unknown import Unknown
from o9.model.search_space import CategoricalParameter, Parameter, SearchSpace, as_json
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.text.format import count

# Adaptive samplers crowd closer than this to the best, where every spike looks like a plateau.
NEAREST = 0.03
FARTHEST = 0.15
LEAST_NEIGHBOURS = 5
KEPT_ON_A_PLATEAU = 0.5  # see `Neighbourhood.kept`


@dataclass(frozen=True)
class Neighbourhood:
    """`kept`: the median neighbour's share of the best's advantage over the median of all trials.

    1.0 is a plateau, 0.0 a spike, below 0 a spike in a hole, and minus infinity if most neighbours failed. `neighbours`
    are trial numbers, the nearest first.
    """

    kept: float
    best: int
    neighbours: tuple[int, ...]

    @property
    def is_plateau(self) -> bool:
        return self.kept >= KEPT_ON_A_PLATEAU

    @property
    def words(self) -> str:
        """A sentence for a person."""
        of = f"{len(self.neighbours)} neighbours of trial {self.best}"
        if self.kept == -math.inf:
            return f"Trial {self.best} is isolated: most of its {len(self.neighbours)} neighbours failed."
        if self.kept <= -0.005:  # below, it would read as a negative share
            return f"{of} are worse than the median trial: a peak, a small change of the parameters loses all of it."
        ground = (
            "a plateau, small changes of the parameters do little harm"
            if self.is_plateau
            else ("a peak, a small change of the parameters loses most of it")
        )
        return f"{of} keep {self.kept:.0%} of its advantage over the median trial: {ground}."


def neighbourhood(trials: Sequence[Trial], space: SearchSpace, *, maximize: bool) -> Neighbourhood | Unknown:
    """Examine the neighbours of the best completed trial of one optimization.

    Neighbours have a distance of 0.03 to 0.15; at least five are needed. One that failed, or whose value is not finite,
    counts as minus infinity: a cliff is not a plateau. Cancelled and infeasible trials, and those with parameters
    outside `space`, are left out.
    """
    sign = 1.0 if maximize else -1.0
    values = {
        trial.number: sign * trial.value if _good(trial) and trial.value is not None else -math.inf
        for trial in trials
        if trial.state in (TrialState.COMPLETED, TrialState.FAILED) and space.contains(trial.parameters)
    }
    known = {trial.number: trial for trial in trials if trial.number in values}
    good = [number for number in known if _good(known[number])]
    if not good:
        return Unknown("no trial completed with a finite value")
    best = max(good, key=lambda number: (values[number], -number))
    middle = median(values[number] for number in good)
    advantage = values[best] - middle
    if not advantage > 0:
        return Unknown(f"all {len(good)} trials have about the same value, so none is the best")
    axes = [parameter for parameter in space.parameters if parameter.grid_size() != 1]
    if not axes:
        return Unknown("no parameter of the search space can vary")
    there = known[best].parameters
    away = {number: distance(axes, there, known[number].parameters) for number in known if number != best}
    near = sorted((number for number in away if NEAREST <= away[number] <= FARTHEST), key=lambda n: (away[n], n))
    if len(near) < LEAST_NEIGHBOURS:
        return Unknown(
            f"only {count(len(near), 'trial')} near the best (distance {NEAREST} to {FARTHEST}), at least "
            f"{LEAST_NEIGHBOURS} are needed; evaluate some of its neighbours"
        )
    kept = (median(values[number] for number in near) - middle) / advantage
    return Neighbourhood(kept, best, tuple(near))


def distance(axes: Sequence[Parameter], one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the distance of two parameter sets, 0 to 1; `axes` are the parameters that can vary."""
    return sum(_apart(axis, one[axis.name], other[axis.name]) for axis in axes) / len(axes)


def _apart(axis: Parameter, one: Any, other: Any) -> float:
    if isinstance(axis, CategoricalParameter):
        return float(as_json(one) != as_json(other))
    if axis.log:
        return abs(math.log(one / other)) / math.log(axis.high / axis.low)
    return float(abs(one - other) / (axis.high - axis.low))


def _good(trial: Trial) -> bool:
    return trial.state is TrialState.COMPLETED and trial.value is not None and math.isfinite(trial.value)

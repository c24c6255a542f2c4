"""Chooses parameter sets: one class for each way to continue identically after a restart.

Contract. `ask(n)` returns the next n parameter sets, in the order of their numbers; `tell` takes their values, in the
same order, before the next `ask`. After `resume(ledger)` a fresh Asker continues, bit for bit, as one that had asked
for the whole ledger. It needs only the seed and the ledger; no sampler state is stored. The last step (with replay, all
steps) is asked again, and OptimizationStrategyError is raised if a set differs from the ledger's.

- By number (random, grid): set n follows from the seed and n. Its cost does not depend on n.
- By number and history (tpe): each set is drawn by a fresh sampler, seeded from the seed and the number, that sees the
  trials before it. TPE keeps no other state.
- By replay (cmaes, gp, nsga2, qmc): the sampler has a state. One sampler serves the whole attempt, and a restart asks
  and tells everything again.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from o9.model.errors import OptimizationStrategyError
from o9.model.specification import Direction
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.strategies.plan import Plan

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial as OptunaTrial

_filters = threading.Lock()  # warning filters are global, and saving and restoring them is not atomic
_imports = threading.Lock()
# Modules that Optuna imports only when a sampler first needs them.
_IMPORTED_LATE = {"cmaes": ("cmaes", "scipy.stats"), "qmc": ("scipy.stats.qmc",), "gp": ("torch", "scipy.stats")}
# None for a failed trial. An infeasible one has the worst infinite value, which samplers rank or clip.
Reported = float | None


def make_asker(plan: Plan, seed: int) -> Asker:
    """Make the asker of a plan's sampler. Imports Optuna unless the sampler is `grid`."""
    if plan.metadata.sampler != "grid":
        _load(plan.metadata.sampler)
    match plan.metadata.sampler:
        case "grid":
            return NumberAsker(plan.direction, plan.space.grid_point, plan.space.grid_size())
        case "random":
            return NumberAsker(plan.direction, _random_sets(plan, seed))
        case "tpe":
            return HistoryAsker(plan, lambda number: _sampler("tpe", derive_seed(seed, number)))
        case _:
            return ReplayAsker(plan, _sampler(plan.metadata.sampler, derive_seed(seed)))


def _load(sampler: str) -> None:
    """Import what the sampler needs, one thread at a time: concurrent imports of scipy.stats can fail."""
    with _imports:
        for name in ("optuna", *_IMPORTED_LATE.get(sampler, ())):
            importlib.import_module(name)


def derive_seed(*numbers: int) -> int:
    """Hash the numbers to a seed of 32 bits."""
    from numpy.random import SeedSequence

    return int(SeedSequence(numbers).generate_state(1)[0])


@dataclass
class NumberAsker:
    """Set n is `draw(n)`. `size`: the number of sets, if limited."""

    direction: Direction
    draw: Callable[[int], dict[str, Any]]
    size: int | None = None
    _next: int = 0

    def ask(self, count: int) -> list[dict[str, Any]]:
        end = self._next + count
        numbers = range(self._next, end if self.size is None else min(end, self.size))
        self._next = numbers.stop
        return [self.draw(number) for number in numbers]

    def tell(self, values: Sequence[Reported]) -> None:
        """Do nothing: the values do not matter."""

    def resume(self, ledger: Sequence[Trial]) -> None:
        before, last = _split(ledger)
        self._next = len(before)
        _ask_again(self, last)


def _random_sets(plan: Plan, seed: int) -> Callable[[int], dict[str, Any]]:
    """Draw by Optuna's random sampler without a study, which it does not need, and which costs more than sampling."""
    space, distributions, sampler = plan.space, plan.space.distributions(), _reseedable_random_sampler()

    def draw(number: int) -> dict[str, Any]:
        sampler.start_at(derive_seed(seed, number))
        drawn = space.from_optuna(
            {name: sampler.sample_independent(None, None, name, each) for name, each in distributions.items()}
        )
        return drawn if number else {**drawn, **plan.first_trial}

    return draw


class _StudyAsker:
    """Asks and tells an Optuna study in memory."""

    def __init__(self, plan: Plan) -> None:
        self.direction = plan.direction
        self._space = plan.space
        self._distributions = plan.space.distributions()
        self._first_trial = plan.first_trial
        self._study = _quiet_study(plan.direction)
        self._asked: list[OptunaTrial] = []
        self._next = 0

    def ask(self, count: int) -> list[dict[str, Any]]:
        # All sets of a step are asked before the first is reported, because samplers may consider running trials.
        self._asked = [self._ask_one() for _ in range(count)]
        return [self._space.from_optuna(trial.params) for trial in self._asked]

    def tell(self, values: Sequence[Reported]) -> None:
        from optuna.trial import TrialState as OptunaState

        for trial, value in zip(self._asked, values, strict=True):
            if value is None:
                self._study.tell(trial, state=OptunaState.FAIL)
            else:
                self._study.tell(trial, value)
        self._asked = []

    def _ask_one(self) -> OptunaTrial:
        if self._next == 0 and self._first_trial:
            self._study.enqueue_trial(self._space.to_optuna(self._first_trial))
        self._next += 1
        return self._study.ask(self._distributions)


class HistoryAsker(_StudyAsker):
    """A fresh sampler for each set; see the module's docstring."""

    def __init__(self, plan: Plan, sampler: Callable[[int], BaseSampler]) -> None:
        super().__init__(plan)
        self._sampler = sampler

    def _ask_one(self) -> OptunaTrial:
        self._study.sampler = self._sampler(self._next)
        return super()._ask_one()

    def resume(self, ledger: Sequence[Trial]) -> None:
        from optuna.trial import TrialState as OptunaState
        from optuna.trial import create_trial

        before, last = _split(ledger)
        for trial in before:
            if not self._space.contains(trial.parameters):
                raise OptimizationStrategyError(
                    f"trial {trial.number} of the ledger has the parameters {trial.parameters}, which are outside the "
                    "search space: the optimization cannot continue as it began"
                )
            value = reported_value(trial, self.direction)
            self._study.add_trial(
                create_trial(
                    state=OptunaState.FAIL if value is None else OptunaState.COMPLETE,
                    value=value,
                    params=self._space.to_optuna(trial.parameters),
                    distributions=self._distributions,
                )
            )
        self._next = len(before)
        _ask_again(self, last)


class ReplayAsker(_StudyAsker):
    """One sampler for the whole attempt; see the module's docstring."""

    def __init__(self, plan: Plan, sampler: BaseSampler) -> None:
        super().__init__(plan)
        self._study.sampler = sampler

    def resume(self, ledger: Sequence[Trial]) -> None:
        for _, step in itertools.groupby(ledger, key=lambda trial: trial.step):
            _ask_again(self, list(step))


Asker = NumberAsker | HistoryAsker | ReplayAsker


def _split(ledger: Sequence[Trial]) -> tuple[Sequence[Trial], Sequence[Trial]]:
    """Split off the last step, which is asked again to check that nothing has changed."""
    start = len(ledger)
    while start > 0 and ledger[start - 1].step == ledger[-1].step:
        start -= 1
    return ledger[:start], ledger[start:]


def _ask_again(asker: NumberAsker | _StudyAsker, trials: Sequence[Trial]) -> None:
    if not trials:
        return
    asked = asker.ask(len(trials))
    for trial, parameters in itertools.zip_longest(trials, asked):
        if parameters != trial.parameters:
            raise OptimizationStrategyError(
                f"trial {trial.number} of the ledger has the parameters {trial.parameters}, but the same seed now "
                f"gives {parameters}: the optimization cannot continue as it began"
            )
    asker.tell([reported_value(trial, asker.direction) for trial in trials])


def reported_value(trial: Trial, direction: Direction) -> Reported:
    """Return the value of a trial that is reported to the sampler."""
    if trial.state is TrialState.INFEASIBLE:
        return -math.inf if direction == "maximize" else math.inf
    return trial.value if trial.state is TrialState.COMPLETED else None


def _sampler(name: str, seed: int) -> BaseSampler:
    import optuna
    from optuna import samplers

    match name:
        case "tpe":
            return samplers.TPESampler(seed=seed)
        case "gp":
            warnings.filterwarnings("ignore", "Clip non-finite values")  # as intended for infeasible trials
            return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":
            # Optuna calls its interface experimental; every resume checks what it draws.
            with _filters, warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
    raise AssertionError(name)


def _reseedable_random_sampler() -> Any:
    from optuna.samplers import RandomSampler

    class ReseedableRandomSampler(RandomSampler):
        """Draws what `RandomSampler(seed=…)` draws; making one for each trial takes four times as long."""

        def start_at(self, seed: int) -> None:
            self._rng.rng.seed(seed)

    return ReseedableRandomSampler(seed=0)


def _quiet_study(direction: Direction) -> Study:
    import optuna

    # Optuna logs at INFO that it created a study in memory. Only that logger is silenced, only for this call.
    logger = logging.getLogger("optuna.storages._in_memory")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return optuna.create_study(direction=direction)
    finally:
        logger.setLevel(level)

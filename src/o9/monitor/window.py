"""What the monitor examines: an optimization's state, and its newest steps and trials.

Reads are by key: the newest WINDOW_STEPS steps and WINDOW_TRIALS trials, or only the new ones, so that they cost the
same for any length of history.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from sqlalchemy import Connection, select

from o9.lifecycle.effect import BEST, CPU, MEMORY, STEP_SECONDS, TRIALS, Direction, direction_of
from o9.model.fields import COUNT_LIMIT
from o9.model.optimization import OptimizationState, utc_now
from o9.model.search_space import SearchSpace
from o9.model.states import OptimizationStatus, TrialState
from o9.model.trial import Trial
from o9.store.core.column_types import row_to_trial
from o9.store.schema.optimizations import METRIC, TRIAL

WINDOW_STEPS = 200
WINDOW_TRIALS = 500
MOST_TRIALS = 100_000
RECENT_STEPS = 50  # the window of figures about the newest steps
LEAST_STEPS = 5
# Fields of OptimizationMetrics that O9 cannot measure; an objective or a strategy may report them.
REPORTED = (
    "accuracy", "precision", "recall", "f1_score", "profit_improvement", "risk_reduction", "efficiency_gain",
)  # fmt: skip
Position = tuple[int, int]  # the number of a step, and of a trial
NAMES = (STEP_SECONDS, TRIALS, BEST, CPU, MEMORY, *REPORTED)


@dataclass(frozen=True)
class Step:
    """A committed step: its time, and its figures, by the names in `NAMES`."""

    number: int
    at: datetime
    figures: dict[str, float]

    @property
    def seconds(self) -> float | None:
        return self.figures.get(STEP_SECONDS)

    @property
    def best(self) -> float | None:
        return self.figures.get(BEST)

    @property
    def throughput(self) -> float | None:
        """Trials per second."""
        return self.figures.get(TRIALS, 0.0) / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Window:
    """One optimization at `now`: its newest steps and trials, oldest first. `space` is None if unknown."""

    state: OptimizationState
    now: datetime
    steps: Sequence[Step] = ()
    trials: Sequence[Trial] = ()
    space: SearchSpace | None = None

    @property
    def direction(self) -> Direction:
        return direction_of(self.state)

    @property
    def sign(self) -> float:
        """The factor for values that makes larger better."""
        return -1.0 if self.direction == "minimize" else 1.0

    @property
    def values(self) -> list[float]:
        """The values of the completed trials; larger is better."""
        completed = (trial for trial in self.trials if trial.state is TrialState.COMPLETED)
        return [self.sign * trial.value for trial in completed if trial.value is not None]

    @property
    def bests(self) -> list[float]:
        """The best value so far after each step that has one; larger is better."""
        return [self.sign * step.best for step in self.steps if step.best is not None]

    @property
    def step_times(self) -> list[float]:
        """Seconds from each commit to the next; 0 if a clock was set back in between."""
        moments = [step.at for step in self.steps]
        return [max(0.0, (after - before).total_seconds()) for before, after in pairwise(moments)]

    @property
    def has_fixed_order(self) -> bool:
        """Whether the order of the trials was fixed in advance (a grid, a Sobol sequence): a trend means nothing."""
        return self.state.metadata.get("sampler") in ("grid", "qmc")

    def after(self, steps: Sequence[Step], trials: Sequence[Trial], state: OptimizationState) -> Window:
        """Return the window at the present time, with new steps and trials, and without those that are too old."""
        return replace(
            self,
            state=state,
            now=utc_now(),
            steps=[*self.steps, *steps][-WINDOW_STEPS:],
            trials=[*self.trials, *trials][-WINDOW_TRIALS:],
        )

    def newest(self) -> Window:
        """Return the window without steps and trials that are too old to say anything about the present."""
        return replace(self, steps=self.steps[-WINDOW_STEPS:], trials=self.trials[-WINDOW_TRIALS:])

    def as_of(self, position: int) -> Window:
        """Return the window right after the commit of `steps[position]`, as far as the ledger shows it."""
        step, state = self.steps[position], self.state
        trials = self.trials[: bisect_right(self.trials, step.number, key=lambda trial: trial.step)]
        trials = trials[-WINDOW_TRIALS:]
        best = next((trial.parameters for trial in trials if step.best is not None and trial.value == step.best), {})
        done = step.number + 1
        then = replace(
            state,
            status=OptimizationStatus.RUNNING,
            completed_steps=done,
            progress=min(1.0, done / state.total_steps) if state.total_steps else 0.0,
            current_performance=state.current_performance if step.best is None else step.best,
            optimized_parameters=best,
            updated_at=step.at,
        )
        steps = self.steps[max(0, position + 1 - WINDOW_STEPS) : position + 1]
        return replace(self, state=then, now=step.at, steps=steps, trials=trials)


def read_window(
    connection: Connection, optimization_id: str, completed_steps: int, shown: int = 1, after: Position = (-1, -1)
) -> tuple[list[Step], list[Trial]]:
    """Read the window of the oldest of the newest `shown` steps and everything since then, oldest first.

    Only what follows `after` is read, and at most MOST_TRIALS trials beyond the window.
    """
    first = max(after[0] + 1, completed_steps - (shown - 1 + WINDOW_STEPS))
    steps = _read_steps(connection, optimization_id, first)
    since = _trials_in(steps[max(1, len(steps) - shown + 1) :]) if shown > 1 else 0
    return steps, _read_trials(connection, optimization_id, after[1], WINDOW_TRIALS + min(MOST_TRIALS, since))


def read_page(
    connection: Connection, optimization_id: str, begin: Position, limit: int
) -> tuple[list[Step], list[Trial], Position | None]:
    """Read the window of the page's first step and everything up to its last one, and where the next page begins.

    At most MOST_TRIALS of the page's trials are read. Oldest first.
    """
    first, trial = (min(max(0, number), COUNT_LIMIT) for number in begin)
    steps = _read_steps(connection, optimization_id, first - WINDOW_STEPS, first + limit)
    follows = bool(steps) and steps[-1].number == first + limit
    steps = steps[:-1] if follows else steps
    end = trial + _trials_in([step for step in steps if step.number >= first])
    limit_of_trials = WINDOW_TRIALS + min(MOST_TRIALS, end - trial)
    trials = _read_trials(connection, optimization_id, trial - WINDOW_TRIALS - 1, limit_of_trials, end)
    return steps, trials, (first + limit, end) if follows else None


def _trials_in(steps: Iterable[Step]) -> int:
    return int(sum(step.figures.get(TRIALS, 0.0) for step in steps))


def _read_steps(connection: Connection, optimization_id: str, first: int, last: int = COUNT_LIMIT) -> list[Step]:
    """Read the steps `first` to `last`, oldest first. Their numbers have no gaps."""
    where = (METRIC.c.optimization_id == optimization_id) & METRIC.c.name.in_(NAMES)
    where &= METRIC.c.step.between(first, last)
    columns = (METRIC.c.step, METRIC.c.name, METRIC.c.value, METRIC.c.at)
    figures: dict[int, dict[str, float]] = {}
    moments: dict[int, str] = {}
    for step, name, value, at in connection.execute(select(*columns).where(where)):
        figures.setdefault(step, {})[name] = value
        moments[step] = at
    return [Step(number, datetime.fromisoformat(moments[number]), figures[number]) for number in sorted(figures)]


def _read_trials(
    connection: Connection, optimization_id: str, after: int, limit: int, end: int = COUNT_LIMIT
) -> list[Trial]:
    """Read the newest `limit` trials between `after` and `end`, both excluded, oldest first."""
    where = (TRIAL.c.optimization_id == optimization_id) & (TRIAL.c.number > after) & (TRIAL.c.number < end)
    statement = select(TRIAL).where(where).order_by(TRIAL.c.number.desc()).limit(limit)
    return [row_to_trial(dict(row)) for row in connection.execute(statement).mappings()][::-1]

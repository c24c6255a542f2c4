"""The runs of a recurring optimization, newest first, with their results. Imports no numpy.

Contract. `read_series` blocks. It reads only the newest RUNS runs, so its cost does not grow with the history. Placebo
runs are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from o9.health.grades import Verdict, kept_verdicts
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

RUNS = 50


@dataclass(frozen=True)
class SeriesRun:
    """One run. change: from the best of the completed run due before it to its own; None if one of them is missing."""

    state: OptimizationState
    verdict: Verdict | None = None
    change: float | None = None

    @property
    def at(self) -> datetime:
        """The time that it was scheduled for, else that of its creation."""
        scheduled = self.state.metadata.get("scheduled_at")
        return datetime.fromisoformat(scheduled) if scheduled else self.state.created_at

    @property
    def best(self) -> float | None:
        return self.state.current_performance if self.state.optimized_parameters else None

    @property
    def hold_out(self) -> float | None:
        """The annual Sharpe ratio of its best trial on the held-out data."""
        figures = self.verdict.figures if self.verdict else {}
        sharpe, year = figures.get("hold_out_sharpe"), figures.get("periods_per_year")
        return None if sharpe is None or year is None else sharpe * math.sqrt(year)


def oldest_first(runs: Sequence[SeriesRun]) -> list[SeriesRun]:
    return sorted(runs, key=lambda run: (run.at, run.state.created_at))


def with_changes(found: Sequence[SeriesRun]) -> list[SeriesRun]:
    """Return the runs with their changes, in the given order."""
    changes: dict[str, float | None] = {}
    before: float | None = None
    for run in oldest_first(found):
        changes[run.state.optimization_id] = None if run.best is None or before is None else run.best - before
        if run.best is not None and run.state.status is OptimizationStatus.COMPLETED:
            before = run.best
    return [replace(run, change=changes[run.state.optimization_id]) for run in found]


def read_series(store: Store, state: OptimizationState, limit: int = RUNS) -> list[SeriesRun]:
    """Return the newest runs of the series that `state` belongs to; empty if there is none."""
    series = state.metadata.get("series")
    if series is None:
        return []
    states = store.read(queries.page, Filter(series=series), limit=limit).items
    verdicts = kept_verdicts(store, states)
    return with_changes([SeriesRun(each, verdicts.get(each.optimization_id)) for each in states])

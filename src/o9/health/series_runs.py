"""The runs of a recurring optimization, newest first, with what became of each. No numpy: any surface may import it.

Contract. `read_series` blocks, and reads the newest RUNS alone, so that no history makes it dearer. Placebo runs are
none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from o9.health.grades import Verdict, kept_verdicts
from o9.model.optimization import OptimizationState
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

RUNS = 50


@dataclass(frozen=True)
class SeriesRun:
    """One run. change: of its best, since that of the run before it; None where one of the two has none."""

    state: OptimizationState
    verdict: Verdict | None = None
    change: float | None = None

    @property
    def at(self) -> datetime:
        """When it was due, or else made."""
        scheduled = self.state.metadata.get("scheduled_at")
        return datetime.fromisoformat(scheduled) if scheduled else self.state.created_at

    @property
    def best(self) -> float | None:
        return self.state.current_performance if self.state.optimized_parameters else None

    @property
    def hold_out(self) -> float | None:
        """Its best's Sharpe ratio a year on what the search never saw."""
        figures = self.verdict.figures if self.verdict else {}
        sharpe, year = figures.get("hold_out_sharpe"), figures.get("periods_per_year")
        return None if sharpe is None or year is None else sharpe * math.sqrt(year)


def with_changes(found: Sequence[SeriesRun]) -> list[SeriesRun]:
    """The runs with their changes; newest first, as given. A run without a best is passed over."""
    runs: list[SeriesRun] = []
    before: float | None = None
    for run in reversed(found):
        runs.append(replace(run, change=None if run.best is None or before is None else run.best - before))
        before = before if run.best is None else run.best
    return runs[::-1]


def read_series(store: Store, state: OptimizationState, limit: int = RUNS) -> list[SeriesRun]:
    """The newest runs of the series that `state` belongs to; empty where it belongs to none."""
    series = state.metadata.get("series")
    if series is None:
        return []
    states = store.read(queries.page, Filter(series=series), limit=limit).items
    verdicts = kept_verdicts(store, states)
    return with_changes([SeriesRun(each, verdicts.get(each.optimization_id)) for each in states])

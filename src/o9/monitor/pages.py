"""The metrics of every step, a page at a time: a page costs what it shows, however many steps there are."""

from __future__ import annotations

from sqlalchemy import Connection, select

from o9.lifecycle.effect import STEP_SECONDS
from o9.model.optimization import OptimizationMetrics, OptimizationState, utc_now
from o9.monitor.figures import metrics_of
from o9.monitor.window import Window, read_steps
from o9.store.optimizations.commit_step import METRIC
from o9.store.store import Store

Place = tuple[int, int]  # where a page begins: the number of its first step, and of that step's first trial
START: Place = (0, 0)


def metrics_page(
    store: Store, state: OptimizationState, place: Place, limit: int
) -> tuple[list[OptimizationMetrics], Place | None]:
    """Up to `limit` steps from `place` on, oldest first, and where the next page begins. To be called in a thread."""
    return store.read(_page, state, place, limit)


def _page(
    connection: Connection, state: OptimizationState, place: Place, limit: int
) -> tuple[list[OptimizationMetrics], Place | None]:
    committed = (METRIC.c.optimization_id == state.optimization_id) & (METRIC.c.name == STEP_SECONDS)
    statement = select(METRIC.c.step).where(committed, METRIC.c.step >= place[0]).order_by(METRIC.c.step)
    numbers = connection.execute(statement.limit(limit + 1)).scalars().all()
    if not numbers:
        return [], None
    shown = numbers[:limit]
    steps, trials, behind = read_steps(connection, state.optimization_id, shown[0], shown[-1], place[1])
    window = Window(state, utc_now(), steps, trials)
    page = metrics_of(window, [step for step in steps if step.number >= shown[0]])
    return page, (numbers[limit], behind) if len(numbers) > limit else None

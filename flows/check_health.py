"""The scheduled flow that checks the health of optimizations, and shows the reports as artifacts of its run in Prefect.

Artifacts: `o9-health` (a table, the worst first), `o9-health-summary` (Markdown), and a progress artifact without a
key.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from o9.flows.events import emit_health
from o9.flows.run_view import show_result
from o9.flows.scheduled import SCHEDULED, progress_shown, store_of_run
from o9.health.check_round import LIMIT, check_round, markdown, table
from o9.health.checker import checker_for
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import ENDED
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)


@flow(name="check-health", **SCHEDULED)
async def check_health(limit: int = LIMIT) -> dict[str, Any]:
    """Check at most `limit` unfinished optimizations, and at most `limit` recently ended ones. Returns the figures.

    A check that fails is named in the summary, the figures and the run's log, and the next run repeats it. Raises
    OptimizationHealthError where no check could be made, OptimizationStoreError where the store is away,
    OptimizationValidationError for an invalid limit.
    """
    store = await store_of_run()
    progress = await progress_shown("Optimizations checked")
    done = await check_round(checker_for(store), limit, progress)
    await progress(1.0)
    await acreate_table_artifact(table(done), key="o9-health", description="What was checked, the worst first")
    await acreate_markdown_artifact(markdown(done), key="o9-health-summary", description="O9: health")
    await _show(store, done.reports)
    logger.info("%d checked: %s", len(done.reports), done.by_status())
    return done.figures()


async def _show(store: Store, reports: list[OptimizationHealthReport]) -> None:
    """Emit an event for each report, and show the new verdicts in the results of ended optimizations."""
    for report in reports:
        await emit_health(store, report)
        state = await store.read_async(queries.get, report.optimization_id)
        if state is None or state.status not in ENDED:
            continue
        holding = await store.read_async(queries.holding, report.optimization_id)
        if holding is not None and holding.prefect_run_id:
            await show_result(store, report.optimization_id, UUID(holding.prefect_run_id))

"""The scheduled flow that corrects the rollups, and shows statistics as artifacts of its run in Prefect.

Artifacts: `o9-statistics` (a table by type and status), `o9-statistics-summary` (Markdown), `o9-statistics-corrections`
(a table, if any rollup was wrong), and a progress artifact without a key.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from o9.flows.scheduled import SCHEDULED, progress_shown, store_of_run
from o9.model.optimization import utc_now
from o9.statistics.maintenance import DAYS, Maintenance, maintain_rollups, markdown, table
from o9.statistics.statistics import OptimizationStatistics

logger = logging.getLogger(__name__)
CORRECTIONS_SHOWN = 200


@flow(name="compute-statistics", **SCHEDULED)
async def compute_statistics(days: int = DAYS) -> dict[str, Any]:
    """Recount the last `days` days, today included, correct wrong rollups, and publish. Returns the figures.

    `days=36600` recounts everything, a day at a time. Raises OptimizationStoreError where the store is away,
    OptimizationValidationError for a number of days below 1.
    """
    store = await store_of_run()
    maintenance = await maintain_rollups(
        store, utc_now(), days, await progress_shown("Rollups compared with the record")
    )
    await _publish(OptimizationStatistics(store=store), maintenance)
    logger.info(
        "%d windows compared with the record, %d rollups corrected; %d running optimizations ranked again",
        maintenance.windows, len(maintenance.corrections), maintenance.refreshed_rankings,
    )  # fmt: skip
    for correction in maintenance.corrections:
        logger.warning("a rollup was wrong: %s", correction)
    return asdict(maintenance)


async def _publish(statistics: OptimizationStatistics, maintenance: Maintenance) -> None:
    summary = await statistics.get_global_statistics()
    trends = await statistics.get_performance_trends()
    await acreate_table_artifact(
        table(summary), key="o9-statistics", description="What has ended, by type, strategy, priority and status"
    )
    await acreate_markdown_artifact(
        markdown(summary, trends, maintenance), key="o9-statistics-summary", description="O9: statistics"
    )
    if maintenance.corrections:
        await acreate_table_artifact(
            maintenance.corrections[:CORRECTIONS_SHOWN],
            key="o9-statistics-corrections",
            description="Rollups that were wrong, and are corrected",
        )

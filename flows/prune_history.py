"""The scheduled flow that deletes optimizations that ended long ago, and flow runs in Prefect.

Artifacts: `o9-prune-summary` (Markdown), and a progress artifact without a key.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact

from o9.flows.scheduled import SCHEDULED, progress_shown, store_of_run
from o9.lifecycle.retention import Removed, horizon, prune
from o9.mirror.removal import remove_flow_runs, remove_scheduled_runs
from o9.model.optimization import utc_now
from o9.model.settings import settings

logger = logging.getLogger(__name__)


@flow(name="prune-history", **SCHEDULED)
async def prune_history(days: float | None = None) -> dict[str, Any]:
    """Delete optimizations that ended at least `days` days ago, with everything that belongs to them.

    Also delete in Prefect the flow runs of deleted optimizations, and day-old runs of scheduled flows. None:
    O9_RETENTION_DAYS; if that is 0, no optimization is deleted. Returns the figures. Raises OptimizationStoreError
    where the store is away, OptimizationValidationError for an invalid number of days.
    """
    store = await store_of_run()
    if days is None and not settings().retention_days:
        logger.info("O9_RETENTION_DAYS is 0: the history is kept forever")
        removed = Removed("")
    else:
        # Imports numpy and scipy, which a node's start does not need.
        from o9.health.statistics.pruned import sharpe_ratios_of

        before = horizon(settings().retention_days if days is None else days, utc_now())
        removed = await prune(store, before, sharpe_ratios_of, await progress_shown("Optimizations pruned"))
    removed.flow_runs = await remove_flow_runs(store)
    removed.scheduled_runs = await remove_scheduled_runs(utc_now())
    if removed.before:
        await acreate_markdown_artifact(markdown(removed), key="o9-prune-summary", description="O9: pruned")
    return removed.figures()


def markdown(removed: Removed) -> str:
    lines = [
        "# Pruned",
        "",
        f"**{removed.optimizations}** optimizations that ended before {removed.before}, with {removed.rows} rows, "
        f"**{removed.alerts}** alerts with {removed.notices} messages, {removed.suppressed} suppressed notifications "
        f"and {removed.silences} silences, and {removed.changes} old changes of the feed; {removed.flow_runs} flow "
        f"runs in Prefect, and {removed.scheduled_runs} old ones of scheduled flows. Counts, statistics and the number "
        "of trials in a family stay.",
    ]
    if removed.kept:
        lines += ["", "## Kept", "", *(f"- {count}: {why.value}" for why, count in removed.kept.items())]
    lines += ["", f"The longest transaction took {removed.longest_seconds:.3f} s, including its wait for the lock."]
    return "\n".join(lines) + "\n"

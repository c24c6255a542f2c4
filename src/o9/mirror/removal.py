"""Deletes flow runs that O9 no longer needs in Prefect, so that Prefect's database does not grow without bound.

These are the runs of pruned optimizations, and of scheduled flows: a day after their end, or a week after their start
if a killed node left them without an end. Only runs that O9 created, and that have no deployment, are deleted; runs of
deployments and mirrored flows stay. Prefect deletes a run's states and task runs with it, and its logs a moment later;
events follow Prefect's own retention.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.exceptions import ObjectNotFound, PrefectException

from o9.store import queries
from o9.store.optimizations.prefect_runs import DeletePrunedRuns
from o9.store.store import Store

logger = logging.getLogger(__name__)
PAGE = 100
TAG = "o9"  # on every flow run that O9 creates
SCHEDULED_TAG = "o9-schedule"  # on those of scheduled flows that a node runs
SCHEDULED_KEPT = timedelta(days=1)
UNENDED_KEPT = timedelta(days=7)  # none of them runs for so long


async def remove_flow_runs(store: Store) -> int:
    """Delete the flow runs of pruned optimizations in Prefect; returns how many.

    If Prefect is away, that is logged, and the next call deletes the rest. Raises OptimizationStoreError.
    """
    removed = 0
    try:
        async with get_client() as client:
            while run_ids := await store.read_async(queries.pruned_runs, limit=PAGE):
                pruned = filters.FlowRunFilterId(any_=[UUID(run_id) for run_id in run_ids])
                removed += await _delete(client, filters.FlowRunFilter(id=pruned, **_without_deployment(TAG)))
                await store.write_async(DeletePrunedRuns(tuple(run_ids)))
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("flow runs of pruned optimizations stay in Prefect until the next pruning: %s", error)
    return removed


async def remove_scheduled_runs(now: datetime) -> int:
    """Delete runs of scheduled flows, with their artifacts, that ended SCHEDULED_KEPT ago or began UNENDED_KEPT ago.

    Returns how many. If Prefect is away, that is logged.
    """
    scheduled = _without_deployment(TAG, SCHEDULED_TAG)
    ended = filters.FlowRunFilter(end_time=filters.FlowRunFilterEndTime(before_=now - SCHEDULED_KEPT), **scheduled)
    left_behind = filters.FlowRunFilter(
        start_time=filters.FlowRunFilterStartTime(before_=now - UNENDED_KEPT), **scheduled
    )
    removed = 0
    try:
        async with get_client() as client:
            for old in (ended, left_behind):
                while gone := await _delete(client, old, artifacts=True):
                    removed += gone
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("old runs of scheduled flows stay in Prefect until the next pruning: %s", error)
    return removed


def _without_deployment(*tags: str) -> dict[str, Any]:
    """Filters for runs with these tags and without a deployment."""
    return {
        "tags": filters.FlowRunFilterTags(all_=list(tags)),
        "deployment_id": filters.FlowRunFilterDeploymentId(is_null_=True),
    }


async def _delete(client: PrefectClient, which: filters.FlowRunFilter, *, artifacts: bool = False) -> int:
    """Delete the first PAGE of them; returns how many."""
    found = await client.read_flow_runs(flow_run_filter=which, limit=PAGE)
    if found and artifacts:  # before the runs, by which they are found
        theirs = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=[run.id for run in found]))
        while left := await client.read_artifacts(artifact_filter=theirs, limit=PAGE):
            for artifact in left:
                with suppress(ObjectNotFound):
                    await client.delete_artifact(artifact.id)
    for flow_run in found:
        with suppress(ObjectNotFound):  # another process was faster
            await client.delete_flow_run(flow_run.id)
    return len(found)

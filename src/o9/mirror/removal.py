"""Prefect's flow runs of what O9 has pruned: deleted in Prefect, too, so that its database does not grow for ever.

Only those that O9 created: attempts at optimizations, without a deployment. What a deployment's schedule or a person
started is theirs, and so are flows that O9 only mirrors. With a flow run Prefect deletes its states, its task runs and,
a moment later, its logs; events go by Prefect's own retention.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterTags,
)
from prefect.exceptions import ObjectNotFound, PrefectException

from o9.store.runs import ForgetRuns
from o9.store.store import Store

logger = logging.getLogger(__name__)
PAGE = 100
TAG = "o9"  # on every flow run that O9 creates


async def remove_flow_runs(store: Store) -> int:
    """Delete in Prefect what is pruned here, and say how many flow runs that were.

    Where Prefect is away that is logged; what is left is deleted by the next call. Raises OptimizationStoreError.
    """
    removed = 0
    try:
        async with get_client() as client:
            while run_ids := await store.read_async(store.pruned_runs, limit=PAGE):
                removed += await _delete(client, run_ids)
                await store.write_async(ForgetRuns(tuple(run_ids)))
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("flow runs of what is pruned are left in Prefect, until the next time: %s", error)
    return removed


async def _delete(client: PrefectClient, run_ids: list[str]) -> int:
    ours = FlowRunFilter(
        id=FlowRunFilterId(any_=[UUID(run_id) for run_id in run_ids]),
        tags=FlowRunFilterTags(all_=[TAG]),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
    )
    found = await client.read_flow_runs(flow_run_filter=ours, limit=PAGE)
    for flow_run in found:
        with suppress(ObjectNotFound):  # somebody else was quicker
            await client.delete_flow_run(flow_run.id)
    return len(found)

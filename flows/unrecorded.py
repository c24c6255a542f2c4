"""Runs of the lifecycle's deployments that ended badly in Prefect before the record knew of them.

A process that is killed while it starts has recorded nothing: its run is scheduled again, TRIES times in all. What
then is left, and what failed without a record, such as for want of a store setting, is recorded as a failed
optimization, so that lists show it and alerts are raised.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry

from o9.lifecycle.submission import record_refused
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.store import Store

logger = logging.getLogger(__name__)
LIFECYCLE = "optimization-lifecycle"
LOOK_BACK = timedelta(days=1)
TRIES = 3


async def record_unrecorded(store: Store, client: PrefectClient, pool: str | None) -> list[str]:
    """Schedule again, or record, those of the work pool that ended within LOOK_BACK; the names of their runs.

    pool: None for deployments that are served without one.
    """
    found = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[LIFECYCLE])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED, StateType.FAILED])),
            end_time=FlowRunFilterEndTime(after_=utc_now() - LOOK_BACK),
            deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        ),
        sort=FlowRunSort.END_TIME_DESC,
    )
    known = await store.read_async(queries.known_runs, [str(flow_run.id) for flow_run in found])
    lost = [each for each in found if each.work_pool_name == pool and str(each.id) not in known]
    lost = [each for each in lost if not await _names_one(store, each)]
    for flow_run in lost:
        await _settle(store, client, flow_run)
    return [flow_run.name for flow_run in lost]


async def _names_one(store: Store, flow_run: FlowRun) -> bool:
    """Whether it was to run an optimization that is in the record, which says how that ended."""
    spec = flow_run.parameters.get("spec") or {}
    named = flow_run.parameters.get("optimization_id") or spec.get("optimization_id")
    return isinstance(named, str) and await store.read_async(queries.get, named) is not None


async def _settle(store: Store, client: PrefectClient, flow_run: FlowRun) -> None:
    crashes = [state for state in await client.read_flow_run_states(flow_run.id) if state.is_crashed()]
    why = (flow_run.state.message if flow_run.state else "") or "Prefect does not say why"
    if flow_run.state is not None and flow_run.state.is_crashed():
        if len(crashes) < TRIES:
            logger.warning(
                "%s died before its optimization was recorded, and is scheduled again: %s", flow_run.name, why
            )
            await client.set_flow_run_state(flow_run.id, AwaitingRetry(message=why), force=True)
            return
        why = f"its process died {len(crashes)} times before it was recorded: {why}"
    logger.warning("%s left no record, and is recorded as a failure: %s", flow_run.name, why)
    error = OptimizationValidationError("", why)
    await record_refused(store, flow_run.parameters.get("spec"), error, str(flow_run.id))

"""Settles runs of the lifecycle's deployments that died or failed before they recorded an optimization.

A worker reports a run whose process died as Crashed. Where the worker died too, Prefect keeps the run as Running, and
this module ends it once its heartbeats have stopped. A Pending run is left alone: its container may wait for a machine.

A crashed run is scheduled again, TRIES times in all, and then recorded as a failed optimization, so that lists show it
and alerts are raised. A run that failed without a record, for want of a store setting for example, is recorded at once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.states import AwaitingRetry, Crashed

from o9.flows.hand_over import LIFECYCLE
from o9.lifecycle.submission import record_refused
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.store import Store
from o9.text.format import duration

logger = logging.getLogger(__name__)
LOOK_BACK = timedelta(days=1)
SILENCE = timedelta(minutes=30)  # ten of Prefect's heartbeats, at its default
TRIES = 3


async def record_unrecorded(
    store: Store, client: PrefectClient, pool: str | None, silence: timedelta = SILENCE
) -> list[str]:
    """Settle the unrecorded runs of a work pool that ended within LOOK_BACK; return their names.

    pool: None for deployments that are served without one. silence: how long after its last heartbeat a run counts as
    crashed. A run without any heartbeat is left alone.
    """
    now = utc_now()
    for flow_run in await _unrecorded(store, client, pool, [StateType.RUNNING]):
        heard_at = await _last_heartbeat(client, flow_run)
        assert flow_run.state is not None
        if heard_at is not None and now - max(heard_at, flow_run.state.timestamp) >= silence:
            message = f"O9: its last heartbeat was {duration(now - heard_at)} ago, and it has recorded nothing"
            await client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    ended = filters.FlowRunFilterEndTime(after_=now - LOOK_BACK)
    found = await _unrecorded(store, client, pool, [StateType.CRASHED, StateType.FAILED], end_time=ended)
    lost = [flow_run for flow_run in found if not await _names_recorded(store, flow_run)]
    for flow_run in lost:
        await _settle(store, client, flow_run)
    return [flow_run.name for flow_run in lost]


async def _unrecorded(
    store: Store, client: PrefectClient, pool: str | None, states: list[StateType], **when: Any
) -> list[FlowRun]:
    found = await client.read_flow_runs(
        flow_filter=filters.FlowFilter(name=filters.FlowFilterName(any_=[LIFECYCLE])),
        flow_run_filter=filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=states)),
            deployment_id=filters.FlowRunFilterDeploymentId(is_null_=False),
            **when,
        ),
        sort=FlowRunSort.END_TIME_DESC,
    )
    known = await store.read_async(queries.known_runs, [str(flow_run.id) for flow_run in found])
    return [each for each in found if each.work_pool_name == pool and str(each.id) not in known]


async def _last_heartbeat(client: PrefectClient, flow_run: FlowRun) -> datetime | None:
    heartbeats = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run.id}"]),
    )
    newest = (await client.read_events(heartbeats, limit=1)).events
    return newest[0].occurred if newest else None


async def _names_recorded(store: Store, flow_run: FlowRun) -> bool:
    """Whether its parameters name an optimization that is in the record, which says how that ended."""
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

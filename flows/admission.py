"""Admission of flow runs that Prefect started: they wait, or rest, without holding a worker where that is possible.

A run with a deployment suspends itself: its process ends, Prefect shows Suspended, and the same run comes back when it
is resumed, by O9 when its turn has come, or by a person in Prefect's UI. Prefect suspends neither a run without a
deployment nor a subflow: such a run waits in its own process.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_runs import asuspend_flow_run
from prefect.states import Cancelled, Completed, Failed

from o9.model.errors import OptimizationCoordinationError
from o9.model.settings import settings
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.prefect_runs import Admission, Begin, SetSuspendedRun
from o9.store.queue.claims import Claimed
from o9.store.store import Store
from o9.tasks.attempt import patiently

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


async def wait_for_admission(store: Store, optimization_id: str, flow_run: FlowRun, node: str) -> Claimed | State[Any]:
    """The claim, once it is this run's turn; an end state where the optimization has ended.

    Leaves the flow by Prefect's own way out where the run is suspended until then. Raises
    OptimizationCoordinationError where another run works on it.
    """
    begin = Begin(optimization_id, str(flow_run.id), node, settings().lease_seconds)
    logged = False
    while True:
        admission, claimed = await patiently(lambda: store.write_async(begin), optimization_id)
        if claimed is not None:
            return claimed
        holding = await store.read_async(queries.holding, optimization_id)
        assert holding is not None
        if admission is Admission.ENDED:
            return ended_state(OptimizationStatus(holding.status), f"{admission.value}: {holding.status}")
        if admission is Admission.HELD:
            raise OptimizationCoordinationError(
                f"optimization {optimization_id!r} does not wait for a start: it is {holding.status}, "
                f"held by {holding.lease_node}"
            )
        if admission is Admission.CALLED:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        if may_be_suspended(flow_run):
            logger.info("%s: %s; suspended until its turn comes", optimization_id, admission.value)
            await _suspend(flow_run)
        if not logged:
            logger.info("%s: %s; waiting", optimization_id, admission.value)
            logged = True
        await asyncio.sleep(LOOK_SECONDS)


async def suspend_until_resumed(store: Store, optimization_id: str, flow_run: FlowRun) -> None:
    """Suspend the run of an optimization that was paused: a resume brings this same run back.

    Returns where Prefect will not suspend it; then the next attempt is a new run.
    """
    run_id = str(flow_run.id)
    await patiently(lambda: store.write_async(SetSuspendedRun(optimization_id, run_id)), optimization_id)
    await _suspend(flow_run)
    await patiently(lambda: store.write_async(SetSuspendedRun(optimization_id, None)), optimization_id)


def may_be_suspended(flow_run: FlowRun) -> bool:
    return flow_run.deployment_id is not None and flow_run.parent_task_run_id is None


async def _suspend(flow_run: FlowRun) -> None:
    try:
        # A key of its own each time: Prefect suspends a run once for each key, and numbers them from 0 in each process.
        await asuspend_flow_run(key=uuid.uuid4().hex)
    except RuntimeError as error:
        logger.warning("Prefect would not suspend flow run %s: %s", flow_run.name, error)


def ended_state(status: OptimizationStatus, message: str) -> State[Any]:
    """Prefect's state for an optimization that has ended."""
    if status is OptimizationStatus.COMPLETED:
        return Completed(message=message)
    if status is OptimizationStatus.CANCELLED:
        return Cancelled(message=message)
    return Failed(name="TimedOut" if status is OptimizationStatus.TIMEOUT else None, message=message)

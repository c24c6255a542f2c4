"""The scheduled flow that compares the record with Prefect's, frees what dead nodes hold, and dispatches to workers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from prefect import flow, get_client
from prefect.context import FlowRunContext

from o9.flows.hand_over import dispatch_queued
from o9.flows.scheduled import SCHEDULED, store_of_run
from o9.flows.unrecorded import record_unrecorded
from o9.lifecycle.control import control_of
from o9.lifecycle.heartbeat import dead_on_this_host
from o9.mirror.reconciler import reconcile
from o9.mirror.spool import deliver
from o9.model.settings import settings
from o9.store import queries
from o9.store.queue.claims import Sweep

logger = logging.getLogger(__name__)


@flow(name="reconcile-states", **SCHEDULED)
async def reconcile_states() -> dict[str, Any]:
    """Deliver the spool, compare, free what dead nodes hold, settle unrecorded runs, and dispatch queued work.

    Returns the report's figures. Raises OptimizationStoreError where the store is away, PrefectAwayError where
    Prefect's server is.
    """
    store, node = await store_of_run(), settings().node_id
    # Before the sweep, because the spool or Prefect may know how a mirrored flow ended whose lease has expired.
    delivered = await asyncio.to_thread(deliver, store)
    report = await reconcile(store, node, request=control_of(store).request)
    report.delivered = delivered
    dead = await asyncio.to_thread(dead_on_this_host, store)
    run_out = (await store.read_async(queries.leases)).run_out
    if run_out:  # after a jump of the clock, living holders look dead, too; they renew meanwhile
        await asyncio.sleep(settings().lease_seconds / 2)
    report.swept = await store.write_async(Sweep(node, dead, run_out))
    if report.swept:  # before new runs begin, because dead ones may hold the slots of their deployment in Prefect
        report.crashed += (await reconcile(store, node, request=control_of(store).request)).crashed
    async with get_client() as client:
        if (mine := FlowRunContext.get()) and mine.flow_run and mine.flow_run.deployment_id:
            report.unrecorded = await record_unrecorded(store, client, mine.flow_run.work_pool_name)
        report.dispatched = await dispatch_queued(store, client, node)
    logger.info("%s", report)
    return asdict(report)

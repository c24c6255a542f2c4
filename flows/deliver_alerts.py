"""The scheduled flow that decides who is told of alerts, and tells them, where no aggregator runs all the time.

It judges no rules. What O9 itself finds, such as an optimization that failed, becomes an alert only where an aggregator
runs (`o9 serve`); without one there is to tell what programs send.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from prefect import flow

from o9.alerts.system import AlertNotificationSystem
from o9.blocks.alert_channel import load_block
from o9.blocks.store import current_store
from o9.flows.scheduled import SCHEDULED
from o9.tasks.run_logs import forward_to_prefect

logger = logging.getLogger(__name__)


@flow(name="deliver-alerts", **SCHEDULED)
async def deliver_alerts() -> dict[str, Any]:
    """Decide and send what is due now of the alerts that were sent; rules are judged by aggregators alone.

    Returns whether this run was the one to decide, and how its tries ended.

    Where a node leads, that decides, and this run only sends what waits for a channel that it has: the standing ones,
    and those of O9_ALERTS_FILE. What a program registered, only that program can send through. Raises
    OptimizationStoreError where the store is away, OptimizationAlertError where the file is refused.
    """
    forward_to_prefect()
    store = await asyncio.to_thread(current_store)
    system = AlertNotificationSystem(store=store, resolve_block=load_block)
    await system.initialize()
    done = await system.deliver_once()
    logger.info("%s", done)
    return done

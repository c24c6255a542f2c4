"""The scheduled flow that evaluates alert rules and sends notifications where no aggregator runs.

It leaves out rules that need a permanent process: the monitor's, those about nodes, and those about an outage of
Prefect or the store.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from o9.alerts.rules.evaluator import RuleEvaluator
from o9.alerts.service.system import AlertNotificationSystem
from o9.blocks.alert_channel import load_block
from o9.flows.events import emit_alert
from o9.flows.run_view import run_page
from o9.flows.scheduled import SCHEDULED, store_of_run
from o9.model.optimization import utc_now
from o9.model.settings import settings

logger = logging.getLogger(__name__)


@flow(name="deliver-alerts", **SCHEDULED)
async def deliver_alerts() -> dict[str, Any]:
    """Evaluate the rules on what has happened since the last run, then send what is due.

    A store's first run only begins: later ones evaluate what happens after it. While an aggregator runs, that evaluates
    the rules, and this flow only sends through its own channels: the built-in ones, and those of O9_ALERTS_FILE.
    Channels that a program registers exist in that program only.

    Returns whether this run evaluated rules, and how its sends ended. Raises OptimizationStoreError where the store is
    away, OptimizationAlertError for an invalid file.
    """
    store = await store_of_run()
    system = AlertNotificationSystem(store=store, resolve_block=load_block)
    await system.initialize()
    for event in ("alert", "resolved"):
        system.register_callback(event, partial(emit_alert, store))
    judge = RuleEvaluator(system, run_page=run_page)
    await judge.use(store, settings().lease_seconds)
    try:
        judged = await judge.evaluate(f"{settings().node_id}/rules-{flow_run.id}", utc_now())
    finally:  # an error in the rules does not hold back notifications
        await judge.leave()
        delivered = await system.deliver_once()
    done = {"judged": judged, **delivered}
    logger.info("%s", done)
    return done

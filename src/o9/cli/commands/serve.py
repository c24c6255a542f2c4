"""`serve`: run the queue, the scheduled flows and the HTTP API in one process until it is stopped.

Contract. Stdout gets the addresses once; the log gets a line for each event. The first Ctrl-C or SIGTERM shuts it down,
with exit code 0: running steps are committed, or cut off after ten seconds, and what runs waits for the next start of
this or any other aggregator; nothing is paused. The second one exits at once. Prefect is imported here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from o9.cli.failures import Interrupted, help_only
from o9.cli.options import MaxConcurrent, StoreUrl
from o9.model.errors import OptimizationError

if not help_only:
    from o9.cli.batch import import_from_here
    from o9.cli.console import complain, results, show
    from o9.cli.open_store import place_of
    from o9.cli.session.follow import POLL_SECONDS
    from o9.cli.session.session import run_loop, start, storage_path
    from o9.cli.session.signals import Interrupts
    from o9.cli.views.history import EventFeed, event_text
    from o9.model.settings import settings
    from o9.model.urls import public_url
    from o9.text.format import duration


if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.aggregator.schedules import Schedule

logger = logging.getLogger(__name__)
FAREWELL = "stopped; the next start continues after the last committed steps"


def serve(max_concurrent: MaxConcurrent = 10, store: StoreUrl = None) -> None:
    """Also runs the scheduled flows. Several processes may serve one store: the limit applies to all of them together,
    and each scheduled run is claimed by one. Ctrl-C and SIGTERM shut it down; running optimizations wait for the next
    start. HTTP listens on O9_API_HOST and O9_API_PORT, 127.0.0.1 and 8420 by default; a second process on the same
    machine needs another port, or 0 for a free one.
    """
    import_from_here()
    with Interrupts(FAREWELL) as interrupts:
        try:
            run_loop(_serve(storage_path(store), max_concurrent, interrupts))
        except Interrupted as error:
            complain(str(error))


async def _serve(path: str, max_concurrent: int, interrupts: Interrupts) -> None:
    interrupts.attach()
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.aggregator.schedules import IN_NODES
    from o9.api.server import HttpServer, listen, url_of
    from o9.cli.session.logs import log_lines

    # First, since nothing else is needed if the port is taken.
    with closing(listen(settings().api_host, settings().api_port)) as listener:
        log_lines()
        aggregator = OptimizationStateAggregator(max_concurrent, storage_path=path, schedules=IN_NODES)
        try:
            await aggregator.initialize()
            feed = await asyncio.to_thread(EventFeed, aggregator.store)
            await start(aggregator, logger.info, interrupts.asked)
            async with HttpServer(aggregator.api, listener):
                _announce(aggregator, max_concurrent, IN_NODES, url_of(listener))
                await _log_until_asked(aggregator, feed, interrupts)
            logger.info("stopping: running steps get ten seconds to finish; unfinished runs wait for the next start")
            await aggregator.stop()
            await _log_events(aggregator, feed)
        finally:
            await aggregator.cleanup()
    logger.info("stopped")


def _announce(
    aggregator: OptimizationStateAggregator, max_concurrent: int, schedules: Sequence[Schedule], url: str
) -> None:
    from o9.cli.prefect_side import where_prefect_records

    kept = ", ".join(f"{each.name} (every {duration(each.every)})" for each in schedules if each.every)
    lines = (
        f"Node:      {settings().node_id}, up to {max_concurrent} optimizations at once over all nodes",
        f"Store:     {place_of(aggregator.store)}",
        f"Prefect:   {public_url(aggregator.prefect_url)}; its record: {where_prefect_records()}",
        f"HTTP:      {url}/api/v1, its documentation: {url}/docs",
        f"Schedules: {kept or 'none'}",
        "Ctrl-C shuts it down: running optimizations wait for the next start.",
    )
    show(*lines)
    results().file.flush()


async def _log_until_asked(aggregator: OptimizationStateAggregator, feed: EventFeed, interrupts: Interrupts) -> None:
    while not interrupts.asked.is_set():
        await _log_events(aggregator, feed)
        with suppress(TimeoutError):
            await asyncio.wait_for(interrupts.asked.wait(), POLL_SECONDS)


async def _log_events(aggregator: OptimizationStateAggregator, feed: EventFeed) -> None:
    """Log what has happened to optimizations since the last call, on any node."""
    try:
        events = await asyncio.to_thread(feed.read)
    except OptimizationError as error:  # the node itself warns that the store is unavailable
        logger.debug("cannot read events: %s", error)
        return
    for event in events:
        logger.info("%s", event_text(event, came=True), extra={"o9": {"optimization": event["optimization_id"]}})

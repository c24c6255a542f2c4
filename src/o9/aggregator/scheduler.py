"""Running scheduled flows inside a node: each as a flow run that Prefect shows, one at a time of each flow.

Contract. Owned by one event loop; the flows are async. `start` is called where Prefect's settings name a server, and
the runs go there. A flow that fails is logged, and runs again when it is due next; what goes wrong with one schedule
touches no other. `stop` gives what runs STOP_GRACE_SECONDS to come to its end, and cuts it off then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect import Flow, get_client, tags
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_engine import run_flow_async

from o9.aggregator.schedules import Schedule, due_at, keeper
from o9.lifecycle.presence import dead_on_this_host
from o9.model.errors import OptimizationStoreError
from o9.model.optimization import utc_now
from o9.store.store import Store

logger = logging.getLogger(__name__)
LOOK = timedelta(seconds=30)  # for a node that has left; a clock that jumps is noticed within that, too
STOP_GRACE_SECONDS = 10.0


class Scheduler:
    """`node`: the name under which this one gives its sign of life, and tells which schedules it keeps.

    Raises where a flow cannot be loaded.
    """

    def __init__(self, store: Store, node: str, schedules: Sequence[Schedule]) -> None:
        self._store = store
        self._node = node
        self._tag = store_tag(store)
        self._kept = [(schedule, schedule.load()) for schedule in schedules]
        self._keeping: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[datetime]] = {}
        self._told: dict[str, str] = {}

    def start(self) -> None:
        """Begin; or go on with the server that Prefect's settings name now. What runs notices that for itself."""
        for task in self._keeping:
            task.cancel()
        self._keeping = [
            asyncio.create_task(self._keep(schedule, flow), name=f"o9-schedule-{schedule.name}")
            for schedule, flow in self._kept
        ]

    async def stop(self) -> None:
        for task in self._keeping:
            task.cancel()
        self._keeping = []
        runs = list(self._running.values())
        late = (await asyncio.wait(runs, timeout=STOP_GRACE_SECONDS))[1] if runs else set()
        for run in late:
            logger.warning("%s is cut off: it was not done within %g s", run.get_name(), STOP_GRACE_SECONDS)
            run.cancel()
        if late:
            await asyncio.wait(late, timeout=STOP_GRACE_SECONDS)

    async def _keep(self, schedule: Schedule, flow: Flow[..., Any]) -> None:
        due = utc_now()
        while True:
            if utc_now() >= due:
                try:
                    due = await self._look(schedule, flow)
                except OptimizationStoreError as error:
                    logger.warning("%s: the store is away; trying again in %s: %s", schedule.name, LOOK, error)
                    due = utc_now() + LOOK
                except Exception:  # whatever it was, the schedule goes on
                    logger.exception("%s could not be run; trying again in %s", schedule.name, LOOK)
                    due = utc_now() + LOOK
            await asyncio.sleep(max(0.0, min(due - utc_now(), LOOK).total_seconds()))

    async def _look(self, schedule: Schedule, flow: Flow[..., Any]) -> datetime:
        """Run it if it is due, and this node's to run; answers with when to look again."""
        assert schedule.every is not None
        nodes = await self._store.read_async(self._store.nodes)
        dead = await self._store.read_async(dead_on_this_host, self._store)
        whose = keeper(schedule, nodes, dead, time.time())
        if whose != self._node:
            self._tell(schedule, f"node {whose} runs it" if whose else "no node that keeps it gives a sign of life")
            return utc_now() + min(schedule.every, LOOK)
        if (run := self._running.get(schedule.name)) is None:
            due = due_at(schedule, await _last_started(schedule.name, self._tag), utc_now())
            if due > utc_now():
                self._tell(schedule, f"next at {due.astimezone():%Y-%m-%d %H:%M:%S}")
                return due
            run = asyncio.create_task(self._run(schedule, flow), name=f"o9-run-{schedule.name}")
            self._running[schedule.name] = run
            run.add_done_callback(lambda _: self._running.pop(schedule.name))
        return await asyncio.shield(run)  # which goes on where Prefect's server is replaced

    async def _run(self, schedule: Schedule, flow: Flow[..., Any]) -> datetime:
        """One flow run; answers with when the next is due."""
        began = utc_now()
        try:
            with tags("o9", self._tag):
                state = await run_flow_async(flow, parameters=dict(schedule.parameters), return_type="state")
        except Exception:  # what the flow itself raises becomes its state: this is Prefect's, or its server is away
            logger.exception("%s could not be run; trying again in %s", schedule.name, LOOK)
            return utc_now() + LOOK
        assert isinstance(state, State)
        now = utc_now()
        due = due_at(schedule, began, now)
        how = f"{state.name} after {(now - began).total_seconds():.1f} s".lower()
        why = f": {state.message.splitlines()[0]}" if state.message and not state.is_completed() else ""
        told = f"{how}{why}; next at {due.astimezone():%Y-%m-%d %H:%M:%S}"
        self._tell(schedule, told, logging.INFO if state.is_completed() else logging.ERROR)
        return due

    def _tell(self, schedule: Schedule, text: str, level: int = logging.INFO) -> None:
        if self._told.get(schedule.name) != text:
            self._told[schedule.name] = text
            logger.log(level, "%s: %s", schedule.name, text)


def store_tag(store: Store) -> str:
    """What a flow run is tagged with, so that the runs of other stores on the same Prefect server do not count."""
    return f"store:{store.name if '://' in store.name else store.url}"


async def _last_started(flow_name: str, tag: str) -> datetime | None:
    """When the newest run of a flow with this tag was started."""
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            flow_run_filter=FlowRunFilter(
                start_time=FlowRunFilterStartTime(is_null_=False), tags=FlowRunFilterTags(all_=[tag])
            ),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
    return runs[0].start_time if runs else None

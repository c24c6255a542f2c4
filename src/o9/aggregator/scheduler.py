"""Runs scheduled flows inside a node: each as a flow run that Prefect shows, and only one run of a flow at a time.

Contract. Owned by one event loop; the flows are async. Call `start` where Prefect's settings name a server; the runs go
there. A flow that fails is logged and runs again when it is due. An error in one schedule affects no other. `stop`
gives running flows STOP_GRACE_SECONDS to finish, and then cancels them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prefect import Flow, tags
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectSignal
from prefect.flow_engine import run_flow_async
from prefect.states import Crashed

from o9.aggregator.schedules import Schedule, due_at
from o9.blocks.store import store_here
from o9.flows.process import running_beside
from o9.mirror.removal import SCHEDULED_TAG, TAG
from o9.model.loops import ErrorBoundary, cancel_and_wait, periodic
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.store import queries
from o9.store.queue.leader_election import AcquireLeadership, ReleaseLeadership
from o9.store.store import Store

logger = logging.getLogger(__name__)
LOOK = timedelta(seconds=30)  # a clock that jumps, or a machine that slept, is noticed within that
STOP_GRACE_SECONDS = 10.0


class Scheduler:
    """`node` is whose claims these are. Raises where a flow cannot be loaded."""

    def __init__(self, store: Store, node: str, schedules: Sequence[Schedule]) -> None:
        self._store = store
        self._node = node
        self._kept = [(schedule, schedule.load()) for schedule in schedules]
        self._keeping: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[datetime]] = {}

    def start(self) -> None:
        """Begin; or go on with the server that Prefect's settings name now. What runs notices that for itself."""
        for task in self._keeping:
            task.cancel()
        self._keeping = [
            asyncio.create_task(self._keep(schedule, flow), name=f"o9-schedule-{schedule.name}")
            for schedule, flow in self._kept
        ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._keeping)
        self._keeping = []
        runs = set(self._running.values())
        late = (await asyncio.wait(runs, timeout=STOP_GRACE_SECONDS))[1] if runs else set()
        for run in late:
            logger.warning("%s is cut off: it was not done within %g s", run.get_name(), STOP_GRACE_SECONDS)
        await cancel_and_wait(*late, seconds=STOP_GRACE_SECONDS)

    async def _keep(self, schedule: Schedule, flow: Flow[..., Any]) -> None:
        due, boundary = utc_now() + schedule.after, ErrorBoundary(logger, f"running the schedule {schedule.name}")
        while True:
            if utc_now() >= due:
                due = utc_now() + LOOK
                with boundary:
                    due = await self._look(schedule, flow)
            await asyncio.sleep(max(0.0, min(due - utc_now(), LOOK).total_seconds()))

    async def _look(self, schedule: Schedule, flow: Flow[..., Any]) -> datetime:
        """Run it if it is due and no other node has claimed that; answers with when to look again."""
        assert schedule.every is not None
        if (going := self._running.get(schedule.name)) is not None:  # it goes on where Prefect's server is replaced
            return await asyncio.shield(going)
        due = due_at(schedule, await self._store.read_async(queries.leader, schedule.lease), utc_now())
        if due > utc_now():
            return due
        # While it runs, for as long as any lease: a node that is too busy to renew it every second loses it to nobody.
        seconds = max(schedule.every.total_seconds(), settings().lease_seconds)
        # By a name of its own: the node's would renew the claim after a restart.
        claim = AcquireLeadership(schedule.lease, f"{self._node} at {utc_now().isoformat()}", seconds)
        fence = await self._store.write_async(claim)
        if fence is None:  # another node was quicker, or the database's clock is behind
            return utc_now() + min(schedule.every, LOOK)
        run = asyncio.create_task(self._run(schedule, flow, claim, fence), name=f"o9-run-{schedule.name}")
        self._running[schedule.name] = run
        run.add_done_callback(lambda _: self._running.pop(schedule.name))
        return await asyncio.shield(run)

    async def _run(self, schedule: Schedule, flow: Flow[..., Any], claim: AcquireLeadership, fence: int) -> datetime:
        """One flow run; answers with when to look again."""
        began = utc_now()
        running_beside(flow)
        # While a run takes longer than its interval, no other node may begin the next.
        boundary = ErrorBoundary(logger, f"keeping the claim of {claim.name}")
        renew = periodic(lambda: self._store.write_async(claim), claim.lease_seconds / 2, boundary)
        keeping = asyncio.create_task(renew, name=f"o9-claim-{schedule.name}")
        try:
            with tags(TAG, SCHEDULED_TAG), store_here(self._store):
                state = await run_flow_async(flow, parameters=dict(schedule.parameters), return_type="state")
        except (asyncio.CancelledError, SystemExit, PrefectSignal) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                # Cut off: the next node begins it anew.
                await self._store.write_async(ReleaseLeadership(claim.name, fence))
                raise
            # Prefect lets these through, having recorded the end: the flow exits, or what it awaits was cancelled.
            state = Crashed(message=repr(error))
        except Exception:  # what the flow itself raises becomes its state: this is Prefect's, or its server is away
            logger.exception("%s could not be run; trying again in %s", schedule.name, LOOK)
            await self._store.write_async(ReleaseLeadership(claim.name, fence))
            return utc_now() + LOOK
        finally:
            keeping.cancel()
        assert isinstance(state, State)
        assert schedule.every is not None
        now = utc_now()
        due = max(now, began + schedule.every)
        await self._store.write_async(replace(claim, lease_seconds=(due - now).total_seconds()))
        how = f"{state.name} after {(now - began).total_seconds():.1f} s".lower()
        why = f": {state.message.splitlines()[0]}" if state.message and not state.is_completed() else ""
        level = logging.INFO if state.is_completed() else logging.ERROR
        logger.log(level, "%s: %s%s; next at %s", schedule.name, how, why, f"{due.astimezone():%Y-%m-%d %H:%M:%S}")
        return due

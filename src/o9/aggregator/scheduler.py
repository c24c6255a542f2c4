"""Runs scheduled flows inside a node, one run of a flow at a time, as flow runs that Prefect shows.

Contract. Owned by one event loop; the flows are async. The runs go to the server that Prefect's settings name when
`start` is called. A flow that fails is logged, and runs again when it is next due. An error in one schedule does not
affect others. `stop` gives running flows STOP_GRACE_SECONDS to finish, and then cancels them.
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
from o9.blocks.store import using_store
from o9.flows.process import runs_in_node
from o9.mirror.removal import SCHEDULED_TAG, TAG
from o9.model.loops import ErrorBoundary, cancel_and_wait, periodic
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.store import queries
from o9.store.queue.leader_election import AcquireLeadership, ReleaseLeadership
from o9.store.store import Store

logger = logging.getLogger(__name__)
LOOK = timedelta(seconds=30)  # longest wait; a clock that jumped, or a machine that slept, is noticed within it
STOP_GRACE_SECONDS = 10.0


class Scheduler:
    """Claims runs as `node`. Raises where a flow cannot be loaded."""

    def __init__(self, store: Store, node: str, schedules: Sequence[Schedule]) -> None:
        self._store = store
        self._node = node
        self._flows = [(schedule, schedule.load()) for schedule in schedules]
        self._loops: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[datetime]] = {}

    def start(self) -> None:
        """Start, or switch to the server that Prefect's settings name now; running flows reconnect by themselves."""
        for task in self._loops:
            task.cancel()
        self._loops = [
            asyncio.create_task(self._loop(schedule, flow), name=f"o9-schedule-{schedule.name}")
            for schedule, flow in self._flows
        ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._loops)
        self._loops = []
        runs = set(self._running.values())
        late = (await asyncio.wait(runs, timeout=STOP_GRACE_SECONDS))[1] if runs else set()
        for run in late:
            logger.warning("%s is cancelled: it did not finish within %g s", run.get_name(), STOP_GRACE_SECONDS)
        await cancel_and_wait(*late, seconds=STOP_GRACE_SECONDS)

    async def _loop(self, schedule: Schedule, flow: Flow[..., Any]) -> None:
        due, boundary = utc_now() + schedule.after, ErrorBoundary(logger, f"running the schedule {schedule.name}")
        while True:
            if utc_now() >= due:
                due = utc_now() + LOOK
                with boundary:
                    due = await self._run_if_due(schedule, flow)
            await asyncio.sleep(max(0.0, min(due - utc_now(), LOOK).total_seconds()))

    async def _run_if_due(self, schedule: Schedule, flow: Flow[..., Any]) -> datetime:
        """Run the flow if it is due and no other node has claimed the run. Returns when to look again."""
        assert schedule.every is not None
        if (running := self._running.get(schedule.name)) is not None:  # since before `start` was called again
            return await asyncio.shield(running)
        due = due_at(schedule, await self._store.read_async(queries.leader, schedule.lease), utc_now())
        if due > utc_now():
            return due
        # At least as long as other leases, so that a busy node does not lose it while the flow runs.
        seconds = max(schedule.every.total_seconds(), settings().lease_seconds)
        # Under a unique name: under the node's, a restarted node would renew the claim.
        claim = AcquireLeadership(schedule.lease, f"{self._node} at {utc_now().isoformat()}", seconds)
        fence = await self._store.write_async(claim)
        if fence is None:  # another node was faster, or the database's clock is behind
            return utc_now() + min(schedule.every, LOOK)
        run = asyncio.create_task(self._run(schedule, flow, claim, fence), name=f"o9-run-{schedule.name}")
        self._running[schedule.name] = run
        run.add_done_callback(lambda _: self._running.pop(schedule.name))
        return await asyncio.shield(run)

    async def _run(self, schedule: Schedule, flow: Flow[..., Any], claim: AcquireLeadership, fence: int) -> datetime:
        """Run the flow once. Returns when to look again."""
        began = utc_now()
        runs_in_node(flow)
        # No other node may begin the next run while this one takes longer than its interval.
        boundary = ErrorBoundary(logger, f"renewing the claim of {claim.name}")
        renewals = periodic(lambda: self._store.write_async(claim), claim.lease_seconds / 2, boundary)
        renewing = asyncio.create_task(renewals, name=f"o9-claim-{schedule.name}")
        try:
            with tags(TAG, SCHEDULED_TAG), using_store(self._store):
                state = await run_flow_async(flow, parameters=dict(schedule.parameters), return_type="state")
        except (asyncio.CancelledError, SystemExit, PrefectSignal) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                # Cancelled by `stop`: another node runs it again.
                await self._store.write_async(ReleaseLeadership(claim.name, fence))
                raise
            # The flow exited, or something it awaited was cancelled; Prefect has recorded that, and raises it.
            state = Crashed(message=repr(error))
        except Exception:  # Prefect's own: what the flow raises becomes its state
            logger.exception("%s could not be run; trying again in %s", schedule.name, LOOK)
            await self._store.write_async(ReleaseLeadership(claim.name, fence))
            return utc_now() + LOOK
        finally:
            renewing.cancel()
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

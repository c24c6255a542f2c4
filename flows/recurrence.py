"""Whether a scheduled run begins: policies for runs that are late, and for an earlier run that is not over.

Contract. Tags of a deployment, and so of its runs, name its policies: `missed:once`, `missed:none`, `overlap:replace`.
`decide_run` decides, purely; `skipped_state` asks Prefect for what it needs. With `overlap:replace`, a run cancels the
earlier ones of its series once it is recorded (a refused one cancels none), and begins when they have ended; a late one
is itself replaced. Only scheduled runs are concerned. Prefect's concurrency limit does the queueing and skipping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum

from prefect import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

from o9.lifecycle.control import Verb, control_of
from o9.mirror.interpretation import SKIPPED
from o9.model.errors import OptimizationStateError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

logger = logging.getLogger(__name__)
REPLACE = "overlap:replace"  # the tag
FOLLOWING_LIMIT = 50
LOOK_SECONDS = 0.1
END_SECONDS = 60.0  # longer than a lease, so that the runs of a dead machine have been released
REPLACEABLE = (OptimizationStatus.CREATED, OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING)
BY = "schedule"


class Missed(str, Enum):
    """Which runs start that could not start when they were due."""

    ALL = "all"
    ONCE = "once"
    NONE = "none"

    @property
    def tag(self) -> str:
        return f"missed:{self.value}"

    @classmethod
    def of(cls, tags: Collection[str]) -> Missed:
        return next((each for each in cls if each.tag in tags), cls.ALL)


class ScheduleReason(str, Enum):
    """Why a scheduled run begins, or does not."""

    DUE = "it is due"
    LATER_ONE_DUE = "a later run of the schedule is due already, and of missed runs only the last one starts"
    MISSED = "the next run is nearer than its own time, and missed runs do not start"


def decide_run(policy: Missed, expected: datetime, following: Sequence[datetime], now: datetime) -> ScheduleReason:
    """expected: when the run was due. following: when later runs are or were due."""
    if policy is Missed.ALL or not following:
        return ScheduleReason.DUE
    first = min(following)
    if policy is Missed.ONCE:
        return ScheduleReason.LATER_ONE_DUE if first <= now else ScheduleReason.DUE
    return ScheduleReason.MISSED if now - expected > (first - expected) / 2 else ScheduleReason.DUE


async def skipped_state(flow_run: FlowRun) -> State[None] | None:
    """The state in which a run ends that its policy skips; None for one that begins."""
    if not flow_run.auto_scheduled:
        return None
    policy = Missed.of(flow_run.tags)
    if policy is not Missed.ALL and flow_run.expected_start_time is not None:
        following = await _following(flow_run, flow_run.expected_start_time)
        reason = decide_run(policy, flow_run.expected_start_time, following, utc_now())
        if reason is not ScheduleReason.DUE:
            return Cancelled(name=SKIPPED, message=f"Nothing was submitted: {reason.value}")
    return None


async def _following(flow_run: FlowRun, expected: datetime) -> list[datetime]:
    later = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(
            any_=[flow_run.deployment_id] if flow_run.deployment_id else []
        ),
        expected_start_time=filters.FlowRunFilterExpectedStartTime(after_=expected),
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=later, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=FOLLOWING_LIMIT
        )
    return [
        run.expected_start_time
        for run in runs
        if run.auto_scheduled and run.expected_start_time is not None and run.expected_start_time > expected
    ]


async def replace_earlier_runs(store: Store, flow_run: FlowRun, state: OptimizationState) -> None:
    """Under the policy `replace`, cancel the queued and running optimizations of the series, except the latest.

    Then wait until they have ended. The latest may be another one than `state`, if that begins late. Paused ones stay.
    """
    if not flow_run.auto_scheduled or REPLACE not in flow_run.tags:
        return
    control, series = control_of(store), state.metadata.get("series", "")
    pages = [await store.read_async(queries.page, Filter(status=each, series=series)) for each in REPLACEABLE]
    found = [each for page in pages for each in page.items]
    latest = max(found, key=_scheduled_at, default=state)
    replaced = [each.optimization_id for each in found if _scheduled_at(each) < _scheduled_at(latest)]
    for name in replaced:
        with suppress(OptimizationStateError):  # it has ended since, or is about to
            await control.carry_out(Verb.CANCEL, name, BY)
            logger.info("%s is cancelled, because %s replaces it", name, latest.optimization_id)
    if latest.optimization_id != state.optimization_id:
        return
    try:
        async with asyncio.timeout(END_SECONDS):
            for name in replaced:
                await _wait_for_end(store, name)
    except TimeoutError:
        logger.warning("%s begins, though what it replaces has not ended in %g s", state.optimization_id, END_SECONDS)


async def _wait_for_end(store: Store, optimization_id: str) -> None:
    while True:
        holding = await store.read_async(queries.holding, optimization_id)
        if holding is None or OptimizationStatus(holding.status) not in REPLACEABLE:
            return
        await asyncio.sleep(LOOK_SECONDS)


def _scheduled_at(state: OptimizationState) -> str:
    moment: str = state.metadata.get("scheduled_at", "")
    return moment

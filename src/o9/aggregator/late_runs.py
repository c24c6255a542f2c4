"""Late runs: scheduled runs of O9's flows that Prefect expected to have started."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from o9.aggregator.schedules import SCHEDULES
from o9.alerts.rules.rules import SubjectFacts

LIMIT = 100
_LATE = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])))
_OURS = FlowFilter(name=FlowFilterName(any_=[schedule.flow_name for schedule in SCHEDULES]))


async def late_runs(now: datetime) -> list[SubjectFacts]:
    """By deployment, how late the first of its late runs is. Asks the server that Prefect's settings name.

    Raises what Prefect's client raises where the server is away.
    """
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=_OURS, flow_run_filter=_LATE, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=LIMIT
        )
        first: dict[UUID, datetime] = {}
        for run in runs:
            if run.deployment_id is not None and run.expected_start_time is not None:
                first.setdefault(run.deployment_id, run.expected_start_time)
        facts = []
        for deployment_id, expected in first.items():
            try:
                deployment = await client.read_deployment(deployment_id)
            except ObjectNotFound:  # deleted meanwhile
                continue
            late = max(0.0, (now - expected).total_seconds())
            schedule = f"the deployment {deployment.name}"
            facts.append(SubjectFacts(str(deployment_id), {"late_seconds": late}, {"schedule": schedule}))
    return facts

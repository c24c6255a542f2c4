"""Late runs: scheduled runs of O9's flows that Prefect expected to have started."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from prefect import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.sorting import FlowRunSort

from o9.aggregator.prefect_server import PrefectServer, prefect_client_settings
from o9.aggregator.schedules import SCHEDULES
from o9.alerts.rules.rules import SubjectFacts

LIMIT = 100
_LATE = filters.FlowRunFilter(state=filters.FlowRunFilterState(name=filters.FlowRunFilterStateName(any_=["Late"])))
_OURS = filters.FlowFilter(name=filters.FlowFilterName(any_=[schedule.flow_name for schedule in SCHEDULES]))


async def late_runs(server: PrefectServer, now: datetime) -> list[SubjectFacts]:
    """How late the earliest late run of each deployment is. Raises Prefect's own errors where the server is away."""
    with prefect_client_settings(server):
        async with get_client() as client:
            runs = await client.read_flow_runs(
                flow_filter=_OURS, flow_run_filter=_LATE, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=LIMIT
            )
            first: dict[UUID, datetime] = {}
            for run in runs:
                if run.deployment_id is not None and run.expected_start_time is not None:
                    first.setdefault(run.deployment_id, run.expected_start_time)
            known = filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=list(first)))
            deployments = await client.read_deployments(deployment_filter=known) if first else []
    return [
        SubjectFacts(
            str(deployment.id),
            {"late_seconds": max(0.0, (now - first[deployment.id]).total_seconds())},
            {"schedule": f"the deployment {deployment.name}"},
        )
        for deployment in deployments
    ]

"""Recurring optimizations: the deployments of `optimization-lifecycle` on a Prefect server that have a schedule.

Contract. The record of a schedule is Prefect's alone; nothing of it is kept in the store. Each function asks the server
that Prefect's settings name. A NAME is a deployment's, with or without `optimization-lifecycle/` before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect import get_client, schedules
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from o9.aggregator.deployments import LIFECYCLE, called_by, may_recur, recurring_spec
from o9.model.errors import OptimizationNotFoundError
from o9.text.format import duration

PAGE = 200


@dataclass(frozen=True)
class Recurring:
    """One deployment with its schedules. `when`: each in words, with its time zone. `active`: whether any creates runs.

    next_at: when the next run starts; None where none is due. last: the newest run's state as Prefect names it.
    """

    name: str
    series: str | None
    when: tuple[str, ...]
    active: bool
    next_at: datetime | None
    last: str | None


async def recurring() -> list[Recurring]:
    """All of them, by name."""
    found: list[Recurring] = []
    async with get_client() as client:
        ours = FlowFilter(name=FlowFilterName(any_=[LIFECYCLE.flow_name]))
        offset = 0
        while page := await client.read_deployments(flow_filter=ours, limit=PAGE, offset=offset):
            found += [await _described(client, each) for each in page if each.schedules]
            offset += len(page)
    return sorted(found, key=lambda each: each.name)


async def add_schedule(name: str, when: schedules.Schedule) -> Recurring:
    """One more schedule for a deployment; its runs are a series from now on.

    Raises OptimizationNotFoundError where there is no such deployment, OptimizationValidationError where its
    specification has a fixed id.
    """
    async with get_client() as client:
        deployment = await _read(client, name)
        spec: Mapping[str, Any] = deployment.parameters.get("spec") or {}
        may_recur(spec)
        if spec:
            parameters = deployment.parameters | {"spec": recurring_spec(spec, when, called_by(spec))}
            await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
        await client.create_deployment_schedules(deployment.id, _as_prefects(when))
        return await _described(client, await _read(client, name))


async def set_active(name: str, active: bool) -> Recurring:
    """Pause all schedules of a deployment, or let them go on. Raises OptimizationNotFoundError where it has none."""
    async with get_client() as client:
        deployment = await _read_scheduled(client, name)
        for each in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, each.id, active=active)
        return await _described(client, await _read(client, name))


async def remove_schedules(name: str) -> int:
    """Of a deployment, which stays. Answers how many. Raises OptimizationNotFoundError where it has none."""
    async with get_client() as client:
        deployment = await _read_scheduled(client, name)
        for each in deployment.schedules:
            await client.delete_deployment_schedule(deployment.id, each.id)
        return len(deployment.schedules)


async def _read(client: PrefectClient, name: str) -> DeploymentResponse:
    whole = name if "/" in name else f"{LIFECYCLE.flow_name}/{name}"
    try:
        return await client.read_deployment_by_name(whole)
    except ObjectNotFound:
        raise OptimizationNotFoundError(
            f"there is no deployment {whole!r}: `o9 schedule list` shows those that recur, and `o9 deploy FILE.yaml` "
            "makes one"
        ) from None


async def _read_scheduled(client: PrefectClient, name: str) -> DeploymentResponse:
    deployment = await _read(client, name)
    if not deployment.schedules:
        raise OptimizationNotFoundError(
            f"the deployment {name!r} has no schedule: `o9 schedule create {name} --cron …` adds one"
        )
    return deployment


async def _described(client: PrefectClient, deployment: DeploymentResponse) -> Recurring:
    spec: Mapping[str, Any] = deployment.parameters.get("spec") or {}
    waiting = await _run(client, deployment, FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, [StateType.SCHEDULED])
    begun: list[StateType] = [kind for kind in StateType if kind is not StateType.SCHEDULED]
    newest = await _run(client, deployment, FlowRunSort.START_TIME_DESC, begun)
    return Recurring(
        name=deployment.name,
        series=dict(spec.get("metadata") or {}).get("series"),
        when=tuple(_in_words(each) for each in deployment.schedules),
        active=any(each.active for each in deployment.schedules) and not deployment.paused,
        next_at=waiting.next_scheduled_start_time if waiting else None,
        last=newest.state_name if newest else None,
    )


async def _run(
    client: PrefectClient, deployment: DeploymentResponse, sort: FlowRunSort, kinds: list[StateType]
) -> FlowRun | None:
    runs = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))),
        sort=sort,
        limit=1,
    )
    return runs[0] if runs else None


def _in_words(of: DeploymentSchedule) -> str:
    """`0 22 * * 1-5 America/New_York`, `every 15m`, or an RRULE; a paused one says so."""
    schedule = of.schedule
    if isinstance(schedule, CronSchedule):
        text = f"{schedule.cron} {schedule.timezone or 'UTC'}"
    elif isinstance(schedule, IntervalSchedule):
        text = f"every {duration(schedule.interval)}"
    else:
        assert isinstance(schedule, RRuleSchedule)
        text = f"{schedule.rrule} {schedule.timezone or 'UTC'}"
    return text if of.active else f"{text} (paused)"


def _as_prefects(when: schedules.Schedule) -> list[DeploymentScheduleCreate]:
    zone = when.timezone or "UTC"
    schedule: CronSchedule | IntervalSchedule | RRuleSchedule
    if when.cron is not None:
        schedule = CronSchedule(cron=when.cron, timezone=zone)
    elif when.interval is not None:
        schedule = IntervalSchedule(interval=when.interval, timezone=zone)
    else:
        schedule = RRuleSchedule(rrule=when.rrule or "", timezone=zone)
    return [DeploymentScheduleCreate(schedule=schedule, active=True)]

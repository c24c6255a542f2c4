"""Recurring optimizations: the deployments of `optimization-lifecycle` on a Prefect server that have a schedule.

Contract. The record of a schedule is Prefect's alone; nothing of it is kept in the store. Each function asks the server
that Prefect's settings name. A NAME is a deployment's, with or without `optimization-lifecycle/` before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

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
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound

from o9.aggregator.deployments import FROM_FILE, LIFECYCLE, may_recur, named_series, recurring_spec
from o9.model.errors import OptimizationNotFoundError, OptimizationValidationError
from o9.model.templates import series_name
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
    async with get_client() as client:
        found = await asyncio.gather(
            *(_described(client, each) for each in await _deployments(client) if each.schedules)
        )
    return sorted(found, key=lambda each: each.name)


async def check_names(made: RunnerDeployment, spec: Mapping[str, Any], *, replace: bool) -> list[str]:
    """The other deployments that make runs of the same series, because `spec` names it.

    Raises OptimizationValidationError where the name of an optimization alone would mix its runs with those of another,
    and, unless `replace`, where its deployment would take the place of one that another file made, or that searches for
    another objective.
    """
    async with get_client() as client:
        there = {each.name: each for each in await _deployments(client)}
    if (before := there.pop(made.name, None)) is not None and not replace:
        old, new = _made_from(before.tags), _made_from(made.tags)
        if old is None or new is None:
            old, new = repr(series_name(_spec(before))), repr(series_name(spec))
        if old == new:
            old, new = _searched(_spec(before)), _searched(spec)
        if old != new:
            problem = f"the deployment {made.name!r} is that of {old}, not of {new}"
            raise OptimizationValidationError("name", f"{problem}: give another --name, or --replace to replace it")
    others = {name: _spec(each) for name, each in there.items()}
    return _sharing(others, spec, named_series(made.parameters["spec"]))


def _made_from(tags: Collection[str]) -> str | None:
    """The file that made a deployment with these tags, if one did."""
    return next((tag.removeprefix(FROM_FILE) for tag in tags if tag.startswith(FROM_FILE)), None)


def _searched(spec: Mapping[str, Any]) -> str:
    metadata = spec.get("metadata", {})
    kind = "objective" if metadata.get("objective") else "strategy"
    return f"the {kind} {metadata.get(kind)!r}"


def _sharing(there: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any], series: str | None) -> list[str]:
    """The names of `there` that are of the series. Raises OptimizationValidationError where `spec` does not name it."""
    others = sorted(name for name, other in there.items() if series is not None and named_series(other) == series)
    if others and named_series(spec) is None:
        problem = f"{series!r} is the series of {', '.join(others)}; name it to share it, or name another one"
        raise OptimizationValidationError("metadata.series", problem)
    return others


async def add_schedule(name: str, when: schedules.Schedule) -> Recurring:
    """One more schedule for a deployment; its runs are a series from now on.

    Raises OptimizationNotFoundError where there is no such deployment, OptimizationValidationError where its
    specification has a fixed id, or which has that schedule.
    """
    added = DeploymentScheduleCreate.from_schedule(when)
    async with get_client() as client:
        deployment = await _read(client, name)
        for each in deployment.schedules:
            if _rule(each.schedule) == _rule(added.schedule):
                problem = f"{deployment.name!r} has {_in_words(each)!r} already, and each date would have two runs"
                remedy = f"give another, or remove its schedules first (`o9 schedule delete {name}`)"
                raise OptimizationValidationError("schedule", f"{problem}: {remedy}")
        spec = _spec(deployment)
        may_recur(spec)
        if spec:
            made = recurring_spec(spec, when, series_name(spec))
            there = {each.name: _spec(each) for each in await _deployments(client) if each.id != deployment.id}
            _sharing(there, spec, named_series(made))
            parameters = deployment.parameters | {"spec": made}
            await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
        await client.create_deployment_schedules(deployment.id, [added])
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


async def _deployments(client: PrefectClient) -> list[DeploymentResponse]:
    """Those of `optimization-lifecycle`."""
    ours = FlowFilter(name=FlowFilterName(any_=[LIFECYCLE.flow_name]))
    found: list[DeploymentResponse] = []
    while page := await client.read_deployments(flow_filter=ours, limit=PAGE, offset=len(found)):
        found += page
    return found


def _spec(deployment: DeploymentResponse) -> Mapping[str, Any]:
    return deployment.parameters.get("spec") or {}


async def _described(client: PrefectClient, deployment: DeploymentResponse) -> Recurring:
    active = any(each.active for each in deployment.schedules) and not deployment.paused
    soonest, newest = FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, FlowRunSort.START_TIME_DESC
    waiting = await _first_run(client, deployment.id, soonest, [StateType.SCHEDULED]) if active else None
    last = await _first_run(client, deployment.id, newest, [each for each in StateType if each != StateType.SCHEDULED])
    return Recurring(
        name=deployment.name,
        series=named_series(_spec(deployment)),
        when=tuple(map(_in_words, deployment.schedules)),
        active=active,
        next_at=waiting.next_scheduled_start_time if waiting else None,
        last=last.state_name if last else None,
    )


async def _first_run(
    client: PrefectClient, deployment_id: UUID, sort: FlowRunSort, kinds: list[StateType]
) -> FlowRun | None:
    runs = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))),
        sort=sort,
        limit=1,
    )
    return runs[0] if runs else None


def _rule(schedule: SCHEDULE_TYPES) -> dict[str, Any]:
    given = schedule.model_dump(include={"cron", "interval", "rrule", "timezone"})
    return given | {"timezone": given.get("timezone") or "UTC"}


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

"""Recurring optimizations: the deployments of `optimization-lifecycle` on a Prefect server that have a schedule.

Contract. Prefect alone records schedules; the store holds nothing of them. Each function calls the server that
Prefect's settings name. `name` is a deployment's, with or without `optimization-lifecycle/` before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import get_client, schedules
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from o9.aggregator.deployments import FROM_FILE, LIFECYCLE, check_may_recur, named_series, recurring_spec, rule_of
from o9.mirror.reconciler import all_pages
from o9.model.errors import OptimizationNotFoundError, OptimizationValidationError
from o9.model.templates import series_name
from o9.text.format import duration

# Names of states in which a run has another start time than its due date: that of its next attempt.
WAITING = ("AwaitingConcurrencySlot", "AwaitingRetry")


@dataclass(frozen=True)
class Recurring:
    """A deployment with its schedules.

    when: each schedule as text, with its time zone. active: whether any of them creates runs. next_at: when the next
    run starts, if one is scheduled. last: Prefect's name for the state of the newest run, if there was one.
    """

    name: str
    series: str | None
    when: tuple[str, ...]
    active: bool
    next_at: datetime | None
    last: str | None


async def recurring() -> list[Recurring]:
    """Return all of them, sorted by name."""
    async with get_client() as client:
        scheduled = [each for each in await _deployments(client) if each.schedules]
        found = await asyncio.gather(*(_described(client, each) for each in scheduled))
    return sorted(found, key=lambda each: each.name)


async def deployed() -> dict[str, DeploymentResponse]:
    """Return all deployments of `optimization-lifecycle`, by name."""
    async with get_client() as client:
        return {each.name: each for each in await _deployments(client)}


def removed_schedules(made: RunnerDeployment, before: DeploymentResponse | None) -> list[str]:
    """Return the schedules that the deployment `before` loses to `made`, as text."""
    kept = [rule_of(each.schedule) for each in made.schedules or [] if each.schedule is not None]
    return [text_of(each) for each in (before.schedules if before else []) if rule_of(each.schedule) not in kept]


def check_names(
    made: RunnerDeployment, spec: Mapping[str, Any], there: Mapping[str, DeploymentResponse], *, replace: bool
) -> list[str]:
    """Return the other deployments whose runs belong to the same series, because `spec` names it.

    there: what `deployed` returned. Raises OptimizationValidationError where only the optimization's name puts its runs
    into the series of another deployment, and, unless `replace`, where the deployment would overwrite one made from
    another file or for another objective.
    """
    if (before := there.get(made.name)) is not None and not replace:
        old, new = _made_from(before.tags), _made_from(made.tags)
        if old is None or new is None:
            old, new = repr(series_name(_spec(before))), repr(series_name(spec))
        if old == new:
            old, new = _optimized(_spec(before)), _optimized(spec)
        if old != new:
            problem = f"the deployment {made.name!r} belongs to {old}, not to {new}"
            raise OptimizationValidationError("name", f"{problem}: give another --name, or --replace to overwrite it")
    others = {name: _spec(each) for name, each in there.items() if name != made.name}
    return _sharing(others, spec, named_series(made.parameters["spec"]))


def _made_from(tags: Collection[str]) -> str | None:
    """The file that a deployment with these tags was made from, if any."""
    return next((tag.removeprefix(FROM_FILE) for tag in tags if tag.startswith(FROM_FILE)), None)


def _optimized(spec: Mapping[str, Any]) -> str:
    metadata = spec.get("metadata", {})
    kind = "objective" if metadata.get("objective") else "strategy"
    return f"the {kind} {metadata.get(kind)!r}"


def _sharing(there: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any], series: str | None) -> list[str]:
    """Which of the deployments `there` share the series. Raises OptimizationValidationError unless `spec` names it."""
    others = sorted(name for name, other in there.items() if series is not None and named_series(other) == series)
    if others and named_series(spec) is None:
        problem = f"{series!r} is already used by {', '.join(others)}: name it to share it, or name another series"
        raise OptimizationValidationError("metadata.series", problem)
    return others


async def add_schedule(name: str, when: schedules.Schedule) -> Recurring:
    """Add a schedule to a deployment, and make its runs a series.

    Raises OptimizationNotFoundError for an unknown deployment, OptimizationValidationError where it has no
    specification, or one with a fixed id, or where it has the same schedule already.
    """
    added = DeploymentScheduleCreate.from_schedule(when)
    async with get_client() as client:
        deployment = await _read(client, name)
        for each in deployment.schedules:
            if rule_of(each.schedule) == rule_of(added.schedule):
                problem = f"{deployment.name!r} has {text_of(each)!r} already, so each date would have two runs"
                remedy = f"give another one, or remove its schedules first (`o9 schedule delete {name}`)"
                raise OptimizationValidationError("schedule", f"{problem}: {remedy}")
        if not (spec := _spec(deployment)):
            problem = f"the deployment {deployment.name!r} has no specification, so each run would fail"
            raise OptimizationValidationError("spec", f"{problem}: deploy a file, `o9 deploy FILE.yaml --cron …`")
        check_may_recur(spec)
        made = recurring_spec(spec, added.schedule, series_name(spec))
        there = {each.name: _spec(each) for each in await _deployments(client) if each.id != deployment.id}
        _sharing(there, spec, named_series(made))
        parameters = deployment.parameters | {"spec": made}
        await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
        await client.create_deployment_schedules(deployment.id, [added])
        return await _described(client, await _read(client, name))


async def set_active(name: str, active: bool) -> Recurring:
    """Pause or resume all schedules of a deployment; a pause removes the runs that have not begun.

    Raises OptimizationNotFoundError where it has none.
    """
    async with get_client() as client:
        deployment = await _read_scheduled(client, name)
        for each in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, each.id, active=active)
        if not active:
            await _cancel_waiting(client, deployment.id, "O9: its schedule was paused")
        elif deployment.paused:  # as a whole, by Prefect's UI or at the end of `o9 deploy --serve`
            await client.resume_deployment(deployment.id)
        return await _described(client, await _read(client, name))


async def remove_schedules(name: str) -> int:
    """Remove all schedules of a deployment, with the runs that have not begun; return how many schedules that were.

    Raises OptimizationNotFoundError where it has none.
    """
    async with get_client() as client:
        deployment = await _read_scheduled(client, name)
        for each in deployment.schedules:
            await client.delete_deployment_schedule(deployment.id, each.id)
        await _cancel_waiting(client, deployment.id, "O9: its schedule was deleted")
        return len(deployment.schedules)


async def _cancel_waiting(client: PrefectClient, deployment_id: UUID, message: str) -> None:
    """Cancel the runs that wait for a slot or a retry; Prefect itself has deleted the Scheduled and Late ones."""
    waiting = _runs_of(deployment_id, [StateType.SCHEDULED])
    for run in await all_pages(client.read_flow_runs, flow_run_filter=waiting):
        if run.auto_scheduled and (run.run_count == 0 or run.state_name == "AwaitingRetry"):
            await client.set_flow_run_state(run.id, Cancelled(message=message))


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
    ours = filters.FlowFilter(name=filters.FlowFilterName(any_=[LIFECYCLE.flow_name]))
    return await all_pages(client.read_deployments, flow_filter=ours)


def _spec(deployment: DeploymentResponse) -> Mapping[str, Any]:
    return deployment.parameters.get("spec") or {}


async def _described(client: PrefectClient, deployment: DeploymentResponse) -> Recurring:
    active = any(each.active for each in deployment.schedules) and not deployment.paused
    soonest, newest = FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, FlowRunSort.START_TIME_DESC
    waiting = _runs_of(deployment.id, [StateType.SCHEDULED], but=WAITING)
    begun = _runs_of(deployment.id, [each for each in StateType if each != StateType.SCHEDULED])
    scheduled = await _first_run(client, waiting, soonest) if active else None
    last = await _first_run(client, begun, newest)
    return Recurring(
        name=deployment.name,
        series=named_series(_spec(deployment)),
        when=tuple(text_of(each) if active else _text_of(each.schedule) for each in deployment.schedules),
        active=active,
        next_at=scheduled.next_scheduled_start_time if scheduled else None,
        last=last.state_name if last else None,
    )


async def _first_run(client: PrefectClient, these: filters.FlowRunFilter, sort: FlowRunSort) -> FlowRun | None:
    found = await client.read_flow_runs(flow_run_filter=these, sort=sort, limit=1)
    return found[0] if found else None


def _runs_of(deployment_id: UUID, states: list[StateType], but: Sequence[str] = ()) -> filters.FlowRunFilter:
    """The filter for runs in `states`, except those in a state with a name of `but`."""
    name = filters.FlowRunFilterStateName(not_any_=list(but)) if but else None
    return filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[deployment_id]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=states), name=name),
    )


def text_of(deployed: DeploymentSchedule | DeploymentScheduleCreate) -> str:
    """`0 22 * * 1-5 America/New_York`, `every 15 min`, or an RRULE, with `(paused)` where it is."""
    text = _text_of(deployed.schedule)
    return text if deployed.active else f"{text} (paused)"


def _text_of(schedule: SCHEDULE_TYPES) -> str:
    if isinstance(schedule, CronSchedule):
        return f"{schedule.cron} {schedule.timezone or 'UTC'}"
    if isinstance(schedule, IntervalSchedule):
        return f"every {duration(schedule.interval)}"
    assert isinstance(schedule, RRuleSchedule)
    return f"{schedule.rrule} {schedule.timezone or 'UTC'}"

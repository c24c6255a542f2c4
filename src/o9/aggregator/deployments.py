"""Deployments of O9's flows: all of them, or one optimization, for the workers of a pool or for this process.

Contract. Entrypoints are modules, so that a worker can import them in any folder; nothing is fetched. The list of flows
is `o9.aggregator.schedules.SCHEDULES`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import yaml
from prefect import get_client, schedules, serve
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import InvalidNameError, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from pydantic import TypeAdapter

from o9.aggregator.schedules import SCHEDULES, TAGS, Schedule
from o9.flows.form import offer_objectives
from o9.flows.process import release
from o9.flows.recurrence import REPLACE, Missed
from o9.model.errors import OptimizationCoordinationError, OptimizationValidationError
from o9.model.settings import STORE_BLOCK, settings
from o9.model.templates import series_name, with_time_zone
from o9.model.urls import public_url
from o9.strategies.registry import objectives_found_anywhere

logger = logging.getLogger(__name__)
POOL = "o9"
FROM_FILE = "file:"  # the prefix of the tag that names the file a deployment was made from
LIFECYCLE = SCHEDULES[0]
SHORTEST = timedelta(minutes=1)
OVERLAP = {"queue": ConcurrencyLimitStrategy.ENQUEUE, "skip": ConcurrencyLimitStrategy.CANCEL_NEW}


async def recurrence(
    cron: str | None = None, every: timedelta | None = None, rrule: str | None = None, timezone: str = "UTC"
) -> schedules.Schedule | None:
    """The Prefect schedule for one of the first three arguments; None if none of them is given.

    Raises OptimizationValidationError for an invalid schedule, and for one without a future date or with two dates
    within a minute.
    """
    given = {"cron": cron, "interval": every, "rrule": rrule}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    if timezone not in available_timezones():
        raise OptimizationValidationError("timezone", f"{timezone!r} is not a time zone such as America/New_York")
    if every is not None and every < SHORTEST:
        raise OptimizationValidationError("every", "an interval must be at least 1m")
    try:
        when = schedules.Schedule(interval=every, cron=cron, rrule=rrule, timezone=timezone)
        rule = DeploymentScheduleCreate.from_schedule(when).schedule  # a frequent RRULE gets a recent DTSTART
    except ValueError as error:
        raise OptimizationValidationError("schedule", str(error).splitlines()[0]) from None
    from prefect.server.schemas import schedules as on_the_server  # takes a second

    as_scheduled = TypeAdapter[Any](on_the_server.SCHEDULE_TYPES).validate_python(rule.model_dump())
    try:
        dates = await as_scheduled.get_dates(n=3)
    except ValueError:  # croniter found none within fifty years
        dates = []
    if not dates:
        raise OptimizationValidationError("schedule", f"{cron or rrule!r} never fires")
    if any(later - earlier < SHORTEST for earlier, later in pairwise(dates)):
        raise OptimizationValidationError(
            "schedule", f"{cron or rrule!r} fires more than once a minute; give it a longer interval"
        )
    return when


def all_flows() -> list[RunnerDeployment]:
    """One deployment of each flow, under the flow's name; recurring ones have their schedule, and one run at a time."""
    # A killed run frees its place after a minute (Prefect's default is five): two runs at once do no harm.
    one_at_a_time = ConcurrencyLimitConfig(
        limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW, grace_period_seconds=60
    )
    return [
        _deployment(
            schedule,
            schedule.flow_name,
            interval=schedule.every,
            parameters=dict(schedule.parameters),
            concurrency_limit=None if schedule.every is None else one_at_a_time,
        )
        for schedule in SCHEDULES
    ]


def of_optimization(
    spec: Mapping[str, Any],
    when: schedules.Schedule | None,
    *,
    overlap: str | None = None,
    missed: str | None = None,
    name: str | None = None,
    file: str | None = None,
    before: DeploymentResponse | None = None,
) -> RunnerDeployment:
    """The deployment of one optimization, with its specification as the default of `spec`; it recurs at `when`.

    overlap: what a run does that is due while the previous one still runs: `queue` (default), `skip` it, `replace` the
    previous one, or run `together` with it. missed: which runs start that could not start when they were due: `all`
    (default), the last one (`once`), or `none`. name: of the deployment; None: `name_of(spec)`. file: the file that it
    is made from, for its tag. before: the deployment that it updates, which keeps its schedules and policies where none
    are given, and stays paused. Raises OptimizationValidationError.
    """
    recurs = _schedules(when, before)
    if recurs:
        check_may_recur(spec)
    overlap = overlap or ("queue" if before is None else _overlap_of(before))
    missed = missed or Missed.of(before.tags if before else ()).value
    if overlap not in (*OVERLAP, "replace", "together"):
        raise OptimizationValidationError("overlap", f"{overlap!r} is not queue, skip, replace or together")
    if missed not in (*Missed,):
        raise OptimizationValidationError("missed", f"{missed!r} is not all, once or none")
    tags = [Missed(missed).tag] * (missed != Missed.ALL) + [REPLACE] * (overlap == "replace")
    tags += [] if file is None else [file_tag(file)]
    called = series_name(spec)
    limit = OVERLAP.get(overlap)
    return _deployment(
        LIFECYCLE,
        name or name_of(spec),
        parameters={"spec": recurring_spec(spec, recurs[0].schedule, called) if recurs else as_in_the_form(spec)},
        description=str(spec.get("description") or f"{called}, by O9."),
        concurrency_limit=None if limit is None else ConcurrencyLimitConfig(limit=1, collision_strategy=limit),
        schedules=recurs,
        paused=before is not None and before.paused,
        tags=[*TAGS, *tags],
    )


def _schedules(when: schedules.Schedule | None, before: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """`when` alone, paused if `before` has it paused; without `when`, all of `before`."""
    fields = set(DeploymentScheduleCreate.model_fields)
    there = before.schedules if before else []
    made = [DeploymentScheduleCreate(**each.model_dump(include=fields)) for each in there]
    if when is None:
        return made
    given = DeploymentScheduleCreate.from_schedule(when)
    return [each for each in made if rule_of(each.schedule) == rule_of(given.schedule)] or [given]


def _overlap_of(before: DeploymentResponse) -> str:
    if REPLACE in before.tags:
        return "replace"
    options = before.concurrency_options if before.global_concurrency_limit else None
    return next((name for name, each in OVERLAP.items() if options and options.collision_strategy is each), "together")


def rule_of(schedule: SCHEDULE_TYPES) -> dict[str, Any]:
    """What makes two schedules the same one."""
    given = schedule.model_dump(include={"cron", "interval", "rrule", "timezone"})
    return given | {"timezone": given.get("timezone") or "UTC"}


def file_tag(path: str) -> str:
    """The tag with the names of the file and its folder, which are the same in every checkout."""
    found = Path(path).resolve()
    return f"{FROM_FILE}{found.parent.name}/{found.name}"


def recurring_spec(spec: Mapping[str, Any], schedule: SCHEDULE_TYPES, series: str) -> dict[str, Any]:
    """The specification for the runs of a schedule; dates in its templates use the schedule's time zone."""
    made: dict[str, Any] = with_time_zone(as_in_the_form(spec, series), rule_of(schedule)["timezone"])
    return made


def check_may_recur(spec: Mapping[str, Any]) -> None:
    """Raises OptimizationValidationError for a fixed id, and for a series name with a date in it."""
    if spec.get("optimization_id") is not None:
        raise OptimizationValidationError(
            "optimization_id", "every run of the schedule would submit the same one; leave it out"
        )
    if "{{" in str(named_series(spec)):
        raise OptimizationValidationError(
            "metadata.series", "every run would be a series of its own; put the date into the name"
        )


def named_series(spec: Mapping[str, Any]) -> str | None:
    series: str | None = spec.get("metadata", {}).get("series")
    return series


def as_in_the_form(spec: Mapping[str, Any], series: str | None = None) -> dict[str, Any]:
    """`spec` with the search space as a list, which Prefect's form can draw, and with `series` if it names none."""
    made, metadata = dict(spec), dict(spec.get("metadata", {}))
    if series is not None:
        metadata.setdefault("series", series)
    if isinstance(space := metadata.get("search_space"), Mapping):
        metadata["search_space"] = [{"name": name, **parameter} for name, parameter in space.items()]
    return made | {"metadata": metadata}


def _deployment(of: Schedule, name: str, **more: Any) -> RunnerDeployment:
    more = {"tags": list(TAGS), "version": release()} | more
    try:
        made = of.load().to_deployment(name=name, entrypoint_type=EntrypointType.MODULE_PATH, **more)
    except InvalidNameError as error:
        raise OptimizationValidationError("name", str(error)) from None
    assert isinstance(made, RunnerDeployment)
    if definitions := made._parameter_openapi_schema.definitions:
        offer_objectives(definitions, _objectives_offered())
    return made


def _objectives_offered() -> list[str]:
    """Names of objectives that workers find, too; those that the allowed modules register included."""
    allowed = settings().allowed_imports
    for module in allowed or ():
        try:
            import_module(module)
        except Exception as error:  # noqa: BLE001 - a user's module, which may be installed on the workers only
            logger.warning("the form offers no objectives of %s, which cannot be imported here: %s", module, error)
    return objectives_found_anywhere(allowed)


async def deploy(deployments: Sequence[RunnerDeployment], pool: str) -> list[str]:
    """Create them on the Prefect server that the settings name; returns their names, `FLOW/NAME`.

    Their job variables have what `worker_environment` returns. Raises OptimizationCoordinationError for an unknown
    pool, OptimizationValidationError without a store.
    """
    environment = worker_environment()
    async with get_client() as client:
        try:
            found = await client.read_work_pool(pool)
        except ObjectNotFound:
            raise OptimizationCoordinationError(
                f"there is no work pool {pool!r}: `prefect work-pool create {pool} --type process` makes one"
            ) from None
    names = []
    for each in deployments:
        each.job_variables = _job_variables(found, environment)
        await each.aapply(work_pool_name=pool)
        names.append(f"{each.flow_name}/{each.name}")
    return names


def serve_here(deployments: Sequence[RunnerDeployment]) -> None:
    """Run them in child processes until Ctrl-C, which pauses the deployments until the next start.

    Raises OptimizationValidationError without a store.
    """
    worker_environment()
    for each in deployments:
        each.paused = False
    serve(*deployments)


def worker_environment() -> dict[str, str]:
    """The settings of this machine that workers need, except a store's URL with a password.

    Raises OptimizationValidationError where O9_STORE_URL is not set: each run would keep its record in its own file.
    """
    url = settings().store_url
    if "store_url" not in settings().model_fields_set:
        raise OptimizationValidationError(
            "O9_STORE_URL", "it is not set: name the store that the workers use, postgresql://… or block:NAME"
        )
    needed = {"O9_STORE_URL": url} if url.startswith(STORE_BLOCK) or public_url(url) == url else {}
    others = {
        "O9_ALLOWED_IMPORTS": ",".join(settings().allowed_imports), "O9_TASK_RUNNER": settings().task_runner,
        "O9_PUBLIC_URL": settings().public_url,
    }  # fmt: skip
    return needed | {name: value for name, value in others.items() if value}


def _job_variables(pool: WorkPool, environment: Mapping[str, str]) -> dict[str, Any]:
    """The environment, if the pool has a variable for it; a new pool may get its template from its first worker."""
    known = pool.base_job_template.get("variables", {}).get("properties", {})
    return {"env": dict(environment)} if "env" in known or not known else {}


def as_prefect_yaml(deployments: Sequence[RunnerDeployment], pool: str) -> str:
    """A `prefect.yaml` of them for `prefect --no-prompt deploy --all`."""
    import prefect

    entries = []
    for each in deployments:
        entry: dict[str, Any] = {
            "name": each.name,
            "entrypoint": each.entrypoint,
            "description": each.description,
            "tags": list(each.tags),
            "version": each.version,
            "work_pool": {"name": pool},
            "parameters": dict(each.parameters),
            "schedules": [_written(made.schedule) for made in each.schedules or []],
        }
        if each.concurrency_limit is not None:
            options = each.concurrency_options.model_dump(mode="json") if each.concurrency_options else {}
            given = {name: value for name, value in options.items() if value is not None}
            entry["concurrency_limit"] = {"limit": each.concurrency_limit, "collision_strategy": "ENQUEUE"} | given
        entries.append(entry)
    head = "# Written by `o9 deploy --print`. The entrypoints are modules, so nothing is to be fetched.\n"
    whole = {"name": "o9", "prefect-version": prefect.__version__, "pull": [], "deployments": entries}
    return head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def _written(schedule: Any) -> dict[str, Any]:
    given = schedule.model_dump(mode="json", exclude_none=True)
    if "interval" in given:
        return {"interval": int(schedule.interval.total_seconds()), "timezone": given.get("timezone") or "UTC"}
    return {name: given[name] for name in ("cron", "rrule", "timezone") if name in given}


def name_of(spec: Mapping[str, Any]) -> str:
    """A deployment's name: lower case, with `-` for blanks and ASCII punctuation, some of which Prefect forbids."""
    called = series_name(spec)
    name = re.sub(r"[\s!-/:-@[-`{-~]+", "-", called.lower()).strip("-")[:60].strip("-")
    return name or hashlib.sha256(called.encode()).hexdigest()[:8]

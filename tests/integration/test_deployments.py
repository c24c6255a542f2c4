"""`o9 deploy`: one list, deployed in two ways; each entrypoint is loaded and run by a real worker, far from here."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import o9_testing
import pytest
import yaml
import zygote
from command_line import O9, O9Command, command_in
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from pydantic import TypeAdapter

from o9.aggregator.deployments import all_flows, of_optimization, recurrence, rule_of
from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.schedules import SCHEDULES, TAGS
from o9.model.errors import OptimizationValidationError
from o9.model.settings import settings
from o9.model.states import OptimizationStatus
from o9.model.templates import fill_dates
from o9.store import queries
from o9.store.store import Store

NIGHTLY = "{name: Nightly carry, total_steps: 2, metadata: {objective: branin, seed: 7}}"
SPEC = {"optimization_id": "by-a-worker", "total_steps": 2, "metadata": {"objective": "branin", "seed": 7}}
PARAMETERS: dict[str, dict[str, Any]] = {"optimization-lifecycle": {"spec": SPEC}}


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    command = command_in(tmp_path, capsys, monkeypatch)
    monkeypatch.setenv("O9_STORE_URL", "store.db")
    settings.cache_clear()
    return command


def test_what_is_printed_is_the_list(o9: O9Command) -> None:
    written = yaml.safe_load(o9("deploy", "--print").out)
    entries = [
        (each["entrypoint"], each["schedules"], each["parameters"], each.get("concurrency_limit"))
        for each in written["deployments"]
    ]
    assert entries == [
        (
            each.entrypoint,
            [{"interval": int(each.every.total_seconds()), "timezone": "UTC"}] if each.every else [],
            dict(each.parameters),
            {"limit": 1, "collision_strategy": "CANCEL_NEW", "grace_period_seconds": 60} if each.every else None,
        )
        for each in SCHEDULES
    ]
    assert [each["name"] for each in written["deployments"]] == [each.flow_name for each in SCHEDULES]
    assert all(each["tags"] == list(TAGS) for each in written["deployments"])
    assert written["pull"] == []


def test_a_file_becomes_one_deployment_with_its_schedule(o9: O9Command) -> None:
    Path("nightly.yaml").write_text(NIGHTLY)
    told = o9(
        "deploy", "nightly.yaml", "--cron", "0 22 * * 1-5", "--timezone", "America/New_York", "--overlap", "skip",
        "--print",
    )  # fmt: skip
    (made,) = yaml.safe_load(told.out)["deployments"]
    assert (made["name"], made["schedules"], made["concurrency_limit"]["collision_strategy"]) == (
        "nightly-carry", [{"cron": "0 22 * * 1-5", "timezone": "America/New_York"}], "CANCEL_NEW",
    )  # fmt: skip
    spec = yaml.safe_load(NIGHTLY)
    spec["metadata"]["series"] = "Nightly carry"
    assert made["parameters"]["spec"] == spec


def test_dates_of_a_name_move_in_the_schedule_s_zone_and_the_series_keeps_what_stays(o9: O9Command) -> None:
    Path("nightly.yaml").write_text(NIGHTLY.replace("Nightly carry", "'Carry {{ scheduled_date }}'"))
    told = o9("deploy", "nightly.yaml", "--every", "1d", "--timezone", "Asia/Tokyo", "--print")
    (made,) = yaml.safe_load(told.out)["deployments"]
    spec = made["parameters"]["spec"]
    assert (made["name"], spec["name"], spec["metadata"]["series"]) == (
        "carry", "Carry {{ scheduled_date Asia/Tokyo }}", "Carry",
    )  # fmt: skip
    Path("nightly.yaml").write_text(NIGHTLY.replace("Nightly carry", "'Carry {{ tomorrow }}'"))
    told = o9("deploy", "nightly.yaml", "--every", "1d", "--print")
    assert (told.code, "nightly.yaml, line 1: name: " in told.err) == (1, True), told.err


@pytest.mark.parametrize(
    ("spec", "series"),
    [
        ("{name: '{{ scheduled_date }}', metadata: {objective: branin}}", "branin"),
        ("{name: Carry, metadata: {objective: branin, series: desk}}", "desk"),
        ("{name: Carry, metadata: {objective: sp500_trend, hold_out: '{{ scheduled_date - 365d }}'}}", "Carry"),
    ],
)
def test_a_series_has_one_name_whatever_the_dates(spec: str, series: str, o9: O9Command) -> None:
    Path("nightly.yaml").write_text(spec)
    told = o9("deploy", "nightly.yaml", "--every", "1d", "--print")
    (made,) = yaml.safe_load(told.out)["deployments"]
    assert made["parameters"]["spec"]["metadata"]["series"] == series


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("metadata.series", "{name: Carry, metadata: {objective: branin, series: 'carry {{ scheduled_date }}'}}"),
        ("name", "{name: 'Carry {{ scheduled_date', metadata: {objective: branin}}"),
        ("optimization_id", "{optimization_id: 'carry-{{ scheduled_date }}', metadata: {objective: branin}}"),
    ],
)
def test_a_template_that_makes_no_name_is_refused(field: str, spec: str, o9: O9Command) -> None:
    Path("nightly.yaml").write_text(spec)
    told = o9("deploy", "nightly.yaml", "--every", "1d", "--print")
    assert (told.code, f" {field}: " in told.err) == (1, True), told.err


@pytest.mark.parametrize(
    "when", [{"cron": "30 2 * * *"}, {"cron": "30 1 * * *"}, {"every": timedelta(days=1)}, {"rrule": "FREQ=DAILY"}]
)
def test_across_a_clock_change_each_date_has_one_run(when: dict[str, Any]) -> None:
    """In New York 02:30 is missing on 8 March 2026, and 01:30 is there twice on 1 November."""
    recurs = asyncio.run(recurrence(timezone="America/New_York", **when))
    made = of_optimization({"name": "Carry {{ scheduled_date }}", "metadata": {"objective": "branin"}}, recurs)
    (entry,) = made.schedules or []
    schedule = TypeAdapter(SCHEDULE_TYPES).validate_python(entry.schedule.model_dump())
    for month, last in ((3, 31), (11, 30)):
        first = datetime(2026, month, 1, tzinfo=ZoneInfo("America/New_York"))
        runs = asyncio.run(schedule.get_dates(n=99, start=first, end=first + timedelta(days=last, seconds=-1)))
        names = [fill_dates(made.parameters["spec"], run.astimezone(UTC))["name"] for run in runs]
        assert names == [f"Carry 2026-{month:02}-{day:02}" for day in range(1, last + 1)]


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("schedule", ["--cron", "0 22 * *"]),
        ("schedule", ["--cron", "0 0 31 2 *"]),
        ("schedule", ["--rrule", "FREQ=DAILY;UNTIL=20250101T000000Z"]),
        ("schedule", ["--cron", "0 22 * * *", "--every", "1h"]),
        ("schedule", ["--cron", "* * * * * */30"]),
        ("schedule", ["--rrule", "FREQ=SECONDLY"]),
        ("every", ["--every", "59s"]),
        ("every", ["--every", "often"]),
        ("timezone", ["--every", "1h", "--timezone", "Mars/Olympus"]),
        ("name", ["--every", "1h", "--name", "carry/usd"]),
        ("overlap", ["--every", "1h", "--overlap", "never"]),
        ("missed", ["--every", "1h", "--missed", "twice"]),
    ],
)
def test_a_schedule_that_is_none_is_refused(field: str, options: list[str], o9: O9Command) -> None:
    Path("nightly.yaml").write_text(NIGHTLY)
    told = o9("deploy", "nightly.yaml", *options, "--print")
    assert (told.code, told.err.startswith(f"o9: {field}: ")) == (1, True), told.err


@pytest.mark.parametrize("options", [["--rrule", "FREQ=MINUTELY"], ["--cron", "0 22 * * * 30"], ["--every", "1m"]])
def test_a_run_a_minute_is_the_most(options: list[str], o9: O9Command) -> None:
    Path("nightly.yaml").write_text(NIGHTLY)
    began = time.monotonic()
    told = o9("deploy", "nightly.yaml", *options, "--print")
    assert (told.code, time.monotonic() - began < 10) == (0, True), told.err


def test_a_deployment_s_name_keeps_any_script() -> None:
    given = ("夜间动量", "日内 反转", "Übernacht 2", "🚀", "a/b%c&d<e>", "???", "!!!")
    found = [of_optimization({"name": each, "metadata": {"objective": "branin"}}, None).name for each in given]
    assert found[:5] == ["夜间动量", "日内-反转", "übernacht-2", "🚀", "a-b-c-d-e"]
    assert len(set(found)) == len(given)


def test_policies_that_prefect_does_not_know_are_tags(o9: O9Command) -> None:
    Path("nightly.yaml").write_text(NIGHTLY)
    told = o9("deploy", "nightly.yaml", "--every", "1h", "--overlap", "replace", "--missed", "once", "--print")
    (made,) = yaml.safe_load(told.out)["deployments"]
    tags = [f"file:{Path.cwd().name}/nightly.yaml", "missed:once", "o9", "overlap:replace"]
    assert (sorted(made["tags"]), "concurrency_limit" in made) == (tags, False)


def test_a_fixed_id_is_refused_on_a_schedule_alone() -> None:
    when = asyncio.run(recurrence(every=timedelta(hours=1)))
    with pytest.raises(OptimizationValidationError) as refused:
        of_optimization(SPEC, when)
    assert refused.value.field == "optimization_id"
    assert of_optimization(SPEC, None).parameters == {"spec": SPEC}


def test_a_search_space_becomes_a_list_that_the_form_can_draw() -> None:
    space = {"x": {"type": "int", "low": 1, "high": 3}}
    made = of_optimization({"metadata": {"objective": "branin", "search_space": space}}, None)
    assert made.parameters["spec"]["metadata"]["search_space"] == [{"name": "x", "type": "int", "low": 1, "high": 3}]


def test_each_entrypoint_is_a_module_s_and_is_found() -> None:
    for schedule, made in zip(SCHEDULES, all_flows(), strict=True):
        assert made.entrypoint == schedule.entrypoint
        assert ":" not in schedule.entrypoint  # else Prefect takes it for a file, and looks where the worker stands
        assert load_flow_from_entrypoint(schedule.entrypoint, use_placeholder_flow=False) is schedule.load()


def test_without_a_server_a_store_or_a_pool_nothing_is_deployed(o9: O9Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "PREFECT_API_URL" in o9("deploy").err
    away = f"http://127.0.0.1:{o9_testing.free_port()}/api"
    with temporary_settings({PREFECT_API_URL: away}):
        told = o9("schedule", "list")
        assert (told.code, f"at {away} did not answer" in told.err, "server start" in told.err) == (1, True, True)
    with prefect_client_settings(o9_testing.session_server()):
        told = o9("deploy", "--pool", "nobody-made-it")
        assert (told.code, "prefect work-pool create nobody-made-it" in told.err) == (1, True), told.err
        monkeypatch.delenv("O9_STORE_URL")
        settings.cache_clear()
        assert o9("deploy").err.startswith("o9: O9_STORE_URL: ")


# In a real server


@pytest.fixture
async def client() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client
            for deployment in await deployments(client):
                await client.delete_deployment(deployment.id)


async def deployments(client: PrefectClient) -> list[Any]:
    mine = DeploymentFilter(tags=DeploymentFilterTags(all_=list(TAGS)))
    return list(await client.read_deployments(deployment_filter=mine))


def environment_for(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    return environment | {
        **o9_testing.prefect_environment(),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "O9_STORE_URL": str(folder / "store.db"),
        "O9_LOG_LEVEL": "INFO",
    }


# A worker starts a process for each, which imports Prefect and O9.
@pytest.mark.parametrize(
    "names",
    [
        {"optimization-lifecycle", "compute-statistics"},
        pytest.param({schedule.name for schedule in SCHEDULES}, id="each", marks=pytest.mark.long),
    ],
)
async def test_a_worker_in_another_folder_runs_what_is_deployed(
    names: set[str], client: PrefectClient, tmp_path: Path
) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)
    with o9_testing.no_process_left() as environment:
        environment = environment_for(tmp_path, environment)
        prefect = ["-m", "prefect"]
        run(*O9, "deploy", folder=tmp_path, environment=environment)
        flow_runs = {}
        for deployment in await deployments(client):
            name = (await client.read_flow(deployment.flow_id)).name
            if name in names:
                flow_runs[name] = await client.create_flow_run_from_deployment(
                    deployment.id, parameters=PARAMETERS.get(name, {})
                )
        assert flow_runs.keys() == names
        del environment["O9_STORE_URL"]  # the deployments hand it on
        told = run(
            *prefect, "worker", "start", "--pool", "o9", "--type", "process", "--run-once",
            folder=tmp_path, environment=environment,
        )  # fmt: skip
    ended = {name: (await client.read_flow_run(each.id)).state_name for name, each in flow_runs.items()}
    assert ended == dict.fromkeys(flow_runs, "Completed"), told
    with Store(str(tmp_path / "store.db")) as store:
        state = store.read(queries.get, "by-a-worker")
        assert state is not None
        assert state.status is OptimizationStatus.COMPLETED


@pytest.mark.long  # a worker and its process, once more
async def test_a_run_whose_worker_names_no_store_is_refused(client: PrefectClient, tmp_path: Path) -> None:
    await client.create_work_pool(WorkPoolCreate(name="bare", type="process"), overwrite=True)
    with o9_testing.no_process_left() as environment:
        environment = environment_for(tmp_path, environment)
        run(*O9, "deploy", "--pool", "bare", folder=tmp_path, environment=environment)
        (counting,) = [each for each in await deployments(client) if "compute_statistics" in each.entrypoint]
        await client.update_deployment(counting.id, DeploymentUpdate(job_variables={}))
        flow_run = await client.create_flow_run_from_deployment(counting.id)
        del environment["O9_STORE_URL"]
        run(
            "-m", "prefect", "worker", "start", "--pool", "bare", "--type", "process", "--run-once",
            folder=tmp_path, environment=environment,
        )  # fmt: skip
    ended = await client.read_flow_run(flow_run.id)
    assert ended.state is not None
    assert (ended.state_name, "O9_STORE_URL" in (ended.state.message or "")) == ("Failed", True)


@pytest.mark.slow
@pytest.mark.long  # `test_suspension.py` works on what is served as well
async def test_one_process_serves_them_until_it_is_interrupted(
    client: PrefectClient, tmp_path: Path, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    with o9_testing.no_process_left() as environment:
        serving = zygote.start(
            [*O9, "deploy", "--serve"], cwd=tmp_path, env=environment_for(tmp_path, environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

        async def all_there() -> bool:
            assert serving.poll() is None, serving.communicate()
            return len(await deployments(client)) == len(SCHEDULES)

        await async_wait_until(all_there, 60)
        (counted,) = [each for each in await deployments(client) if "compute_statistics" in each.entrypoint]
        flow_run = await client.create_flow_run_from_deployment(counted.id)

        async def completed() -> bool:
            return (await client.read_flow_run(flow_run.id)).state_name == "Completed"

        await async_wait_until(completed, 60)
        serving.send_signal(signal.SIGINT)
        told, _ = serving.communicate(timeout=30)
    assert serving.returncode == 0, told


def run(*command: str, folder: Path, environment: dict[str, str]) -> str:
    done = zygote.run(list(command), cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(name: str, text: str) -> None:
    Path(name).write_text(text)


async def test_schedules_are_added_paused_and_removed(o9: O9Command, client: PrefectClient) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)

    async def command(*arguments: str) -> Any:
        return await asyncio.to_thread(o9, *arguments)

    async def listed() -> Any:
        return json.loads((await command("schedule", "list", "--json")).out)

    write("nightly.yaml", NIGHTLY)
    assert (await command("deploy", "nightly.yaml")).code == 0
    assert await listed() == []
    told = await command("schedule", "pause", "nightly-carry")
    assert (told.code, "o9 schedule create nightly-carry" in told.err) == (1, True), told.err
    made = await command(
        "schedule", "create", "nightly-carry", "--cron", "0 22 * * 1-5", "--timezone", "America/New_York", "--json"
    )
    assert (made.code, json.loads(made.out)["active"]) == (0, True), made.err
    assert (await command("schedule", "create", "nightly-carry", "--every", "90m")).code == 0
    for again in (["--every", "90m"], ["--cron", "0 22 * * 1-5", "--timezone", "America/New_York"]):
        told = await command("schedule", "create", "nightly-carry", *again)
        assert (told.code, told.err.startswith("o9: schedule: ")) == (1, True), told.err
    (one,) = await listed()
    assert (one["name"], one["series"], sorted(one["when"]), one["active"], one["last"]) == (
        "nightly-carry", "Nightly carry", ["0 22 * * 1-5 America/New_York", "every 1 h 30 min"], True, None,
    )  # fmt: skip
    assert json.loads((await command("schedule", "pause", "nightly-carry", "--json")).out)["active"] is False
    (one,) = await listed()
    assert (one["active"], one["next_at"]) == (False, None)
    assert json.loads((await command("schedule", "resume", "nightly-carry", "--json")).out)["active"] is True
    removed = await command("schedule", "delete", "optimization-lifecycle/nightly-carry", "--json")
    assert json.loads(removed.out)["removed"] == 2
    assert await listed() == []
    assert (await command("schedule", "delete", "nobody-s")).code == 1


async def test_a_deployment_keeps_its_schedules_and_policies_where_no_option_gives_others(
    o9: O9Command, client: PrefectClient
) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)

    async def deploy(*options: str) -> Any:
        told = await asyncio.to_thread(o9, "deploy", "nightly.yaml", *options)
        assert told.code == 0, told.err
        return told.err

    async def there() -> Any:
        made = await client.read_deployment_by_name("optimization-lifecycle/nightly-carry")
        found = sorted((str(rule_of(each.schedule)), each.active) for each in made.schedules)
        strategy = made.concurrency_options and made.concurrency_options.collision_strategy
        return found, strategy, sorted(made.tags), made.paused, made.parameters

    write("nightly.yaml", NIGHTLY)
    await deploy("--every", "90m", "--overlap", "skip", "--missed", "once")
    assert (await asyncio.to_thread(o9, "schedule", "create", "nightly-carry", "--cron", "0 22 * * *")).code == 0
    assert (await asyncio.to_thread(o9, "schedule", "pause", "nightly-carry")).code == 0
    before = await there()
    assert "schedule resume nightly-carry" in await deploy()
    assert await there() == before
    told = await deploy("--every", "90m", "--overlap", "replace")
    assert ("0 22 * * * UTC (paused)" in told, "1 h 30 min" in told) == (True, False), told
    (schedule,), strategy, tags, *_ = await there()
    assert (schedule in before[0], schedule[1], strategy) == (True, False, None)
    assert {"missed:once", "overlap:replace"} < set(tags)
    deployment = await client.read_deployment_by_name("optimization-lifecycle/nightly-carry")
    await client.pause_deployment(deployment.id)  # as Prefect's UI does
    await deploy("--every", "1h")
    assert ((await there())[3], (await there())[0][0][1]) == (True, True)
    resumed = await asyncio.to_thread(o9, "schedule", "resume", "nightly-carry", "--json")
    assert json.loads(resumed.out)["active"] is True


@pytest.mark.parametrize("verb", ["pause", "delete"])
async def test_runs_that_wait_for_a_slot_are_cancelled_with_their_schedule(
    verb: str, o9: O9Command, client: PrefectClient, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)
    write("nightly.yaml", NIGHTLY)
    assert (await asyncio.to_thread(o9, "deploy", "nightly.yaml", "--every", "1h", "--overlap", "queue")).code == 0
    deployment = await client.read_deployment_by_name("optimization-lifecycle/nightly-carry")
    mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))

    async def scheduled() -> list[FlowRun]:
        return (await client.read_flow_runs(flow_run_filter=mine, limit=2))[1:]  # the server makes them every 5 s

    await async_wait_until(scheduled, 30)
    at_work, waiting = await client.read_flow_runs(flow_run_filter=mine, limit=2)
    for flow_run in (at_work, waiting):  # as a worker does that starts them
        await client.set_flow_run_state(flow_run.id, Pending())
    assert (await client.read_flow_run(waiting.id)).state_name == "AwaitingConcurrencySlot"
    (one,) = json.loads((await asyncio.to_thread(o9, "schedule", "list", "--json")).out)
    runs = await client.read_flow_runs(flow_run_filter=mine)
    due = [run.expected_start_time for run in runs if run.state_name == "Scheduled" and run.expected_start_time]
    assert datetime.fromisoformat(one["next_at"]) == min(due), "not when the waiting one tries again"
    told = await asyncio.to_thread(o9, "schedule", verb, "nightly-carry")
    assert (told.code, told.out.count("paused")) == (0, int(verb == "pause")), told.out + told.err
    states = {each.id: each.state_name for each in await client.read_flow_runs(flow_run_filter=mine)}
    assert states == {at_work.id: "Pending", waiting.id: "Cancelled"}


async def test_what_has_no_specification_gets_no_schedule(o9: O9Command, client: PrefectClient) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)
    assert (await asyncio.to_thread(o9, "deploy")).code == 0
    told = await asyncio.to_thread(o9, "schedule", "create", "optimization-lifecycle", "--every", "1h")
    assert (told.code, told.err.startswith("o9: spec: "), "o9 deploy FILE.yaml" in told.err) == (1, True, True), (
        told.err
    )


async def test_what_has_a_fixed_id_gets_no_schedule(o9: O9Command, client: PrefectClient) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)
    write("once.yaml", "{optimization_id: once, name: Once, metadata: {objective: branin}}")
    assert (await asyncio.to_thread(o9, "deploy", "once.yaml")).code == 0
    told = await asyncio.to_thread(o9, "schedule", "create", "once", "--every", "1h")
    assert (told.code, told.err.startswith("o9: optimization_id: ")) == (1, True), told.err


async def test_a_series_is_shared_only_where_both_name_it(o9: O9Command, client: PrefectClient) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)

    async def deploy(spec: str, *options: str) -> Any:
        write("nightly.yaml", spec)
        return await asyncio.to_thread(o9, "deploy", "nightly.yaml", "--every", "1d", *options)

    carry = "{name: Carry, metadata: {objective: branin%s}}"
    assert (await deploy(carry % "")).code == 0
    assert (await deploy(carry % "")).code == 0, "the same again takes its own place"
    told = await deploy(carry % "", "--name", "carry-asia")
    assert (told.code, told.err.startswith("o9: metadata.series: "), "carry" in told.err) == (1, True, True), told.err
    told = await deploy(carry % ", series: Carry", "--name", "carry-asia")
    assert (told.code, "series 'Carry' is shared with carry" in told.err) == (0, True), told.err
    told = await asyncio.to_thread(o9, "schedule", "list", "--json")
    assert [each["name"] for each in json.loads(told.out)] == ["carry", "carry-asia"]


async def test_a_file_takes_the_place_of_no_other_file_s_deployment(o9: O9Command, client: PrefectClient) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"), overwrite=True)

    async def deploy(file: str, name: str, *options: str, objective: str = "branin") -> Any:
        Path(file).parent.mkdir(exist_ok=True)
        write(file, f"{{name: {name}, metadata: {{objective: {objective}}}}}")
        return await asyncio.to_thread(o9, "deploy", file, *options)

    async def made_from() -> list[str]:
        return (await client.read_deployment_by_name("optimization-lifecycle/carry")).tags

    assert (await deploy("desk/one.yaml", "Carry")).code == 0
    assert (await deploy("desk/one.yaml", "Carry!")).code == 0, "the same file takes its own place"
    told = await deploy("desk/one.yaml", "Carry", objective="ackley")
    assert (told.code, told.err.startswith("o9: name: "), "'branin', not" in told.err) == (1, True, True), told.err
    for file in ("desk/two.yaml", "asia/one.yaml"):
        told = await deploy(file, "Carry")
        assert (told.code, told.err.startswith("o9: name: "), "desk/one.yaml" in told.err, file in told.err) == (
            1, True, True, True,
        ), told.err  # fmt: skip
    assert "file:desk/one.yaml" in await made_from()
    assert (await deploy("asia/one.yaml", "Carry", "--name", "carry-asia")).code == 0
    assert (await deploy("asia/one.yaml", "Carry", "--replace")).code == 0
    assert "file:asia/one.yaml" in await made_from()

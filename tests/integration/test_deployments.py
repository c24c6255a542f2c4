"""`deployments/`: one list, deployed in two ways; each entrypoint is loaded and run by a real worker, far from here."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import o9_testing
import pytest
import yaml
import zygote
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, DeploymentFilterTags
from prefect.flows import load_flow_from_entrypoint

from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.schedules import DEPLOYMENT, SCHEDULES, TAGS
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.store import Store

FOLDER = Path(__file__).parents[2] / "deployments"
SPEC = {"optimization_id": "by-a-worker", "total_steps": 2, "metadata": {"objective": "branin", "seed": 7}}
PARAMETERS: dict[str, dict[str, Any]] = {"optimization-lifecycle": {"spec": SPEC}}


def written() -> dict[str, Any]:
    loaded = yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("o9_deployments_serve", FOLDER / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prefect_yaml_is_the_list() -> None:
    told = [
        (each["entrypoint"], each["schedules"], each["parameters"], each.get("concurrency_limit"))
        for each in written()["deployments"]
    ]
    assert told == [
        (
            each.entrypoint,
            [{"interval": int(each.every.total_seconds())}] if each.every else [],
            dict(each.parameters),
            {"limit": 1, "collision_strategy": "CANCEL_NEW"} if each.every else None,
        )
        for each in SCHEDULES
    ]
    assert {each["name"] for each in written()["deployments"]} == {DEPLOYMENT}
    assert all(each["tags"] == list(TAGS) for each in written()["deployments"])
    assert written()["pull"] == []


def test_the_script_deploys_the_list_by_modules(script: ModuleType) -> None:
    for schedule in SCHEDULES:
        made = script.deployed(schedule)
        assert (made.name, made.tags, made.parameters) == (DEPLOYMENT, list(TAGS), dict(schedule.parameters))
        assert made.entrypoint == schedule.entrypoint
        assert [each.schedule.interval for each in made.schedules or []] == ([schedule.every] if schedule.every else [])
        assert made.concurrency_limit == (1 if schedule.every else None)


def test_each_entrypoint_is_a_module_s_and_is_found() -> None:
    for schedule in SCHEDULES:
        assert ":" not in schedule.entrypoint  # else Prefect takes it for a file, and looks where the worker stands
        assert load_flow_from_entrypoint(schedule.entrypoint, use_placeholder_flow=False) is schedule.load()


# In a real server


@pytest.fixture
async def client() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client
            for deployment in await deployments(client):
                await client.delete_deployment(deployment.id)


async def deployments(client: PrefectClient) -> list[Any]:
    mine = DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT]), tags=DeploymentFilterTags(all_=list(TAGS)))
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
async def test_a_worker_in_another_folder_runs_what_prefect_yaml_deploys(
    names: set[str], client: PrefectClient, tmp_path: Path
) -> None:
    await client.create_work_pool(WorkPoolCreate(name="o9", type="process"))
    with o9_testing.no_process_left() as environment:
        environment = environment_for(tmp_path, environment)
        prefect = ["-m", "prefect"]
        run(*prefect, "--no-prompt", "deploy", "--all", folder=FOLDER, environment=environment)
        flow_runs = {}
        for deployment in await deployments(client):
            name = (await client.read_flow(deployment.flow_id)).name
            if name in names:
                flow_runs[name] = await client.create_flow_run_from_deployment(
                    deployment.id, parameters=PARAMETERS.get(name, {})
                )
        assert flow_runs.keys() == names
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


@pytest.mark.slow
@pytest.mark.long  # `test_suspension.py` works on what is served as well
async def test_the_script_serves_from_another_folder_until_it_is_interrupted(
    client: PrefectClient, tmp_path: Path, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    with o9_testing.no_process_left() as environment:
        script = started(tmp_path, environment_for(tmp_path, environment))

        async def all_there() -> bool:
            assert script.poll() is None, script.communicate()
            return len(await deployments(client)) == len(SCHEDULES)

        await async_wait_until(all_there, 60)
        (counted,) = [each for each in await deployments(client) if "compute_statistics" in each.entrypoint]
        flow_run = await client.create_flow_run_from_deployment(counted.id)

        async def completed() -> bool:
            return (await client.read_flow_run(flow_run.id)).state_name == "Completed"

        await async_wait_until(completed, 60)
        script.send_signal(signal.SIGINT)
        told, _ = script.communicate(timeout=30)
    assert script.returncode == 0, told


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    environment = o9_testing.clean_environment(O9_STORE_URL="store.db")
    told = zygote.run([str(FOLDER / "serve.py")], cwd=tmp_path, env=environment)
    assert (told.returncode, told.stderr[:20]) == (1, "set PREFECT_API_URL:")


def started(folder: Path, environment: dict[str, str]) -> zygote.Process:
    """The script, running."""
    return zygote.start(
        [str(FOLDER / "serve.py")], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(*command: str, folder: Path, environment: dict[str, str]) -> str:
    done = zygote.run(list(command), cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

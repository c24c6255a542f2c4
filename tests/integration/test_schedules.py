"""A schedule that is made in Prefect's API: Prefect creates its runs, and O9 carries them out."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectNotFound

from o9.aggregator.prefect_server import prefect_client_settings
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store

SERVE = """
from prefect.deployments.runner import EntrypointType
from o9.flows.lifecycle import optimization_lifecycle

optimization_lifecycle.serve(
    "recurring",
    parameters={
        "spec": {
            "name": "Carry {{ scheduled_date }}", "total_steps": 2, "metadata": {"objective": "branin", "seed": 7}
        }
    },
    limit=1,
    print_starting_message=False,
    entrypoint_type=EntrypointType.MODULE_PATH,
)
"""


async def test_a_schedule_creates_runs_and_each_is_an_optimization(
    tmp_path: Path, store_url: str, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    with o9_testing.no_process_left() as environment, prefect_client_settings(o9_testing.session_server()):
        environment |= o9_testing.prefect_environment()
        environment |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "O9_STORE_URL": store_url}
        with (tmp_path / "log").open("w") as log:
            serving = zygote.start(["-c", SERVE], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
        async with get_client() as client:
            deployment = await async_wait_until(lambda: served(client), 60)
            try:
                every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=5)))
                await client.create_deployment_schedules(deployment.id, [every])
                (flow_run, *_) = await async_wait_until(lambda: completed(client, deployment.id), 60)
            finally:
                serving.terminate()
                serving.wait(30)
                await client.delete_deployment(deployment.id)
    assert flow_run.auto_scheduled
    with Store(store_url) as store:
        run = store.read(queries.prefect_run, str(flow_run.id))
        assert run is not None
        state = store.read(queries.get, run["optimization_id"])
    assert (state.status, state.completed_steps) == (OptimizationStatus.COMPLETED, 2)
    assert state.name == f"Carry {flow_run.expected_start_time:%Y-%m-%d}"
    assert (state.metadata["series"], state.metadata["scheduled_at"]) == (
        "Carry", flow_run.expected_start_time.isoformat(),
    )  # fmt: skip


POLICIES = """
import time
from o9.flows.lifecycle import optimization_lifecycle
from o9.strategies.registry import objective
from prefect.deployments.runner import EntrypointType

optimization_lifecycle.serve(
    "recurring",
    parameters={
        "spec": {"name": "Carry", "total_steps": 40, "metadata": {"objective": "desk:slow", "series": "carry"}}
    },
    tags=["missed:once", "overlap:replace"],
    print_starting_message=False,
    entrypoint_type=EntrypointType.MODULE_PATH,
)
"""
DESK = """
import asyncio

from OptimizationStateAggregator import objective

@objective("slow", search_space={"x": {"type": "float", "low": 0, "high": 1}})
async def slow(parameters):
    await asyncio.sleep(1)
    return parameters["x"]
"""


@pytest.mark.long
async def test_missed_runs_run_once_and_the_next_replaces_the_one_before(
    tmp_path: Path, store_url: str, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    write(tmp_path / "desk.py", DESK)
    with o9_testing.no_process_left() as environment, prefect_client_settings(o9_testing.session_server()):
        environment |= o9_testing.prefect_environment()
        environment |= {
            "PREFECT_RUNNER_POLL_FREQUENCY": "1", "O9_STORE_URL": store_url, "O9_ALLOWED_IMPORTS": "desk",
            "PYTHONPATH": str(tmp_path),
        }  # fmt: skip
        with open_log(tmp_path / "log") as log:
            serve = partial(
                zygote.start, ["-c", POLICIES], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            serving = serve()
            async with get_client() as client:
                deployment = await async_wait_until(lambda: served(client), 60)
                serving.kill()
                serving.wait(30)
                await client.resume_deployment(deployment.id)  # while nobody serves it, runs are due and missed
                every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=20)))
                await client.create_deployment_schedules(deployment.id, [every])
                try:
                    await async_wait_until(lambda: due(client, deployment.id, 3), 120)
                    serving = serve()  # which lifts the schedules that it does not name
                    await async_wait_until(lambda: ended(client, deployment.id, "Skipped", 2), 60)
                    every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=10)))
                    await client.create_deployment_schedules(deployment.id, [every])
                    with Store(store_url) as store:

                        def of_series() -> list[str]:
                            found = store.read(queries.page, Filter(series="carry")).items
                            return [state.status.value for state in reversed(found)]

                        await async_wait_until(lambda: of_series().count("cancelled") >= 2, 120)
                finally:
                    serving.terminate()
                    serving.wait(60)
                    await client.delete_deployment(deployment.id)


async def ended(client: PrefectClient, deployment_id: Any, name: str, count: int) -> bool:
    return sum(run.state_name == name for run in await runs_of(client, deployment_id)) >= count


async def due(client: PrefectClient, deployment_id: Any, count: int) -> bool:
    now = datetime.now(UTC)
    starts = [run.expected_start_time for run in await runs_of(client, deployment_id)]
    return sum(start is not None and start <= now for start in starts) >= count


async def runs_of(client: PrefectClient, deployment_id: Any) -> list[FlowRun]:
    mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    return await client.read_flow_runs(flow_run_filter=mine)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def open_log(path: Path) -> Any:
    return path.open("w")


async def served(client: PrefectClient) -> Any:
    try:
        return await client.read_deployment_by_name("optimization-lifecycle/recurring")
    except ObjectNotFound:
        return None


async def completed(client: PrefectClient, deployment_id: Any) -> list[FlowRun]:
    these = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]),
        state=FlowRunFilterState(type=StateTypes(any_=[StateType.COMPLETED])),
    )
    return await client.read_flow_runs(flow_run_filter=these)

"""A schedule that is made in Prefect's API: Prefect creates its runs, and O9 carries them out."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import o9_testing
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

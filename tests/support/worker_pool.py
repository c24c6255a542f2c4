"""A work pool of a real Prefect server with what `o9 deploy` makes, and workers that tests start and kill."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import o9_testing
import psutil
import zygote
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule

from o9.aggregator.deployments import all_flows, deploy
from o9.aggregator.prefect_server import prefect_client_settings

DESK = """
import asyncio, time
from pathlib import Path

def quick(parameters):
    return parameters["x"]

def slow(parameters):
    time.sleep(0.5)
    return parameters["x"]

async def endless(parameters):
    Path(__file__).with_name("hangs").touch()
    await asyncio.sleep(3600)

def broken(parameters):
    raise ValueError("the exchange was closed")
"""
DEPLOYED = ("optimization-lifecycle", "reconcile-states")


@dataclass
class WorkerPool:
    """Of one test. `environment`: of its workers. `deployments`: the ids, by the flow's name."""

    name: str
    client: PrefectClient
    environment: dict[str, str]
    folder: Path
    wait_until: Callable[..., Awaitable[Any]]
    deployments: dict[str, UUID] = field(default_factory=dict)

    async def run(self, flow: str, **parameters: Any) -> FlowRun:
        return await self.client.create_flow_run_from_deployment(self.deployments[flow], parameters=parameters)

    async def reconcile(self) -> str:
        """One run of `reconcile-states` by a worker; how it ended."""
        flow_run = await self.run("reconcile-states")
        await self.wait_until(lambda: self._is_over(flow_run.id), 60)
        return await self.state_of(flow_run.id)

    async def state_of(self, flow_run_id: UUID | str) -> str:
        state = (await self.client.read_flow_run(UUID(str(flow_run_id)))).state
        assert state is not None
        return state.name or state.type.value

    async def message_of(self, flow_run_id: Any) -> str:
        state = (await self.client.read_flow_run(UUID(str(flow_run_id)))).state
        assert state is not None
        return state.message or ""

    async def _is_over(self, flow_run_id: UUID) -> bool:
        state = (await self.client.read_flow_run(flow_run_id)).state
        return state is not None and state.is_final()

    async def schedule(self, flow: str, every: timedelta, **more: Any) -> None:
        made = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=every, **more))
        await self.client.create_deployment_schedules(self.deployments[flow], [made])

    async def unschedule(self, *flows: str) -> None:
        for flow in flows:
            deployment = await self.client.read_deployment(self.deployments[flow])
            for schedule in deployment.schedules:
                await self.client.delete_deployment_schedule(deployment.id, schedule.id)

    @contextmanager
    def worker(self, name: str = "worker", **more: str) -> Iterator[zygote.Process]:
        with (self.folder / f"{name}.log").open("a") as log:
            process = zygote.start(
                ["-m", "prefect", "worker", "start", "--pool", self.name, "--type", "process", "--name", name],
                cwd=self.folder, env=self.environment | more, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
            print((self.folder / f"{name}.log").read_text())


def kill_with_its_runs(worker: zygote.Process) -> None:
    """-9 to a worker and to all that it has started, as when its machine dies."""
    family = [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]
    for process in family:
        with suppress(psutil.NoSuchProcess):  # one that has ended by itself meanwhile
            process.kill()


@asynccontextmanager
async def worker_pool(
    folder: Path, store_url: str, monkeypatch: Any, wait_until: Any, server: Any = None
) -> AsyncIterator[WorkerPool]:
    """`wait_until`: the fixture `async_wait_until`. `server`: a PrefectServer; None: the session's."""
    from o9.model.settings import settings

    (folder / "desk.py").write_text(DESK)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("desk", None)  # of another test
    monkeypatch.setenv("O9_STORE_URL", store_url)
    monkeypatch.setenv("O9_ALLOWED_IMPORTS", "desk")
    settings.cache_clear()
    server = server or o9_testing.session_server()
    with o9_testing.no_process_left() as environment, prefect_client_settings(server):
        environment |= {
            "PREFECT_API_URL": server.api_url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "O9_LEASE_SECONDS": "6",
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        } | ({"PREFECT_API_AUTH_STRING": server.auth_string} if server.auth_string else {})
        async with get_client() as client:
            pool = WorkerPool(f"pool-{uuid.uuid4().hex[:8]}", client, environment, folder, wait_until)
            await client.create_work_pool(WorkPoolCreate(name=pool.name, type="process"))
            flows = await asyncio.to_thread(all_flows)
            await deploy([each for each in flows if each.flow_name in DEPLOYED], pool.name)
            for flow in DEPLOYED:
                pool.deployments[flow] = (await client.read_deployment_by_name(f"{flow}/{flow}")).id
            await pool.unschedule("reconcile-states")  # the test says when
            try:
                yield pool
            finally:
                for deployment_id in pool.deployments.values():
                    await client.delete_deployment(deployment_id)
                await client.delete_work_pool(pool.name)


async def set_version(pool: WorkerPool, version: str) -> None:
    """Of the lifecycle's deployment."""
    await pool.client.update_deployment(pool.deployments["optimization-lifecycle"], DeploymentUpdate(version=version))

"""Events of optimizations in a real Prefect server, and the sample automations that it carries out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import o9_testing
import pytest
import yaml
import zygote
from o9_testing import LINE, ended, new
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow_async

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks.store import using_store
from o9.flows.check_health import check_health
from o9.flows.lifecycle import optimization_lifecycle
from o9.flows.membership import leave_store
from o9.health.checker import OptimizationHealthChecker
from o9.model.optimization import OptimizationAlert, OptimizationHealthReport
from o9.model.states import AlertLevel, HealthStatus
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStateAggregator, objective

AUTOMATIONS = Path(__file__).parents[2] / "deployments" / "automations"
Wait = Callable[..., Awaitable[Any]]
pytestmark = pytest.mark.slow


@pytest.fixture
async def prefect() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as store, using_store(store):
        yield store
        leave_store(store)


@objective("sent", search_space=LINE)
async def sent(parameters: dict[str, float]) -> float:
    return parameters["x"]


@objective("long-sent", search_space=LINE)
async def long_sent(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.2)
    return parameters["x"]


@objective("broken-once", search_space=LINE)
def broken_once(parameters: dict[str, float]) -> float:
    if Path("mended").exists():
        return parameters["x"]
    raise ValueError("the exchange was closed")


async def events_of(prefect: PrefectClient, resource: str) -> dict[str, dict[str, Any]]:
    """The last event of each name, of this resource."""
    wanted = {"filter": {"event": {"prefix": ["o9."]}, "resource": {"id": [resource]}, "order": "ASC"}, "limit": 50}
    found = (await prefect.request("POST", "/events/filter", json=wanted)).json()["events"]
    assert len({each["id"] for each in found}) == len(found)
    return {each["event"]: each for each in found}


def related_to(event: dict[str, Any]) -> set[str]:
    return {each["prefect.resource.id"] for each in event["related"]}


def optimization(optimization_id: str, objective: str, steps: int = 3) -> dict[str, Any]:
    return {"optimization_id": optimization_id, "total_steps": steps, "metadata": {"objective": objective, "seed": 7}}


async def test_a_node_tells_of_optimizations_and_alerts(
    aggregator: OptimizationStateAggregator, prefect: PrefectClient, async_wait_until: Wait
) -> None:
    await aggregator.submit_optimization(new("e1", name="Sent", objective="sent", total_steps=3))
    await ended(aggregator, "e1")
    alert = OptimizationAlert("e1-alert", "e1", AlertLevel.ERROR, "Drawdown", "20 %")
    await aggregator.send_alert(alert)
    await aggregator.alert_system.resolve_alert("e1-alert")

    async def all_there() -> Any:
        mine = await events_of(prefect, "o9.optimization.e1")
        alerts = await events_of(prefect, "o9.alert.e1-alert")
        wanted = {"o9.optimization.started", "o9.optimization.completed"}, {"o9.alert.firing", "o9.alert.resolved"}
        return (mine, alerts) if wanted[0] <= mine.keys() and wanted[1] <= alerts.keys() else None

    mine, alerts = await async_wait_until(all_there, 30)
    holding = aggregator.store.read(queries.holding, "e1")
    assert holding is not None
    flow_run = f"prefect.flow-run.{holding.prefect_run_id}"
    completed = mine["o9.optimization.completed"]
    assert flow_run in related_to(completed)
    assert completed["payload"]["name"] == "Sent"
    assert 0 <= completed["payload"]["best_value"] <= 1
    assert {"o9.optimization.e1", flow_run} <= related_to(alerts["o9.alert.firing"])


async def test_a_run_that_prefect_started_tells_of_itself_once(
    prefect: PrefectClient, store: Store, async_wait_until: Wait
) -> None:
    assert (await optimization_lifecycle(spec=optimization("e2", "sent"), return_state=True)).is_completed()

    async def all_there() -> Any:
        mine = await events_of(prefect, "o9.optimization.e2")
        return mine if {"o9.optimization.started", "o9.optimization.completed"} <= mine.keys() else None

    mine = await async_wait_until(all_there, 30)
    assert mine["o9.optimization.completed"]["payload"]["grade"] == "unproven"


# The sample automations


@pytest.fixture
async def deployment(prefect: PrefectClient) -> AsyncIterator[UUID]:
    made = await prefect.create_deployment(
        await prefect.create_flow(optimization_lifecycle), "automated", entrypoint="o9.flows.lifecycle"
    )
    yield made
    await prefect.delete_deployment(made)


@contextlib.asynccontextmanager
async def automation(prefect: PrefectClient, file: str, folder: Path, **of_action: str) -> AsyncIterator[None]:
    """Created from the sample by Prefect's own command."""
    sample = yaml.safe_load((AUTOMATIONS / file).read_text(encoding="utf-8"))
    sample["actions"][0] |= of_action
    (folder / file).write_text(yaml.safe_dump(sample))
    environment = o9_testing.clean_environment(**o9_testing.prefect_environment())
    done = zygote.run(
        ["-m", "prefect", "automation", "create", "--from-file", str(folder / file)], cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield
    finally:
        for made in (await prefect.find_automation(sample["name"]),):
            assert made is not None
            await prefect.delete_automation(made.id)


async def started(flow_run: FlowRun) -> Any:
    """Run it here, as a worker would in a process of its own."""
    parameters = {"optimization_id": "", "spec": None, "retry_of": "", **flow_run.parameters}
    return await run_flow_async(optimization_lifecycle, flow_run=flow_run, parameters=parameters, return_type="state")


async def test_the_sample_automation_pauses_what_is_critical(
    prefect: PrefectClient, store: Store, deployment: UUID, tmp_path: Path, async_wait_until: Wait
) -> None:
    def critical(_: str, report: OptimizationHealthReport) -> OptimizationHealthReport:
        report.overall_status = HealthStatus.CRITICAL
        return report

    checker = OptimizationHealthChecker()
    checker.use(store)
    checker.register_health_rule(critical)
    async with automation(prefect, "pause-on-critical.yaml", tmp_path):
        flow_run = await prefect.create_flow_run_from_deployment(
            deployment, parameters={"spec": optimization("e3", "long-sent", 500)}
        )
        running = asyncio.create_task(started(flow_run))
        await async_wait_until(lambda: (state := store.read(queries.get, "e3")) and state.completed_steps, 60)
        await check_health()
        await async_wait_until(lambda: store.read(queries.get, "e3").status.value == "paused", 60)
        with contextlib.suppress(BaseException):
            await running
    assert (await prefect.read_flow_run(flow_run.id)).state_name == "Suspended"


async def test_the_sample_automation_starts_a_retry(
    prefect: PrefectClient,
    store: Store,
    deployment: UUID,
    tmp_path: Path,
    async_wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    async with automation(prefect, "retry-failed.yaml", tmp_path, deployment_id=str(deployment)):
        assert (await optimization_lifecycle(spec=optimization("e4", "broken-once"), return_state=True)).is_failed()

        async def scheduled() -> Any:
            runs = await prefect.read_flow_runs()
            return next((run for run in runs if run.parameters.get("retry_of") == "e4"), None)

        retry = await async_wait_until(scheduled, 60)
        (tmp_path / "mended").touch()
        assert (await started(retry)).is_completed()
    (again,) = [state for state in store.read(queries.page).items if state.metadata.get("retry_of") == "e4"]
    assert again.status.value == "completed"

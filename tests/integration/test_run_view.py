"""What Prefect shows of a run: its name and tags, progress, the best trials, the result; none of it can do harm."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import o9_testing
import pytest
from o9_testing import LINE, ended, new
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, FlowRun

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks.store import using_store
from o9.flows import run_view
from o9.flows.lifecycle import optimization_lifecycle
from o9.flows.membership import leave_store
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStateAggregator, objective


@pytest.fixture
async def prefect() -> AsyncIterator[PrefectClient]:
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            yield client


@objective("shown", search_space=LINE)
async def shown(parameters: dict[str, float]) -> float:
    if parameters["x"] > 0.9:
        raise ValueError("beyond the line")
    return parameters["x"]


@objective("unhurried", search_space=LINE)
async def unhurried(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.1)
    return parameters["x"]


@objective("never", search_space=LINE)
async def never(parameters: dict[str, float]) -> float:
    raise ValueError("the exchange was closed")


async def run_of(prefect: PrefectClient, store: Store, optimization_id: str) -> FlowRun:
    holding = store.read(queries.holding, optimization_id)
    assert holding is not None
    return await prefect.read_flow_run(UUID(holding.prefect_run_id))


async def artifacts_of(prefect: PrefectClient, flow_run: FlowRun) -> dict[str, Artifact]:
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    return {str(found.type): found for found in await prefect.read_artifacts(artifact_filter=mine)}


async def test_a_run_of_a_node_has_a_name_tags_and_a_result(
    aggregator: OptimizationStateAggregator, prefect: PrefectClient, async_wait_until: Callable[..., Awaitable[Any]],
    set_o9: Callable[..., None],
) -> None:  # fmt: skip
    set_o9(public_url="https://o9.desk.example")
    await aggregator.submit_optimization(new("a", name="Mean reversion", objective="shown", total_steps=20))
    state = await ended(aggregator, "a")
    flow_run = await run_of(prefect, aggregator.store, "a")
    assert flow_run.name == "Mean reversion · a"
    assert set(flow_run.tags) == {"o9", "type:parameter_tuning", "strategy:default"}

    async def both() -> Any:
        found = await artifacts_of(prefect, flow_run)
        return found if {"markdown", "table"} <= found.keys() else None

    found = await async_wait_until(both, 30)
    assert (found["markdown"].key, found["table"].key) == ("o9-mean-reversion", "o9-mean-reversion-trials")
    failed = aggregator.store.read(queries.trial_counts, "a")["failed"]
    assert f"{failed} failed" in found["markdown"].data
    assert "beyond the line" in found["markdown"].data
    assert "<https://o9.desk.example/api/v1/optimizations/a/report>" in found["markdown"].data
    rows = json.loads(found["table"].data)
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    assert float(rows[0]["value"]) == pytest.approx(state.current_performance, abs=1e-4)


async def test_a_run_that_prefect_started_gets_its_name_progress_and_verdict(
    store_url: str, prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_view, "SHOW_SECONDS", 0.05)
    spec = {
        "optimization_id": "b",
        "name": "Carry",
        "total_steps": 10,
        "metadata": {"objective": "unhurried", "seed": 7},
    }
    with Store(store_url) as store, using_store(store):
        assert (await optimization_lifecycle(spec=spec, return_state=True)).is_completed()
        flow_run = await run_of(prefect, store, "b")
        verdict = store.read(queries.health_report, "b")
        leave_store(store)
    assert flow_run.name == "Carry · b"
    assert "strategy:default" in flow_run.tags
    found = await artifacts_of(prefect, flow_run)
    assert found.keys() == {"progress", "table", "markdown"}
    assert found["progress"].data == 100.0
    assert verdict is not None
    assert "UNPROVEN" in str(found["markdown"].data)


async def test_what_prefect_does_not_take_harms_nothing(
    aggregator: OptimizationStateAggregator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no artifacts today")

    monkeypatch.setattr(run_view, "SHOW_SECONDS", 0.01)
    monkeypatch.setattr(PrefectClient, "create_artifact", refuse)
    monkeypatch.setattr(PrefectClient, "read_artifacts", refuse)
    await aggregator.submit_optimization(new("c", objective="shown", total_steps=5))
    assert (await ended(aggregator, "c")).status.value == "completed"


async def test_a_step_whose_trials_all_failed_says_so(
    aggregator: OptimizationStateAggregator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "o9"):
        await aggregator.submit_optimization(new("d", objective="never", total_steps=2, trials_per_step=3))
        await ended(aggregator, "d")
    steps = [each.args for each in caplog.records if each.name == "o9.tasks.steps" and each.levelno == logging.WARNING]
    assert [args[:2] for args in steps if isinstance(args, tuple)] == [(0, 3), (1, 3)]

"""Statistics of real runs: the façade, the routes, and `compute_statistics` on a real Prefect server."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import o9_testing
import pytest
from contract_steps import at_work
from o9_testing import LINE
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Completed

from o9.aggregator.prefect_server import prefect_client_settings
from o9.flows.compute_statistics import compute_statistics
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store
from OptimizationStateAggregator import objective


@pytest.fixture(autouse=True)
def flows_go_to_the_session_s_server() -> Iterator[None]:
    with prefect_client_settings(o9_testing.session_server()):
        yield


@pytest.fixture
async def three(aggregator: Any) -> Any:
    """Two optimizations that complete with 40 trials each, and one whose objective fails."""
    objective("statistics-broken")(broken)
    branin: dict[str, Any] = {"objective": "branin", "direction": "minimize"}
    for number, fields in enumerate([branin, branin, {"objective": "statistics-broken", "search_space": LINE}]):
        state = o9_testing.new(
            f"opt-{number}", sampler="random", seed=number, trials_per_step=20, total_steps=2, **fields
        )
        await aggregator.submit_optimization(state)
    for number in range(3):
        await o9_testing.ended(aggregator, f"opt-{number}")
    return aggregator


async def test_every_figure_includes_what_ran(three: Any) -> None:
    told = await three.get_global_statistics()
    assert told["total_optimizations"] == 3
    assert told["duration_seconds"]["count"] == told["waiting_seconds"]["count"] == 3
    assert sum(day["count"] for day in told["by_day"].values()) == 3
    ranking = await three.get_optimization_rankings("current_performance", 5)
    values = [row["value"] for row in ranking]
    assert values == sorted(values)  # branin is minimized
    state = await three.get_optimization_status(ranking[0]["optimization_id"])
    assert state.current_performance == ranking[0]["value"]
    trends = await three.get_performance_trends(timedelta(hours=2))
    assert sum(window["count"] for window in trends["windows"]) == 3
    assert trends["trends"]["count"]["slope"] is None
    importance = await three.statistics.get_parameter_importance("opt-0")
    assert importance["trials"] == 40
    assert set(importance["parameters"]) == set(state.optimized_parameters)
    with pytest.raises(OptimizationValidationError, match="time_range"):
        await three.get_performance_trends(timedelta(0))


async def test_the_routes_answer_the_same(three: Any) -> None:
    for path, data, own in (
        ("/statistics/trends", {"days": 7}, await three.get_performance_trends()),
        ("/statistics/trends", None, await three.get_performance_trends()),
        (
            "/statistics/rankings", {"metric_name": "execution_time", "limit": 2},
            await three.get_optimization_rankings("execution_time", 2),
        ),
    ):  # fmt: skip
        answer = await three.handle_api_request(path, "GET", data)
        found = answer["data"]["items"] if path.endswith("rankings") else answer["data"]
        assert (answer["success"], found) == (True, own)
    refused = await three.handle_api_request("/statistics/rankings", "GET", {"metric_name": "execution_tine"})
    assert (refused["code"], "execution_time" in refused["error"]) == (422, True)


async def test_compute_statistics_repairs_and_publishes_in_prefect(aggregator: Any) -> None:
    store: Store = aggregator.store
    for key in ("a", "b"):
        at_work(store, key)
        store.write(Transition(key, S.COMPLETED, Cause.HOOK))
    path = store.url
    with sqlite3.connect(path) as direct:
        direct.execute("UPDATE rollup SET count = 40 WHERE span IN ('hour', 'all')")
    state = await compute_statistics(return_state=True)
    report = await state.result()  # type: ignore[misc]
    assert state.type == Completed().type
    assert len(report["corrections"]) == 2
    assert {row["span"] for row in report["corrections"]} == {"hour", "all"}
    assert {row["count"] for row in report["corrections"]} == {-38}
    assert all(sums.count == 2 for _, sums in store.read(queries.totals))
    run_id = state.state_details.flow_run_id
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
        run = await client.read_flow_run(run_id)  # type: ignore[arg-type]
    by_key = {artifact.key: artifact for artifact in found}
    assert run.state.is_completed()
    assert {(key, artifact.type) for key, artifact in by_key.items()} == {
        ("o9-statistics", "table"), ("o9-statistics-summary", "markdown"), ("o9-statistics-corrections", "table"),
        (None, "progress"),
    }  # fmt: skip
    assert "**2**" in str(by_key["o9-statistics-summary"].data)
    assert "**2 rollups" in str(by_key["o9-statistics-summary"].data)
    assert '"count": 2' in str(by_key["o9-statistics"].data)
    assert by_key[None].data == 100.0
    again = await compute_statistics()
    assert again["corrections"] == []


async def test_concurrent_runs_repair_once(aggregator: Any) -> None:
    store: Store = aggregator.store
    at_work(store, "a")
    store.write(Transition("a", S.COMPLETED, Cause.HOOK))
    with sqlite3.connect(store.url) as direct:
        direct.execute("UPDATE rollup SET count = 40, ran = 3")
    await asyncio.gather(compute_statistics(), compute_statistics())
    assert [(sums.count, sums.ran) for _, sums in store.read(queries.totals)] == [(1, 1)]
    assert [sums.count for _, sums in store.read(queries.totals)] == [1]


def test_it_is_deployed_by_its_module() -> None:
    assert load_flow_from_entrypoint("o9.flows.compute_statistics:compute_statistics") is compute_statistics


@pytest.mark.parametrize("days", [0, -1])
async def test_an_invalid_number_of_days_fails_the_run(aggregator: Any, days: int) -> None:
    state = await compute_statistics(days, return_state=True)
    assert state.is_failed()
    with pytest.raises(OptimizationValidationError, match="days"):
        await state.result()  # type: ignore[misc]


async def test_calls_before_the_start_are_refused(store_url: str) -> None:
    from OptimizationStateAggregator import OptimizationStateAggregator

    idle = OptimizationStateAggregator(storage_path=store_url)
    for ask in (idle.get_global_statistics, idle.get_performance_trends):
        with pytest.raises(OptimizationError, match="start"):
            await ask()


async def broken(parameters: dict[str, Any]) -> float:
    raise ArithmeticError("always")

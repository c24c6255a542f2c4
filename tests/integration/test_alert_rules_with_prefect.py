"""Rules in a running aggregator, and over what Prefect itself has scheduled."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import o9_testing
import psutil
import pytest
from o9_testing import LINE, ended, new
from prefect import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.flow_engine import run_flow_async

from o9.aggregator.late_runs import late_runs
from o9.aggregator.prefect_server import prefect_client_settings
from o9.alerts.rules.evaluator import RuleEvaluator
from o9.alerts.service.system import AlertNotificationSystem
from o9.blocks.store import using_store
from o9.flows.lifecycle import optimization_lifecycle
from o9.flows.membership import leave_store
from o9.lifecycle.processes import PROCESS, identity
from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.queue.claims import Heartbeat
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStateAggregator, objective

HOUR = timedelta(hours=1)


@objective("no feed", search_space=LINE)
async def no_feed(parameters: dict[str, float]) -> float:
    raise ConnectionError(f"the feed 10.0.0.7:443 does not answer for {parameters['x']}")


async def test_a_failing_optimization_is_one_alert_and_one_line_in_the_log(
    open_aggregator: Callable[..., Awaitable[OptimizationStateAggregator]],
    tmp_path: Path,
    set_o9: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("route: {receiver: default, group_wait: 1s}", encoding="utf-8")
    set_o9(alerts_file=path)
    aggregator = await open_aggregator()
    caplog.set_level(logging.INFO)
    await aggregator.submit_optimization(new("one", objective="no feed", total_steps=2, sampler="random"))
    assert (await ended(aggregator, "one")).status is S.FAILED

    async def sent() -> list[dict[str, Any]]:
        history = await aggregator.alert_system.get_notification_history()
        return [entry for entry in history if (entry["status"], entry["channel"]) == ("sent", "log")]

    (entry,) = await async_wait_until(sent, 20)
    (told_of,) = await aggregator.get_alerts()
    assert (told_of.optimization_id, told_of.level.value, told_of.metadata["rule"]) == ("one", "error", "failed")
    assert "ConnectionError: the feed 10.0.0.7:443 does not answer" in told_of.message
    assert entry["firing"] == [told_of.alert_id]
    said = [record.getMessage() for record in caplog.records if record.name == "o9.alerts"]
    assert len([text for text in said if "Optimization failed" in text]) == 1, said


async def test_a_form_that_is_refused_raises_an_alert_that_sends_nobody_to_retry_it(store_url: str) -> None:
    spec = {"name": "Carry", "metadata": {"objective": "os:getcwd", "search_space": LINE}}
    with prefect_client_settings(o9_testing.session_server()), Store(store_url) as store, using_store(store):
        async with get_client() as client:
            flow_id = await client.create_flow(optimization_lifecycle)
            deployment_id = await client.create_deployment(flow_id, f"refused-{flow_id}")
            flow_run = await client.create_flow_run_from_deployment(deployment_id, parameters={"spec": spec})
            asked = {"spec": spec, "optimization_id": "", "retry_of": ""}
            ended = await run_flow_async(optimization_lifecycle, flow_run, asked, return_type="state")
        assert ended.is_failed()
        (state,) = store.read(queries.page).items
        system = AlertNotificationSystem(store=store)
        await system.initialize()
        evaluator = RuleEvaluator(system)
        await evaluator.use(store, 30.0)
        assert await evaluator.evaluate("node", utc_now())
        (alert,) = await system.get_alerts()
        await evaluator.leave()
        await system.cleanup()
        leave_store(store)
    assert (alert.optimization_id, alert.metadata["rule"]) == (state.optimization_id, "refused")
    assert state.issues[-1] in alert.message
    assert "os:getcwd" in alert.message
    assert "o9 retry" not in alert.metadata["remedy"]


async def test_a_node_that_was_killed_is_told_by_the_next_one(
    open_aggregator: Callable[..., Awaitable[OptimizationStateAggregator]],
    store_url: str,
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    def told(store: Store) -> list[tuple[str, str, str | None]]:
        rows = store.read(queries.alerts)
        return [(row["metadata"]["rule"], row["metadata"]["labels"]["node"], row["resolved_at"]) for row in rows]

    with Store(store_url) as store:
        process = psutil.Popen(["sleep", "600"])
        for name in ("killed", "killed#flows"):
            about = {PROCESS: identity(process.pid)}
            store.write(Heartbeat(name, socket.gethostname(), process.pid, process.create_time(), 30.0, about))
        process.kill()
        process.wait()
        await open_aggregator()
        await async_wait_until(lambda: told(store) == [("node_died", "killed", None)])


async def test_runs_that_prefect_waits_for_are_late() -> None:
    began = datetime.now(UTC) - 2 * HOUR
    server = o9_testing.session_server()
    with prefect_client_settings(server):
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("optimization-lifecycle")
            other_id = await client.create_flow_from_name("of somebody else")
            names = {flow_id: f"nightly-{flow_id}", other_id: "theirs"}
            runs = []
            for flow, name in names.items():
                deployment_id = await client.create_deployment(flow, name)
                for at in (began, began + HOUR):
                    state = State(type=StateType.SCHEDULED, name="Late", state_details={"scheduled_time": at})
                    runs.append(await client.create_flow_run_from_deployment(deployment_id, state=state))
            late = await late_runs(server, utc_now())
            found = [each for each in late if names[flow_id] in each.labels["schedule"]]
            for run in runs:
                await client.delete_flow_run(run.id)
            after = await late_runs(server, utc_now())
    (facts,) = found
    assert not [each for each in late if "theirs" in each.labels["schedule"]]
    assert facts.figures["late_seconds"] == pytest.approx(7200, abs=60)
    assert not [each for each in after if names[flow_id] in each.labels["schedule"]]

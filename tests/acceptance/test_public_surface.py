"""Every name of the public surface, called with real work behind it; what requests can ask, by all three doors.

One aggregator and one HTTP server for all. A check says which names it `covers`; a test holds the two lists to each
other. `tests/unit/test_public_names.py` has what needs no aggregator.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import httpx
import o9_testing
import pytest
from http_server import serving
from o9_testing import ended, ledger, new, path_of, reached, until
from public_world import COMPONENT, DOORS, LIFE, NAMES, World, soon

import OptimizationStateAggregator as surface
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import (
    AlertLevel,
    AlertNotificationSystem,
    AsyncStateSynchronizer,
    HealthStatus,
    OptimizationAlert,
    OptimizationAPI,
    OptimizationCoordinator,
    OptimizationError,
    OptimizationHealthChecker,
    OptimizationHealthReport,
    OptimizationLifecycleError,
    OptimizationLifecycleManager,
    OptimizationMetrics,
    OptimizationMonitor,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStatistics,
    OptimizationStatus,
    OptimizationSyncError,
)

S = OptimizationStatus
Check = Callable[[World], Coroutine[Any, Any, None]]
CHECKS: dict[str, tuple[Check, tuple[str, ...]]] = {}


def covers(owner: str, names: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        CHECKS[check.__name__] = (check, tuple(f"{owner}.{name}" for name in names.split()))
        return check

    return add


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Check], None]]:
    """Runs a check in the event loop of a world that has an aggregator, a server, and `done`, which has completed."""
    folder = tmp_path_factory.mktemp("surface")
    store = str(folder / "store.db")
    shutil.copyfile(o9_testing.empty_store(), store)
    o9_testing.session_server()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("O9_API_RATE_LIMIT", "100000/minute")
        settings.cache_clear()
        aggregator = OptimizationStateAggregator(
            monitoring_interval=0.25, health_check_interval=3600.0, storage_path=store, schedules=()
        )
    with serving(aggregator.api) as served:

        def run(awaited: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(awaited, served.loop).result(o9_testing.PATIENCE * 120)

        async def begin() -> World:
            await aggregator.start()
            await aggregator.submit_optimization(new("done", objective="surface", total_steps=3, seed=7))
            await ended(aggregator, "done")
            return World(aggregator, httpx.AsyncClient(base_url=served.url, timeout=60), folder)

        async def end(world: World) -> None:
            await world.http.aclose()
            await aggregator.cleanup()

        world = run(begin())
        try:
            yield lambda check: run(check(world))
        finally:
            run(end(world))


# The aggregator


@covers("OptimizationStateAggregator", f"{LIFE} __aenter__ __aexit__")
async def life_of_an_aggregator(world: World) -> None:
    """In the specification's order, each call twice; what was asked before a start is refused."""
    other = OptimizationStateAggregator(
        storage_path=world.new_store("life"), monitoring_interval=0.1, sync_interval=1.0, schedules=()
    )
    for method, *arguments in (
        ("submit_optimization", new("a")), ("cancel_optimization", "a"), ("get_optimization_status", "a"),
        ("get_all_optimizations",), ("get_global_statistics",), ("get_alerts",), ("register_node", "n", {}),
        ("sync_optimization_state", "a"),
    ):  # fmt: skip
        with pytest.raises(OptimizationError):
            await getattr(other, method)(*arguments)
    assert (await other.handle_api_request("/statistics", "GET"))["code"] == 503
    async with other:
        for call in (other.initialize, other.start, other.initialize, other.start):
            await call()
        await other.submit_optimization(new("a", objective="surface", total_steps=1, seed=7))
        assert (await ended(other, "a")).status is S.COMPLETED
        await other.stop()
        await other.stop()
        with pytest.raises(OptimizationError):
            await other.get_all_optimizations()
        await other.start()
        assert [state.optimization_id for state in await other.get_all_optimizations()] == ["a"]
    await other.cleanup()
    components = {
        "monitor": OptimizationMonitor, "coordinator": OptimizationCoordinator, "statistics": OptimizationStatistics,
        "lifecycle_manager": OptimizationLifecycleManager, "health_checker": OptimizationHealthChecker,
        "api": OptimizationAPI, "synchronizer": AsyncStateSynchronizer, "alert_system": AlertNotificationSystem,
    }  # fmt: skip
    assert {name: type(getattr(other, name)) for name in components} == components


@covers("OptimizationStateAggregator", "submit_optimization get_optimization_status get_all_optimizations")
async def submission(world: World) -> None:
    aggregator = world.aggregator
    assert await aggregator.submit_optimization(new("by-python", objective="surface", total_steps=3, seed=7))
    for door in DOORS:
        fields = {"optimization_id": f"by-{door}", "total_steps": 3, "metadata": {"objective": "surface", "seed": 7}}
        answers = [await world.asked(door, "POST", "/optimizations", fields) for _ in range(2)]
        assert {answer["data"]["optimization_id"] for answer in answers} == {f"by-{door}"}
    for name in ("by-python", *(f"by-{door}" for door in DOORS)):
        state = await ended(aggregator, name)
        assert (state.status, state.completed_steps, state.progress) == (S.COMPLETED, 3, 1.0)
        assert ledger(world.store, name) == ledger(world.store, "done")
        assert path_of(world.store, name) == ["created", "initializing", "running", "completed"]
        again = await aggregator.get_optimization_status(name)
        assert await world.read(f"/optimizations/{name}") == again.to_dict() | {"grade": ANY}
    everything = [state.to_dict() | {"grade": ANY} for state in await aggregator.get_all_optimizations()]
    assert (await world.read("/optimizations", {"limit": 1000}))["items"] == everything
    trials = (await world.read("/optimizations/by-python/trials"))["items"]
    assert trials == [trial.to_dict() for trial in world.store.read(queries.trials, "by-python")]
    assert await aggregator.get_optimization_status("nobody") is None
    assert await world.code("GET", "/optimizations/nobody") == 404
    with pytest.raises(OptimizationError):
        await aggregator.submit_optimization(new("by-python", objective="surface", total_steps=4))
    assert (
        await world.code(
            "POST", "/optimizations", {"optimization_id": "by-python", "metadata": {"objective": "branin"}}
        )
        == 409
    )


@covers("OptimizationStateAggregator", "pause_optimization resume_optimization cancel_optimization")
async def control(world: World) -> None:
    aggregator = world.aggregator
    paths = []
    for door in ("python", *DOORS):
        name = f"steered-{door}"
        await aggregator.submit_optimization(new(name, objective="surface", total_steps=100_000, seed=7))
        await until(aggregator, name, lambda state: state.completed_steps > 0)
        await world.steer(door, "pause", name)
        steps = (await reached(aggregator, name, "paused")).completed_steps
        await world.steer(door, "resume", name)
        await until(aggregator, name, lambda state: state.completed_steps > steps)  # noqa: B023
        await world.steer(door, "cancel", name)
        await reached(aggregator, name, "cancelled")
        paths.append(path_of(world.store, name))
        assert await world.code("POST", f"/optimizations/{name}/resume") == 409
    assert paths == [[
        "created", "initializing", "running", "paused", "created", "initializing", "running", "cancelled",
    ]] * 3  # fmt: skip
    with pytest.raises(OptimizationStateError):
        await aggregator.pause_optimization("done")
    assert await world.code("POST", "/optimizations/done/pause") == 409


@covers("OptimizationStateAggregator", "get_optimization_metrics get_optimization_health")
async def of_one(world: World) -> None:
    metrics = await world.aggregator.get_optimization_metrics("done")
    assert [each.optimization_id for each in metrics] == ["done"] * 3
    assert all(each.execution_time > 0 and each.throughput > 0 for each in metrics)  # type: ignore[operator]
    assert (await world.read("/optimizations/done/metrics"))["items"] == [each.to_dict() for each in metrics]
    report = await world.aggregator.get_optimization_health("done")
    assert report is not None
    assert report.completeness_status is HealthStatus.HEALTHY
    verdict = await world.aggregator.health_checker.get_verdict("done")
    assert verdict is not None
    judged = {"grade": verdict.grade.value, "verdict": verdict.to_dict()}
    assert await world.read("/health/done") == report.to_dict() | judged
    assert await world.aggregator.get_optimization_metrics("nobody") == []
    assert await world.aggregator.get_optimization_health("nobody") is None
    assert await world.code("GET", "/optimizations/nobody/metrics") == 404
    assert await world.code("GET", "/health/nobody") == 404
    system = await world.read("/health")
    assert (system["running"], system["prefect"]["alive"]) == (True, True)


@covers("OptimizationStateAggregator", "get_global_statistics get_performance_trends get_optimization_rankings")
async def over_all(world: World) -> None:
    aggregator = world.aggregator
    told = await aggregator.get_global_statistics()
    assert told["by_status"]["completed"] >= 1
    assert told["duration_seconds"]["mean"] > 0
    assert await world.read("/statistics") == told
    trends = await aggregator.get_performance_trends(time_range=timedelta(days=7))
    assert sum(window["count"] for window in trends["windows"]) >= 1
    assert await world.read("/statistics/trends", {"days": 7}) == trends
    ranked = await aggregator.get_optimization_rankings("current_performance", limit=1)
    best = max(state.current_performance for state in world.store.read(queries.page).items)
    assert [(row["rank"], row["value"]) for row in ranked] == [(1, best)]
    query = {"metric_name": "current_performance", "limit": 1}
    assert (await world.read("/statistics/rankings", query))["items"] == ranked


@covers("OptimizationStateAggregator", "send_alert get_alerts")
async def alerts(world: World) -> None:
    aggregator = world.aggregator
    for number, level in enumerate((AlertLevel.ERROR, AlertLevel.CRITICAL, AlertLevel.CRITICAL)):
        await aggregator.send_alert(OptimizationAlert(f"sent-{number}", f"book-{number}", level, "Drawdown", "3 %"))

    async def mine(about: str | None = None, level: AlertLevel | None = None) -> dict[str, bool]:
        """Those of this check, by id, newest first, whether they are resolved; others are of rules."""
        found = await aggregator.get_alerts(optimization_id=about, level=level)
        query = ({"optimization_id": about} if about else {}) | ({"level": level.value} if level else {})
        shown = (await world.read("/alerts", query))["items"]
        own = [alert for alert in found if alert.alert_id.startswith("sent-")]
        assert [alert.to_dict() for alert in own] == [each for each in shown if each["alert_id"].startswith("sent-")]
        return {alert.alert_id: alert.resolved for alert in own}

    assert [*await mine()] == ["sent-2", "sent-1", "sent-0"]
    assert [*await mine("book-1")] == ["sent-1"]
    assert [*await mine(level=AlertLevel.CRITICAL)] == ["sent-2", "sent-1"]
    assert await mine("book-0", AlertLevel.INFO) == {}
    for door, name in zip(DOORS, ("sent-1", "sent-2"), strict=True):
        assert (await world.asked(door, "POST", f"/alerts/{name}/resolve", {"by": "ana"}))["data"]["resolved"] is True
    assert await mine() == {"sent-2": True, "sent-1": True, "sent-0": False}


@covers("OptimizationStateAggregator", "handle_api_request")
async def requests(world: World) -> None:
    """What changes by requests alone, and each way to be refused."""
    for door in DOORS:
        name = f"changed-{door}"
        await world.aggregator.lifecycle_manager.create_optimization(new(name, objective="surface", total_steps=2))
        fields = {"name": "renamed", "priority": "critical", "total_steps": 1}
        changed = (await world.asked(door, "PUT", f"/optimizations/{name}", fields))["data"]
        assert (changed["name"], changed["priority"], changed["total_steps"]) == ("renamed", 4, 1)
        assert (await world.asked(door, "POST", f"/optimizations/{name}/start"))["success"]
        assert (await ended(world.aggregator, name)).completed_steps == 1
        assert [row["to_status"] for row in (await world.read(f"/optimizations/{name}/transitions"))["items"]] == [
            "created", "initializing", "running", "completed",
        ]  # fmt: skip
        assert (await world.asked(door, "DELETE", f"/optimizations/{name}"))["success"]
        assert await world.aggregator.get_optimization_status(name) is None
    for method, path, data, code in (
        ("GET", "/weather", None, 404), ("PATCH", "/statistics", None, 405),
        ("POST", "/alerts/ghost/resolve", None, 404),
        ("POST", "/optimizations", {"total_steps": -3}, 422), ("GET", "/optimizations", {"colour": "red"}, 422),
        ("POST", "/optimizations", {"name": "x" * (1 << 20)}, 413),
    ):  # fmt: skip
        assert await world.code(method, path, data) == code
    limited = OptimizationAPI(backend=world.aggregator, rate_limit="2/minute")
    codes = [
        (await limited.handle_api_request("/statistics", "GET", client_id=client)).get("code", 200)
        for client in ("a", "a", "a", "b")
    ]
    assert codes == [200, 200, 429, 200]


@covers("OptimizationStateAggregator", "register_node sync_optimization_state")
async def nodes(world: World) -> None:
    assert await world.aggregator.register_node("spare", {"cores": 8}) is True
    assert await world.aggregator.sync_optimization_state("done") is True
    told = await world.aggregator.synchronizer.get_sync_statistics()
    assert {node["node_id"]: node["expected"] for node in told["nodes"]}["spare"] == {"cores": 8}
    assert await world.aggregator.synchronizer.unregister_node("spare") is True
    with pytest.raises(OptimizationError):
        await world.aggregator.sync_optimization_state("nobody")


# The components, alone on the same record


BUILT: dict[str, Callable[[], Any]] = {
    "OptimizationMonitor": lambda: OptimizationMonitor(check_interval=1.0),
    "OptimizationCoordinator": lambda: OptimizationCoordinator(max_concurrent_optimizations=10),
    "OptimizationLifecycleManager": OptimizationLifecycleManager,
    "OptimizationStatistics": lambda: OptimizationStatistics(storage_path=settings().store_url),
    "OptimizationHealthChecker": lambda: OptimizationHealthChecker(check_interval=30.0),
    "AsyncStateSynchronizer": lambda: AsyncStateSynchronizer(sync_interval=5.0, max_sync_workers=3),
    "AlertNotificationSystem": AlertNotificationSystem,
    "OptimizationAPI": lambda: OptimizationAPI(api_version="v1"),
}


def life_of(owner: str) -> Check:
    async def life(world: World) -> None:
        component = BUILT[owner]()
        for call in ("initialize", "start", "initialize", "start", "stop", "stop", "start", "cleanup", "cleanup"):
            await getattr(component, call)()
        for event in component.events:
            component.register_callback(event, print)
            await component.register_callback(event, print)
        with pytest.raises(OptimizationError):
            component.register_callback("no such event", print)

    life.__name__ = f"life_of_{owner}"
    return life


for each in BUILT:
    covers(each, COMPONENT)(life_of(each))


@covers(
    "OptimizationMonitor", "start_monitoring stop_monitoring get_optimization_status get_monitoring_data get_alerts"
)
async def monitor(world: World) -> None:
    alone = OptimizationMonitor(check_interval=0.1, store=world.store)
    heard: list[OptimizationAlert] = []
    alone.register_callback("alert", heard.append)
    await alone.start()
    assert await alone.start_monitoring("done") is True
    snapshots = await alone.get_monitoring_data("done", limit=2)
    assert [snapshot["progress"]["completed_steps"] for snapshot in snapshots][-1:] == [3]
    assert len(snapshots) == 2
    assert await alone.get_optimization_status("done") == await world.aggregator.get_optimization_status("done")
    endless = {"total_steps": 100_000, "stop_after_failures": 100_000}
    await world.aggregator.submit_optimization(new("troubled", objective="surface troubled", **endless))
    await soon(lambda: heard)
    assert {alert.optimization_id for alert in heard} == {"troubled"}
    found = await alone.get_alerts("troubled", heard[0].level)
    assert heard[0].alert_id in {alert.alert_id for alert in found}
    assert await alone.stop_monitoring("troubled") is True  # what has ended it drops by itself
    assert await alone.stop_monitoring("troubled") is False
    await world.aggregator.cancel_optimization("troubled")
    await ended(world.aggregator, "troubled")
    await alone.cleanup()


async def climb(optimization: OptimizationState) -> None:
    for step in range(optimization.completed_steps, optimization.total_steps):
        await asyncio.sleep(0.01)
        optimization.current_performance = float(step)
        optimization.progress = (step + 1) / optimization.total_steps


@covers(
    "OptimizationCoordinator",
    "submit_optimization cancel_optimization pause_optimization resume_optimization get_optimization_status "
    "get_all_optimizations register_strategy set_optimization_policy",
)
async def coordinator(world: World) -> None:
    alone = OptimizationCoordinator(max_concurrent_optimizations=10, store=world.store)
    completed: list[str] = []
    alone.register_callback("optimization_completed", lambda state: completed.append(state.optimization_id))
    await alone.start()
    await alone.register_strategy("surface climb", climb)
    alone.set_optimization_policy("surface climb", {"timeout_seconds": 600})
    assert await alone.submit_optimization(new("climbs", strategy="surface climb", total_steps=5)) == "climbs"
    state = await ended(world.aggregator, "climbs")
    assert (state.status, state.completed_steps, state.current_performance) == (S.COMPLETED, 5, 4.0)
    assert state.metadata["timeout_seconds"] == 600
    await soon(lambda: "climbs" in completed)
    await alone.submit_optimization(new("waved", objective="surface", total_steps=100_000))
    for verb, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert await getattr(alone, f"{verb}_optimization")("waved") is True
        await reached(world.aggregator, "waved", status)
    assert (await alone.get_optimization_status("waved")).status is S.CANCELLED
    found, all_of_them = await alone.get_all_optimizations(), await world.aggregator.get_all_optimizations()
    assert [state.optimization_id for state in found] == [state.optimization_id for state in all_of_them]
    await alone.cleanup()


@covers(
    "OptimizationLifecycleManager",
    "create_optimization start_optimization initialize_optimization pause_optimization resume_optimization "
    "complete_optimization fail_optimization cancel_optimization timeout_optimization get_lifecycle_state "
    "get_lifecycle_history register_lifecycle_hook",
)
async def lifecycle_manager(world: World) -> None:
    with Store(world.new_store("by-hand")) as store:
        alone = OptimizationLifecycleManager(store=store)
        heard: list[Any] = []
        alone.register_lifecycle_hook("on_create", lambda state: heard.append(state.optimization_id))
        await alone.register_lifecycle_hook("after_completed", heard.append)
        await alone.start()
        for end in ("complete", "fail", "cancel", "timeout"):
            assert await alone.create_optimization(new(end, objective="surface")) == end
            for verb in ("start", "pause", "resume", "initialize", "start", end):
                arguments = (end, "out of prices") if verb == "fail" else (end,)
                assert await getattr(alone, f"{verb}_optimization")(*arguments) is True
        reached = {end: await alone.get_lifecycle_state(end) for end in ("complete", "fail", "cancel", "timeout")}
        assert [*reached.values()] == [S.COMPLETED, S.FAILED, S.CANCELLED, S.TIMEOUT]
        assert heard == ["complete", "complete", "fail", "cancel", "timeout"]
        assert store.read(queries.get, "fail").issues == ["out of prices"]
        history = await alone.get_lifecycle_history("complete")
        assert [(entry["from_state"], entry["to_state"]) for entry in history] == [
            (None, S.CREATED), (S.CREATED, S.PAUSED), (S.PAUSED, S.CREATED), (S.CREATED, S.INITIALIZING),
            (S.INITIALIZING, S.RUNNING), (S.RUNNING, S.COMPLETED),
        ]  # fmt: skip
        times = [entry["timestamp"] for entry in history]
        assert times == sorted(times)

        def forbid(optimization_id: str) -> None:
            raise RuntimeError("the exchange is closed")

        alone.register_lifecycle_hook("before_initializing", forbid)
        await alone.create_optimization(new("forbidden", objective="surface"))
        with pytest.raises(OptimizationLifecycleError):
            await alone.initialize_optimization("forbidden")
        await alone.cleanup()


@covers(
    "OptimizationStatistics",
    "record_optimization_metric get_optimization_statistics get_global_statistics get_optimization_history "
    "get_performance_trends get_optimization_rankings",
)
async def statistics(world: World) -> None:
    alone = OptimizationStatistics(world.store.url)
    await alone.start()
    measured = OptimizationMetrics("done", utc_now(), accuracy=0.75)
    await alone.record_optimization_metric("done", measured)
    history = await alone.get_optimization_history("done", limit=1000)
    assert [(row["step"], row["value"]) for row in history if row["name"] == "accuracy"] == [(None, 0.75)]
    assert {row["step"] for row in history} == {None, 0, 1, 2}
    [ranked] = await alone.get_optimization_rankings("accuracy", 10)
    assert (ranked["optimization_id"], ranked["value"], ranked["rank"]) == ("done", 0.75, 1)
    one = await alone.get_optimization_statistics("done")
    assert (one["trials"], one["completed_steps"], one["attempts"]) == ({"completed": 3}, 3, 1)
    assert await alone.get_global_statistics() == await world.aggregator.get_global_statistics()
    week = timedelta(days=7)
    assert await alone.get_performance_trends(week) == await world.aggregator.get_performance_trends(week)
    await alone.cleanup()


@covers(
    "OptimizationHealthChecker",
    "check_optimization_health get_health_report get_all_health_reports set_health_threshold register_health_rule",
)
async def health_checker(world: World) -> None:
    alone = OptimizationHealthChecker(check_interval=30.0, store=world.store)
    await alone.start()

    async def rule(optimization_id: str, report: OptimizationHealthReport) -> None:
        report.issues.append(f"{optimization_id} was looked at")

    await alone.register_health_rule(rule)
    plain = await alone.check_optimization_health("done")
    assert plain.completeness_status is HealthStatus.HEALTHY
    assert plain.issues[-1] == "done was looked at"
    alone.register_health_rule(lambda optimization_id, report: setattr(report, "overall_status", HealthStatus.CRITICAL))
    report = await alone.check_optimization_health("done")
    assert report.overall_status is HealthStatus.CRITICAL
    assert await alone.get_health_report("done") == report
    assert report in await alone.get_all_health_reports()
    await alone.set_health_threshold("performance_threshold", 0.0)
    lenient = await alone.check_optimization_health("done")
    assert lenient.performance_score is None or lenient.performance_status is HealthStatus.HEALTHY
    with pytest.raises(OptimizationError):
        alone.set_health_threshold("performance_threshold", 1.5)
    await alone.cleanup()


@covers(
    "AsyncStateSynchronizer",
    "register_node unregister_node sync_optimization_state broadcast_optimization_update get_sync_statistics",
)
async def synchronizer(world: World) -> None:
    alone = AsyncStateSynchronizer(sync_interval=1.5, max_sync_workers=3, store=world.store)
    heard: dict[str, list[Any]] = {"here": [], "there": []}
    for where, node in (("here", alone), ("there", world.aggregator.synchronizer)):
        node.register_callback("synced", lambda change, where=where: heard[where].append(change["update"]))
    with pytest.raises(OptimizationSyncError):
        await alone.sync_optimization_state("done")
    await alone.start()
    assert await alone.register_node("cold", {"role": "spare"}) is True
    assert await alone.sync_optimization_state("done", [alone.node_id]) is True
    assert await alone.sync_optimization_state("done", target_nodes=["cold"]) is False
    for number in range(3):
        assert await alone.broadcast_optimization_update("done", {"leverage": number}) is True
    told = [None, None, *({"leverage": number} for number in range(3))]
    await soon(lambda: heard["here"] == heard["there"][-5:] == told)
    statistics = await alone.get_sync_statistics()
    assert statistics.keys() == {"queue_size", "active_nodes", "total_nodes", "sync_stats", "last_sync", "nodes"}
    assert (statistics["queue_size"], statistics["active_nodes"], statistics["total_nodes"]) == (0, 2, 3)
    assert statistics["sync_stats"] == {"confirmed": 1, "unconfirmed": 1, "broadcasts": 3, "heard": 5}
    assert await alone.unregister_node("cold") is True
    assert await alone.unregister_node("cold") is False
    await alone.cleanup()


@covers(
    "AlertNotificationSystem",
    "send_alert register_notification_channel register_alert_rule suppress_alert get_notification_history "
    "get_alert_statistics",
)
async def alert_system(world: World) -> None:
    told: dict[str, list[str]] = {name: [] for name in ("log", "console", "file", "desk")}

    def channel(name: str) -> Callable[[OptimizationAlert], None]:
        return lambda alert: told[name].append(alert.alert_id)

    async def rule(alert: OptimizationAlert) -> bool | None:
        return False if alert.level is AlertLevel.INFO else None

    with Store(world.new_store("alerts")) as store:
        alone = AlertNotificationSystem({name: channel(name) for name in ("log", "console", "file")}, store=store)
        await alone.start()
        alone.register_notification_channel("desk", channel("desk"))
        await alone.register_alert_rule(rule)
        assert await alone.suppress_alert("maintenance", timedelta(hours=1))
        for name, level, title in (
            ("remark", AlertLevel.INFO, "Rebalanced"), ("silent", AlertLevel.ERROR, "Feed maintenance"),
            ("aloud", AlertLevel.CRITICAL, "Drawdown"),
        ):  # fmt: skip
            episode = await alone.send_alert(OptimizationAlert(name, f"of-{name}", level, title, "see the book"))
            assert (episode is None) == (name == "remark")
        await soon(lambda: all(told.values()))
        assert told == {name: ["aloud"] for name in told}

        async def recorded() -> bool:
            counts = await alone.get_alert_statistics()
            history = await alone.get_notification_history(limit=100)
            untold = {entry["alert_id"] for entry in history if entry["status"] == "suppressed"}
            sent = [entry["status"] for entry in history].count("sent")
            return (counts["sent"], sent, untold) == (dict.fromkeys(told, 1), len(told), {"remark", "silent"})

        await soon(recorded)
        await alone.cleanup()


@covers("OptimizationAPI", "handle_api_request register_api_handler get_api_stats")
async def api(world: World) -> None:
    assert (await OptimizationAPI(api_version="v1").handle_api_request("/statistics", "GET"))["code"] == 503
    heard: list[Any] = []

    async def desk(data: Any, name: str) -> Any:
        return {"desk": name, "limit": data["limit"]}

    mine = world.aggregator.api
    mine.register_callback("request", heard.append)
    await mine.register_api_handler("/desks/{name}", "POST", desk)
    before = mine.get_api_stats()
    for door in DOORS:
        answer = await world.asked(door, "POST", "/desks/rates", {"limit": 3})
        assert answer["data"] == {"desk": "rates", "limit": 3}
    after = mine.get_api_stats()
    assert (after["api_version"], after["requests"] - before["requests"]) == ("v1", 2)
    assert after["by_endpoint"]["POST /desks/{name}"] == 2
    await soon(lambda: len(heard) == 2)
    assert [(entry["method"], entry["code"]) for entry in heard] == [("POST", 200)] * 2


def test_every_name_is_checked_once() -> None:
    covered = [name for _, names in CHECKS.values() for name in names]
    assert sorted(covered) == sorted(NAMES)
    for name in NAMES:
        owner, method = name.split(".")
        assert callable(getattr(getattr(surface, owner), method)), name


@pytest.mark.xdist_group("surface")  # one process has the aggregator
@pytest.mark.parametrize("name", CHECKS)
def test_each_name_does_its_work(
    name: str, work: Callable[[Check], None], set_o9: Callable[..., None], store_url: str
) -> None:
    set_o9(store_url=store_url)  # of those that open a store by themselves
    work(CHECKS[name][0])

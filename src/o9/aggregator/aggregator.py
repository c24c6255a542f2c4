"""The façade: one object that opens the store, finds Prefect, runs queued optimizations and answers questions.

An aggregator belongs to the event loop that starts it. Several aggregators, in one process or many, may share a store;
the limit on concurrent optimizations applies to all of them together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

from o9.aggregator.late_runs import late_runs
from o9.aggregator.node import Node
from o9.aggregator.prefect_events import emit_to_prefect
from o9.aggregator.prefect_server import ensure_prefect_server, prefect_client_settings
from o9.aggregator.schedules import Schedule, checked_schedules, in_nodes
from o9.aggregator.store_block import resolve_store_url
from o9.aggregator.suspender import Suspender
from o9.alerts.rules.evaluator import PASS_SECONDS, RuleService
from o9.alerts.service.system import AlertNotificationSystem
from o9.api.api import OptimizationAPI
from o9.blocks.alert_channel import load_block
from o9.blocks.store import release_store, use_store
from o9.flows.membership import leave_store
from o9.flows.run_view import run_page
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.control import Control, ControlVerbs
from o9.lifecycle.coordinator import OptimizationCoordinator
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.mirror.spooling_writer import close_writer
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.loops import check_loop
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationState,
)
from o9.model.settings import DEFAULT_STORE, settings
from o9.model.states import AlertLevel
from o9.model.validation import validate_seconds
from o9.monitor.monitor import OptimizationMonitor
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.core.component import StoreComponent
from o9.store.store import Store
from o9.synchronizer.synchronizer import AsyncStateSynchronizer

logger = logging.getLogger(__name__)


class OptimizationStateAggregator(ControlVerbs):
    """Runs optimizations as Prefect flows and records what happens to them.

    max_concurrent_optimizations: how many run at once, over all aggregators on the store.
    monitoring_interval, health_check_interval, sync_interval: seconds.
    storage_path: the store: a path, a URL or block:NAME. The default stands for O9_STORE_URL.
    schedules: flows to run at their intervals, unless another aggregator on the store does. None: those of
        `o9.aggregator.schedules.in_nodes`, with health checks every `health_check_interval`, at most twice a second.
    only: the ids of the optimizations to run; None: all that are queued.
    """

    def __init__(
        self,
        max_concurrent_optimizations: int = 10,
        monitoring_interval: float = 1.0,
        health_check_interval: float = 30.0,
        sync_interval: float = 5.0,
        storage_path: str = DEFAULT_STORE,
        *,
        schedules: Sequence[Schedule] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        intervals = {
            "monitoring_interval": monitoring_interval,
            "health_check_interval": health_check_interval,
            "sync_interval": sync_interval,
        }
        for name, seconds in intervals.items():
            validate_seconds(name, seconds)
        self._url = settings().store_url if storage_path == DEFAULT_STORE else str(storage_path)
        self._interval = float(monitoring_interval)
        self._only = _ids(only)
        self._schedules = checked_schedules(in_nodes(health_check_interval) if schedules is None else schedules)
        self.coordinator = OptimizationCoordinator(max_concurrent_optimizations, interval=self._interval)
        self.lifecycle_manager = OptimizationLifecycleManager()
        self._control = self.lifecycle_manager.control
        self.coordinator.use_control(self._control)
        self._control.follows_record = lambda: self.coordinator.is_running
        self.coordinator.register_callback("transition", self.lifecycle_manager.recorded)
        self.monitor = OptimizationMonitor(monitoring_interval)
        self.statistics = OptimizationStatistics()
        self.health_checker = OptimizationHealthChecker(health_check_interval)
        self.synchronizer = AsyncStateSynchronizer(sync_interval)
        self.alert_system = AlertNotificationSystem(resolve_block=load_block)
        self._following = (self.synchronizer, self.statistics, self.health_checker)
        emit_to_prefect(
            self.coordinator,
            self.health_checker,
            self.alert_system,
            lambda: self._node.server if self._node is not None else None,
        )
        self._suspender = Suspender(self.health_checker, self._interval)
        self._rules = RuleService(
            self.alert_system,
            self.monitor,
            interval=min(PASS_SECONDS, 5 * self._interval),
            schedules={schedule.name: schedule.lease for schedule in self._schedules},
            run_page=lambda run: run_page(run) if self._node is not None and not self._node.server.local else "",
        )
        self.api = OptimizationAPI(backend=self)
        self._store: Store | None = None
        self._node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = asyncio.Lock()

    async def initialize(self) -> None:
        """Open the store. Raises OptimizationStoreError, naming what to do."""
        async with self._gate:
            await self._initialize()

    async def start(self, report: Callable[[str], None] | None = None) -> None:
        """Start running queued optimizations. `report` is called with a line about each thing this waits for."""
        async with self._gate:
            await self._initialize()
            if self._node is None:
                try:
                    await self._start(report or logger.info)
                except BaseException:
                    await self._stop()
                    raise

    async def stop(self) -> None:
        """Stop running optimizations. Those under way commit their step and wait for the next start."""
        async with self._gate:
            await self._stop()

    async def cleanup(self) -> None:
        """Stop, and close the store."""
        async with self._gate:
            await self._stop()
            if self._store is not None:
                store, self._store = self._store, None
                await self.alert_system.cleanup()
                release_store(store)
                await asyncio.to_thread(leave_store, store)
                await asyncio.to_thread(close_writer, store)
                await asyncio.to_thread(store.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cleanup()

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return self._node is not None

    @property
    def control(self) -> Control:
        """The control that its verbs call; raises OptimizationError while it is not started."""
        self._started()
        return self._control

    @property
    def store(self) -> Store:
        """The open store; raises OptimizationError before `initialize()`."""
        if self._store is None:
            raise OptimizationError("the aggregator is not open: call `await aggregator.start()` first")
        return self._store

    @property
    def prefect_url(self) -> str:
        """The API's URL of the Prefect server that runs the flows."""
        return self._started().server.api_url

    async def prefect_alive(self) -> bool:
        """Whether that server answers."""
        return await self._started().server.alive()

    async def submit_optimization(self, state: OptimizationState) -> str:
        """Record an optimization durably, and queue it. Returns its id.

        Raises OptimizationValidationError, naming the field; OptimizationConflictError for an id that is taken.
        """
        return (await self.control.submit(state)).optimization_id

    async def get_optimization_status(self, optimization_id: str) -> OptimizationState | None:
        """The present state, also after the end; None for an unknown id."""
        self._started()
        return await self.store.read_async(queries.get, optimization_id)

    async def get_all_optimizations(self) -> list[OptimizationState]:
        """All of them, newest first."""
        self._started()
        return await self.coordinator.get_all_optimizations()

    async def get_optimization_metrics(self, optimization_id: str) -> list[OptimizationMetrics]:
        """One entry for each step, oldest first; what was not measured is None. Empty for an unknown id."""
        if await self.get_optimization_status(optimization_id) is None:
            return []
        return await self.monitor.get_optimization_metrics(optimization_id)

    async def get_optimization_health(self, optimization_id: str) -> OptimizationHealthReport | None:
        """A health report newer than the last change and `health_check_interval`; None for an unknown id."""
        if await self.get_optimization_status(optimization_id) is None:
            return None
        return await self.health_checker.recent_report(optimization_id)

    async def get_global_statistics(self) -> dict[str, Any]:
        """See OptimizationStatistics.get_global_statistics."""
        self._started()
        return await self.statistics.get_global_statistics()

    async def get_performance_trends(self, time_range: timedelta = timedelta(days=7)) -> dict[str, Any]:
        """See OptimizationStatistics.get_performance_trends."""
        self._started()
        return await self.statistics.get_performance_trends(time_range)

    async def get_optimization_rankings(self, metric_name: str, limit: int = 10) -> list[dict[str, Any]]:
        """See OptimizationStatistics.get_optimization_rankings."""
        self._started()
        return await self.statistics.get_optimization_rankings(metric_name, limit)

    async def send_alert(self, alert: OptimizationAlert) -> str | None:
        """Record an alert durably; the alert system decides who is notified, and when. Returns its episode's id.

        Raises OptimizationValidationError, naming the field; OptimizationConflictError for an id with other content.
        """
        self._started()
        return await self.alert_system.send_alert(alert)

    async def get_alerts(
        self, optimization_id: str | None = None, level: AlertLevel | None = None
    ) -> list[OptimizationAlert]:
        """The newest 1,000 alerts, newest first; AlertNotificationSystem.get_alerts returns earlier ones."""
        self._started()
        return await self.alert_system.get_alerts(optimization_id, level)

    async def handle_api_request(
        self, endpoint: str, method: str, data: Any = None, client_id: str | None = None
    ) -> dict[str, Any]:
        """Answer a request as the REST API does; a failure is an answer, never an exception."""
        return await self.api.handle_api_request(endpoint, method, data, client_id)

    async def register_node(self, node_id: str, node_info: Mapping[str, Any]) -> bool:
        """See AsyncStateSynchronizer.register_node."""
        self._started()
        return await self.synchronizer.register_node(node_id, node_info)

    async def sync_optimization_state(self, optimization_id: str, target_nodes: Sequence[str] | None = None) -> bool:
        """See AsyncStateSynchronizer.sync_optimization_state."""
        self._started()
        return await self.synchronizer.sync_optimization_state(optimization_id, target_nodes)

    async def _initialize(self) -> None:
        if self._store is not None:
            return
        store = await asyncio.to_thread(Store, await resolve_store_url(self._url))
        self.alert_system.use(store)
        try:
            await self.alert_system.initialize()  # raises for an invalid alerts file
        except BaseException:
            await asyncio.to_thread(store.close)
            raise
        self._store = store
        reading: tuple[StoreComponent, ...] = (
            self.coordinator, self.lifecycle_manager, self.monitor, self.statistics, self.health_checker,
            self.synchronizer,
        )  # fmt: skip
        for component in reading:
            component.use(self._store)
        use_store(self._store)

    async def _start(self, report: Callable[[str], None]) -> None:
        await self._rules.use(self.store, settings().lease_seconds)
        server = await ensure_prefect_server(report)
        try:
            node = Node(
                self.store,
                server,
                limit=self.coordinator.max_concurrent_optimizations,
                interval=self._interval,
                control=self._control,
                schedules=self._schedules,
                on_dead=self._rules.node_died,
                blocked_reason=lambda: self._suspender.blocked_reason,
                only=self._only,
            )
            await node.start()
        except BaseException:
            await server.close()
            raise
        self._node, self._loop = node, asyncio.get_running_loop()
        self._control.run_by(node.dispatcher.wake, lambda name: self._only is None or name in self._only)
        self._suspender.start(self.store, node.name, lambda: node.dispatcher.running)
        await self.coordinator.start()
        self.synchronizer.use_node(node.name)
        for component in self._following:
            await component.start()
        await self._rules.node_joined(node.name)
        self.alert_system.use_node(node.name)
        with prefect_client_settings(node.server):  # blocks of the alerts' file are loaded under these
            await self.alert_system.start()
        await self._rules.start(node.name, lambda: node.server.alive(), lambda now: late_runs(node.server, now))
        await self.monitor.start()
        await self.api.start()

    async def _stop(self) -> None:
        if self._node is not None:
            check_loop(self._loop, "the aggregator")
            node, self._node = self._node, None
            self._control.run_by(None)
            await self._suspender.stop()
            for component in self._following:
                await component.stop()
            await self.monitor.stop()
            await self._rules.stop()
            await asyncio.gather(node.stop(), self.alert_system.stop())
            await self.coordinator.stop()
            await self.api.stop()

    def _started(self) -> Node:
        if self._node is None:
            raise OptimizationError("the aggregator is not running: call `await aggregator.start()` first")
        check_loop(self._loop, "the aggregator")
        return self._node


def _ids(only: Collection[str] | None) -> frozenset[str] | None:
    if only is None:
        return None
    if isinstance(only, str) or not all(isinstance(name, str) for name in only):
        raise OptimizationValidationError("only", f"expected ids of optimizations in a list, got {only!r:.100}")
    return frozenset(only)

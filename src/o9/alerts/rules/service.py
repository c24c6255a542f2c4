"""Alert rules on a node: it evaluates them for all nodes while it holds the lease, and those about itself in any case.

Contract. Owned by one event loop, but for `node_died`. A store that is away is logged once; rules are evaluated again
when it is back. Alerts about this node, nodes that died beside it and what its monitor finds are repeated while they
hold, and expire after OVER_AFTER when this node dies: no other node could resolve them. Every node's monitor finds the
same and sends it under its own id; equal labels make one alert of them. What a person has resolved is not sent again
until it has been gone once. The rule of a finding's name decides whether it is sent at all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from math import inf

from o9.alerts.pipeline.reasons import RuleReason
from o9.alerts.rules.evaluator import OWN, RuleEvaluator
from o9.alerts.rules.facts import deaths_notified, living
from o9.alerts.rules.metrics import Scope
from o9.alerts.rules.rules import Board, Rule, SubjectFacts, Turn, with_rule
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.errors import OptimizationError, OptimizationStoreError
from o9.model.loops import ErrorBoundary, cancelled, periodic
from o9.model.optimization import OptimizationAlert, utc_now
from o9.monitor.monitor import OptimizationMonitor
from o9.store.store import Store

logger = logging.getLogger(__name__)
PASS_SECONDS = 5.0
PROBE_SECONDS = 10.0
AGAIN, OVER_AFTER = timedelta(minutes=1), timedelta(minutes=5)


class RuleService:
    """Evaluates every `interval` seconds. `schedules`, `run_page`: see RuleEvaluator."""

    def __init__(
        self,
        alerts: AlertNotificationSystem,
        monitor: OptimizationMonitor | None = None,
        *,
        interval: float = PASS_SECONDS,
        schedules: Mapping[str, str] | None = None,
        run_page: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._alerts = alerts
        self._interval = interval
        self._evaluator = RuleEvaluator(alerts, schedules, run_page)
        self._node = ""
        self._rules: tuple[Rule, ...] = ()
        self._board = Board()
        self._firing: dict[str, OptimizationAlert] = {}
        self._found: dict[str, OptimizationAlert] = {}  # by the monitor
        self._sent_at = -inf
        self._dead: list[str] = []
        self._prefect_gone: float | None = None
        self._store_gone: tuple[float, str] | None = None
        self._late: list[SubjectFacts] | None = None  # runs that Prefect waits for; None: it was not asked
        self._tasks: list[asyncio.Task[None]] = []
        if monitor is not None:
            monitor.register_callback("alert", self._on_found)
            monitor.register_callback("resolved", self._on_gone)

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Evaluate what is in `store`; if no node ever did, from now on."""
        self._store = store
        await self._evaluator.use(store, lease_seconds)

    async def is_back(self, node: str) -> None:
        """This node has joined under its name: alerts that it was found dead are resolved, before any is sent.

        Raises OptimizationStoreError.
        """
        rules = {rule.name for rule in self._alerts.configuration.rules if rule.scope is Scope.NODE_DEATH}
        for name, rule in await asyncio.to_thread(deaths_notified, self._store, node, rules):
            await self._evaluator.end(Turn(rule, node, RuleReason.FIXED, ended=name))

    async def start(
        self,
        node: str,
        prefect_alive: Callable[[], Awaitable[bool]],
        late_runs: Callable[[datetime], Awaitable[list[SubjectFacts]]],
    ) -> None:
        """After the alert system's and `use`; returns after the first pass. Raises OptimizationError.

        node: this node's name; prefect_alive: whether it reaches Prefect; late_runs: runs that Prefect waits for.
        """
        self._node = node
        await self.look()
        passes, probes = (ErrorBoundary(logger, what) for what in ("evaluating the alert rules", "asking Prefect"))
        self._tasks = [
            asyncio.create_task(periodic(self._pass, self._interval, passes), name="o9-rules"),
            asyncio.create_task(
                periodic(partial(self._probe, prefect_alive, late_runs), PROBE_SECONDS, probes, at_once=True),
                name="o9-rules-prefect",
            ),
        ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await cancelled(*tasks)
        self._found.clear()
        await self._evaluator.leave()

    def node_died(self, names: Iterable[str]) -> None:
        """These nodes of this host were found dead. From any thread, also before `start`."""
        self._dead += [name for name in names if not name.endswith("#flows")]  # a flow's is reported by its attempt

    async def look(self) -> None:
        """Evaluate and send. Raises OptimizationStoreError if the store is away; then the next call sends."""
        now = utc_now()
        await self._look_at_this_node(now)
        await self._evaluator.look(self._node, now, self._late)

    async def _pass(self) -> None:
        try:
            await self.look()
        except OptimizationStoreError as error:
            self._store_gone = self._store_gone or (time.monotonic(), str(error))
            raise
        self._store_gone = None

    async def _look_at_this_node(self, now: datetime) -> None:
        rules = self._alerts.configuration.rules
        if rules is not self._rules:
            self._rules = rules
            for turn in self._board.use(rule for rule in rules if rule.scope in OWN):
                self._firing.pop(turn.ended, None)  # it expires
        dead, known_dead = tuple(self._dead), self._board.keys(Scope.NODE_DEATH)
        alive = await asyncio.to_thread(living, self._store) if dead or known_dead else set()
        at, (gone_at, why) = time.monotonic(), self._store_gone or (None, "")
        figures = {
            "prefect_away_seconds": 0.0 if self._prefect_gone is None else at - self._prefect_gone,
            "store_away_seconds": 0.0 if gone_at is None else at - gone_at,
        }
        itself = SubjectFacts(self._node, figures, {"node": self._node}, words={"detail": why})
        turns = self._board.take(Scope.THIS_NODE, [itself], now)
        for name in alive.intersection(known_dead):
            turns += self._board.fix(name, {Scope.NODE_DEATH})
        words = {"host": socket.gethostname()}
        gone = [SubjectFacts(name, {"died": 1.0}, {"node": name}, words=words) for name in dead if name not in alive]
        turns += self._board.take(Scope.NODE_DEATH, gone, now)
        turns += self._board.pass_time(now)
        self._board.drain()
        for turn in turns:
            if turn.alert is not None:
                self._firing[turn.alert.alert_id] = turn.alert
                self._sent_at = -inf
            elif self._firing.pop(turn.ended, None) is not None:
                await self._evaluator.end(turn)
        if at - self._sent_at >= AGAIN.total_seconds():
            for alerts in (self._firing, self._found):
                for alert in list(alerts.values()):
                    await self._send(replace(alert, timestamp=now), alerts)
            self._sent_at = at
        del self._dead[: len(dead)]

    async def _send(self, alert: OptimizationAlert, alerts: dict[str, OptimizationAlert]) -> None:
        """Raises OptimizationStoreError."""
        if not await self._evaluator.send(alert, OVER_AFTER):
            alerts.pop(alert.alert_id, None)

    async def _on_found(self, alert: OptimizationAlert) -> None:
        named = (rule for rule in self._alerts.configuration.rules if rule.name == alert.metadata["finding"])
        if (rule := next(named, None)) is not None:
            found = self._found[alert.alert_id] = with_rule(rule, alert)
            try:
                found = self._found[alert.alert_id] = await self._evaluator.linked(found)
                await self._send(found, self._found)
            except OptimizationStoreError as error:
                logger.warning("could not send the alert %s; trying again: %s", alert.title, error)

    async def _on_gone(self, alert: OptimizationAlert) -> None:
        if self._found.pop(alert.alert_id, None) is not None:
            try:
                await self._alerts.resolve_alert(alert.alert_id, "monitor")
            except OptimizationError as error:
                logger.warning("could not resolve the alert %s; it expires by itself: %s", alert.title, error)

    async def _probe(
        self,
        prefect_alive: Callable[[], Awaitable[bool]],
        late_runs: Callable[[datetime], Awaitable[list[SubjectFacts]]],
    ) -> None:
        """Whether this node reaches Prefect, and, if it evaluates for all, the runs that Prefect waits for."""
        began, late = time.monotonic(), None
        try:
            alive = await prefect_alive()
            if alive and self._evaluator.evaluates:
                late = await late_runs(utc_now())
        except Exception as error:  # noqa: BLE001 - Prefect's client, its server or the network: it is away
            logger.debug("Prefect cannot be asked: %s", error)
            alive = False
        self._late = late
        self._prefect_gone = None if alive else (self._prefect_gone or began)

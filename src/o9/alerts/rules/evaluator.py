"""The evaluation of alert rules: by one node for the whole store, and by each node about itself.

Contract. It belongs to one event loop. The node that holds the lease RULES evaluates. Rule states and read positions
are written after the alerts that follow from them, and the next node continues from there, so a restart neither repeats
nor loses an alert. The first evaluator of a store begins LOOK_BACK before its start. The cost of a pass does not depend
on the length of the history: with the built-in rules eight reads, one for each schedule and each start, a few for each
end, and no write unless something changes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from o9.alerts.channels.registry import channel_name
from o9.alerts.config.schema import BUILT_IN_CHANNELS
from o9.alerts.pipeline.alert import RuleReason, ended_by_rule
from o9.alerts.rules import facts as rule_facts
from o9.alerts.rules.metrics import Scope
from o9.alerts.rules.rules import AlertChange, Rule, RuleEngine, SubjectFacts, apply_rule
from o9.alerts.service.system import AlertNotificationSystem
from o9.lifecycle.leadership import Leadership
from o9.model.errors import OptimizationConflictError, OptimizationError, OptimizationStoreError, StaleAttemptError
from o9.model.loops import ErrorBoundary, cancel_and_wait, periodic
from o9.model.optimization import OptimizationAlert, OptimizationState, is_placebo, utc_now
from o9.model.settings import report_page
from o9.model.states import ENDED, OptimizationStatus
from o9.monitor.monitor import OptimizationMonitor
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.alerts.rule_state import SaveRuleStates
from o9.store.core.column_types import moment
from o9.store.core.unit import Row
from o9.store.store import Store

logger = logging.getLogger(__name__)
RULES = "alert rules"
TRANSITIONS, REPORTS = "transition", "health_report"
PASS_SECONDS = 5.0
PROBE_SECONDS = 10.0
REPEAT_EVERY, EXPIRES_AFTER = timedelta(minutes=1), timedelta(minutes=5)
PAGE = 500
RUNNING_LIMIT = 1_000  # running optimizations that are evaluated, the newest ones
UNTIL_RESOLVED = timedelta(days=3650)
LOOK_BACK = timedelta(minutes=10)  # workers may have ended runs before the first run of deliver-alerts
NODE_SCOPES = frozenset({Scope.THIS_NODE, Scope.NODE_DEATH})  # evaluated by each node about itself
_STATISTICAL = frozenset({Scope.GLOBAL, Scope.TYPE, Scope.STRATEGY})
_OF_THE_QUEUE = frozenset({"queued", "longest_wait_seconds"})
Statistics = tuple[Mapping[str, Any], Sequence[Row]]
"""The global statistics, and the counts by hour of the last day; empty if no rule uses them."""


class RuleEvaluator:
    """Evaluates the rules of `alerts` over the record.

    schedules: the scheduled flows by name, each with the lease that claims its runs. run_page: returns the URL of the
    page of a flow run; empty if others cannot open it.
    """

    def __init__(
        self,
        alerts: AlertNotificationSystem,
        schedules: Mapping[str, str] | None = None,
        run_page: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._alerts = alerts
        self._run_page = run_page
        self._schedules = dict(schedules or {})
        self._rules: tuple[Rule, ...] = ()
        self._engine: RuleEngine | None = None
        self._positions: dict[str, int] = {}  # how far each table is read
        self._written: dict[str, int] = {}  # the same, as the store has it
        self._due_since: dict[str, float] = {}  # by schedule
        self._heartbeats_certain_at = 0.0
        self._last_pass = -inf  # not 0: the monotonic clock may have just begun

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Set the store. If no node has evaluated it yet, evaluation begins LOOK_BACK ago."""
        self._store = store
        self._leadership = Leadership(store, RULES, lease_seconds)
        self._statistics = OptimizationStatistics(store=store)
        self._lease_seconds = lease_seconds
        before = moment(utc_now() - LOOK_BACK)
        self._first_positions = {
            TRANSITIONS: await store.read_async(queries.last_transition, before),
            REPORTS: await store.read_async(queries.last_health_report, before),
        }

    @property
    def evaluates(self) -> bool:
        """Whether this node holds the lease, as far as it knows."""
        return self._leadership.fence is not None

    async def evaluate(self, node: str, now: datetime, late: Sequence[SubjectFacts] | None = None) -> bool:
        """Evaluate everything new under the name `node`. Returns whether this node holds the lease.

        late: facts of Prefect's late runs; None if unknown. Raises OptimizationStoreError if the store is unavailable.
        """
        at = time.monotonic()
        if at - self._last_pass > self._lease_seconds:  # after a suspension, missing heartbeats mean nothing
            self._heartbeats_certain_at = at + self._lease_seconds
        rules, fence = self._alerts.configuration.rules, self._leadership.fence
        evaluates = await asyncio.to_thread(self._leadership.acquire, node)
        if rules is not self._rules or self._leadership.fence != fence:
            self._rules, self._engine = rules, None
        try:
            while evaluates and await self._run_pass(now, late):
                pass
        except StaleAttemptError as error:
            logger.warning("%s", error)
            self._leadership.release()  # another node holds the lease
            self._engine, evaluates = None, False
        except BaseException:
            self._engine = None  # its decisions may not be written; the next pass starts from the store
            raise
        self._last_pass = time.monotonic()
        return evaluates

    async def leave(self) -> None:
        """Release the lease, so that another node can evaluate at once."""
        self._engine = None
        if (release := self._leadership.release()) is not None:
            try:
                await self._store.write_async(release)
            except OptimizationError as error:
                logger.warning("could not release the lease of the alert rules; it will expire: %s", error)

    async def _run_pass(self, now: datetime, late: Sequence[SubjectFacts] | None) -> bool:
        """Read, evaluate, send and write the states. Returns whether there is more to read."""
        changes: list[AlertChange] = []
        if self._engine is None:
            self._engine = await asyncio.to_thread(self._restored_engine)
            changes = self._engine.set_rules(rule for rule in self._rules if rule.scope not in NODE_SCOPES)
        engine = self._engine
        statistics = await self._read_statistics(engine)
        found, behind = await asyncio.to_thread(self._evaluate_facts, engine, now, late, statistics)
        await self._notify([*changes, *found, *engine.expire(now)])
        changed = engine.drain()
        if changed or self._positions != self._written:
            assert self._leadership.fence is not None
            await self._store.write_async(SaveRuleStates(RULES, self._leadership.fence, changed, self._positions))
            self._written = dict(self._positions)
        return behind

    def _restored_engine(self) -> RuleEngine:
        """Return the engine with the stored states. Blocks."""
        self._written = self._store.read(queries.rule_positions)
        self._positions = self._first_positions | self._written
        return RuleEngine((), self._store.read(queries.rule_states))

    async def _read_statistics(self, engine: RuleEngine) -> Statistics:
        """Read the statistics that rules use, beside those of the queue."""
        used = set().union(*(engine.figures(scope) for scope in _STATISTICAL)) - _OF_THE_QUEUE
        if not used:
            return {}, ()
        hours: Sequence[Row] = ()
        if any(name.startswith("last_") for name in used):
            first_hour = (utc_now() - timedelta(hours=24)).isoformat()[:13]
            hours = await self._store.read_async(queries.ended_since, first_hour)
        return await self._statistics.get_global_statistics(), hours

    def _evaluate_facts(
        self, engine: RuleEngine, now: datetime, late: Sequence[SubjectFacts] | None, statistics: Statistics
    ) -> tuple[list[AlertChange], bool]:
        """Return the changes that follow from the present facts, and whether there is more to read. Blocks."""
        store, scopes = self._store, engine.scopes()
        changes, ended, behind = self._evaluate_transitions(engine, now)
        reports = store.read(queries.health_reports_since, self._positions[REPORTS], limit=PAGE)
        if reports:
            found = [(row, state) for row in reports if (state := self._state(row)) is not None]
            facts = [
                rule_facts.report_facts(row, state)
                for row, state in found
                if not rule_facts.is_superseded(store, row, state)
            ]
            changes += engine.evaluate(Scope.REPORT, facts, now)
            self._positions[REPORTS] = reports[-1]["id"]
        if Scope.OPTIMIZATION in scopes:
            running = store.read(
                queries.page, queries.Filter(status=OptimizationStatus.RUNNING), limit=RUNNING_LIMIT
            ).items
            facts = [*map(rule_facts.state_facts, running), *ended]
            changes += engine.evaluate(Scope.OPTIMIZATION, facts, now, complete=True)
        if Scope.GLOBAL in scopes:
            queue = store.read(queries.queue, limit=rule_facts.QUEUE_COUNTED)
            changes += engine.evaluate(Scope.GLOBAL, [rule_facts.global_facts(*statistics, queue, now)], now)
        for scope in {Scope.TYPE, Scope.STRATEGY} & scopes:
            changes += engine.evaluate(scope, rule_facts.group_facts(scope, *statistics, now), now)
        if scopes & {Scope.NODE, Scope.SCHEDULE}:
            database_now = -store.read(queries.seconds_left, 0.0)
            certain = time.monotonic() >= self._heartbeats_certain_at
            nodes = rule_facts.node_facts(store.read(queries.nodes), database_now, certain=certain)
            changes += engine.evaluate(Scope.NODE, nodes, now, complete=True)
            schedules = [self._schedule_facts(*schedule, database_now) for schedule in self._schedules.items()]
            changes += engine.evaluate(Scope.SCHEDULE, [*schedules, *(late or ())], now, complete=late is not None)
        if Scope.CHANNEL in scopes:
            receivers = self._alerts.configuration.receivers.values()
            named = {channel_name(each) for receiver in receivers for each in receiver.channels}
            known = frozenset(BUILT_IN_CHANNELS) | named | set(store.read(queries.sending_channels))
            channels = rule_facts.channel_facts(store.read(queries.alert_channels), known, now)
            changes += engine.evaluate(Scope.CHANNEL, channels, now, complete=True)
        return changes, behind or len(reports) == PAGE

    def _evaluate_transitions(
        self, engine: RuleEngine, now: datetime
    ) -> tuple[list[AlertChange], list[SubjectFacts], bool]:
        """Evaluate starts, deaths and ends. Also returns the last facts of what has ended, and if there is more."""
        store = self._store
        rows = store.read(queries.transitions_since, self._positions[TRANSITIONS], limit=PAGE)
        used = engine.figures(Scope.END)
        changes: list[AlertChange] = []
        last: list[SubjectFacts] = []
        for row in rows:
            started, died = rule_facts.is_start(row), rule_facts.is_death(row)
            ended = OptimizationStatus(row["to_status"]) in ENDED
            if (state := self._state(row) if started or died or ended else None) is None:
                continue
            if started:
                changes += engine.evaluate(Scope.START, [rule_facts.start_facts(row, state)], now)
                continue
            if died:
                changes += engine.evaluate(Scope.DEATH, [rule_facts.death_facts(store, row, state)], now)
                continue
            if state.status is OptimizationStatus.COMPLETED:
                changes += engine.resolve(state.optimization_id, {Scope.DEATH})
                for before in rule_facts.retried(store, state):
                    changes += engine.resolve(before, {Scope.END, Scope.DEATH})
            changes += engine.evaluate(Scope.END, [rule_facts.end_facts(store, row, used, state)], now)
            last.append(rule_facts.state_facts(state))
        if rows:
            self._positions[TRANSITIONS] = rows[-1]["id"]
        return changes, last, len(rows) == PAGE

    def _state(self, row: Row) -> OptimizationState | None:
        """Return None if it was pruned meanwhile, or is a placebo run, which raises no alerts."""
        state = self._store.read(queries.get, row["optimization_id"])
        return None if state is None or is_placebo(state.metadata) else state

    def _schedule_facts(self, name: str, lease: str, database_now: float) -> SubjectFacts:
        """Return how late a scheduled flow is: the time since this node first saw its lease free."""
        held, at = self._store.read(queries.leader, lease), time.monotonic()
        if held is not None and held["expires_at"] > database_now:
            self._due_since.pop(name, None)
            late = 0.0
        else:
            late = at - self._due_since.setdefault(name, at)
        return SubjectFacts(name, {"late_seconds": late}, {"schedule": name})

    async def _notify(self, changes: Sequence[AlertChange]) -> None:
        """Send the alerts that begin, all at once, and then end others, which may have begun in this pass."""
        begun = [change.alert for change in changes if change.alert is not None]
        new = [alert for alert in begun if await self._store.read_async(queries.alert, alert.alert_id) is None]
        linked = [await self.linked(alert) for alert in new]
        sent = await asyncio.gather(*(self.send(alert, UNTIL_RESOLVED) for alert in linked), return_exceptions=True)
        for answer in sent:
            if isinstance(answer, BaseException):
                raise answer
        for change in changes:
            if change.alert is None:
                await self.end(change)

    async def linked(self, alert: OptimizationAlert) -> OptimizationAlert:
        """Return the alert with links to its optimization's run and report. Raises OptimizationStoreError."""
        if not alert.optimization_id:
            return alert
        holding = await self._store.read_async(queries.holding, alert.optimization_id)
        run = self._run_page(holding.prefect_run_id) if holding and holding.prefect_run_id else ""
        pages = {"run": run, "report": report_page(alert.optimization_id)}
        return replace(alert, metadata=alert.metadata | {name: page for name, page in pages.items() if page})

    async def send(self, alert: OptimizationAlert, resolve_timeout: timedelta) -> bool:
        """Send an alert. Returns False if it was resolved meanwhile. Raises OptimizationStoreError."""
        try:
            await self._alerts.send_alert(alert, resolve_timeout=resolve_timeout)
        except OptimizationStoreError:
            raise
        except OptimizationConflictError:  # it was sent before and has been resolved
            return False
        except OptimizationError as error:
            logger.error("could not send the alert of the rule %s: %s", alert.metadata["rule"], error)
        return True

    async def end(self, change: AlertChange) -> None:
        """Resolve the alert that ends. Raises OptimizationStoreError."""
        try:
            await self._alerts.resolve_alert(change.ended, ended_by_rule(change.rule, change.why))
        except OptimizationStoreError:
            raise
        except OptimizationError as error:  # it was dropped by a user's filter, or pruned
            logger.debug("%s", error)


class RuleService:
    """Evaluates alert rules on a node every `interval` seconds: those about the node, and the others while it holds the
    lease. `schedules`, `run_page`: see RuleEvaluator.

    It belongs to one event loop, except for `node_died`. A store that is unavailable is logged once, and evaluation
    continues when it is back. Alerts about this node, about nodes that died on its host, and the monitor's findings are
    repeated while they hold. When this node dies they expire after EXPIRES_AFTER, since no other node could resolve
    them. All nodes' monitors find the same problems; their alerts have different ids but equal labels, and so become
    one. An alert that a person resolved is not sent again until its cause has been gone once. A finding is sent only if
    there is a rule of its name.
    """

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
        self._engine = RuleEngine()
        self._firing: dict[str, OptimizationAlert] = {}
        self._findings: dict[str, OptimizationAlert] = {}
        self._sent_at = -inf
        self._dead: list[str] = []
        self._prefect_gone: float | None = None
        self._store_gone: tuple[float, str] | None = None
        self._late: list[SubjectFacts] | None = None  # Prefect's late runs; None: unknown
        self._tasks: list[asyncio.Task[None]] = []
        if monitor is not None:
            monitor.register_callback("alert", self._on_found)
            monitor.register_callback("resolved", self._on_gone)

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Set the store; see `RuleEvaluator.use`."""
        self._store = store
        await self._evaluator.use(store, lease_seconds)

    async def node_joined(self, node: str) -> None:
        """Resolve alerts about this node's death, before the alert system starts. Raises OptimizationStoreError."""
        rules = {rule.name for rule in self._alerts.configuration.rules if rule.scope is Scope.NODE_DEATH}
        for name, rule in await asyncio.to_thread(rule_facts.firing_about, self._store, node, rules):
            await self._evaluator.end(AlertChange(rule, node, RuleReason.FIXED, ended=name))

    async def start(
        self,
        node: str,
        prefect_alive: Callable[[], Awaitable[bool]],
        late_runs: Callable[[datetime], Awaitable[list[SubjectFacts]]],
    ) -> None:
        """Start after the alert system and `use`; returns after the first pass. Raises OptimizationError.

        node: this node's name. prefect_alive: whether it reaches Prefect. late_runs: facts of Prefect's late runs.
        """
        self._node, self._prefect_alive, self._late_runs = node, prefect_alive, late_runs
        await self.evaluate()
        passes, probes = (ErrorBoundary(logger, what) for what in ("evaluating the alert rules", "asking Prefect"))
        self._tasks = [
            asyncio.create_task(periodic(self._pass, self._interval, passes), name="o9-rules"),
            asyncio.create_task(periodic(self._probe, PROBE_SECONDS, probes, at_once=True), name="o9-rules-prefect"),
        ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
        self._findings.clear()
        await self._evaluator.leave()

    def node_died(self, names: Iterable[str]) -> None:
        """Report nodes of this host that were found dead. From any thread, also before `start`."""
        self._dead += [name for name in names if not name.endswith("#flows")]  # a flow is reported by its attempt

    async def evaluate(self) -> None:
        """Evaluate and send. Raises OptimizationStoreError if the store is unavailable; the next call sends then."""
        now = utc_now()
        await self._evaluate_this_node(now)
        await self._evaluator.evaluate(self._node, now, self._late)

    async def _pass(self) -> None:
        try:
            await self.evaluate()
        except OptimizationStoreError as error:
            self._store_gone = self._store_gone or (time.monotonic(), str(error))
            raise
        self._store_gone = None

    async def _evaluate_this_node(self, now: datetime) -> None:
        rules = self._alerts.configuration.rules
        if rules is not self._rules:
            self._rules = rules
            for change in self._engine.set_rules(rule for rule in rules if rule.scope in NODE_SCOPES):
                self._firing.pop(change.ended, None)  # the alert expires
        dead, known_dead = tuple(self._dead), self._engine.subjects(Scope.NODE_DEATH)
        alive = await asyncio.to_thread(rule_facts.living_nodes, self._store) if dead or known_dead else set()
        at, (gone_at, why) = time.monotonic(), self._store_gone or (None, "")
        figures = {
            "prefect_away_seconds": 0.0 if self._prefect_gone is None else at - self._prefect_gone,
            "store_away_seconds": 0.0 if gone_at is None else at - gone_at,
        }
        itself = SubjectFacts(self._node, figures, {"node": self._node}, details={"detail": why})
        changes = self._engine.evaluate(Scope.THIS_NODE, [itself], now)
        for name in alive.intersection(known_dead):
            changes += self._engine.resolve(name, {Scope.NODE_DEATH})
        host = {"host": socket.gethostname()}
        gone = [SubjectFacts(name, {"died": 1.0}, {"node": name}, details=host) for name in dead if name not in alive]
        changes += self._engine.evaluate(Scope.NODE_DEATH, gone, now)
        changes += self._engine.expire(now)
        self._engine.drain()
        for change in changes:
            if change.alert is not None:
                self._firing[change.alert.alert_id] = change.alert
                self._sent_at = -inf
            elif self._firing.pop(change.ended, None) is not None:
                await self._evaluator.end(change)
        if at - self._sent_at >= REPEAT_EVERY.total_seconds():
            for alerts in (self._firing, self._findings):
                for alert in list(alerts.values()):
                    await self._send(replace(alert, timestamp=now), alerts)
            self._sent_at = at
        del self._dead[: len(dead)]

    async def _send(self, alert: OptimizationAlert, alerts: dict[str, OptimizationAlert]) -> None:
        """Raises OptimizationStoreError."""
        if not await self._evaluator.send(alert, EXPIRES_AFTER):
            alerts.pop(alert.alert_id, None)

    async def _on_found(self, alert: OptimizationAlert) -> None:
        named = (rule for rule in self._alerts.configuration.rules if rule.name == alert.metadata["finding"])
        if (rule := next(named, None)) is not None:
            found = self._findings[alert.alert_id] = apply_rule(rule, alert)
            try:
                found = self._findings[alert.alert_id] = await self._evaluator.linked(found)
                await self._send(found, self._findings)
            except OptimizationStoreError as error:
                logger.warning("could not send the alert %s, will retry: %s", alert.title, error)

    async def _on_gone(self, alert: OptimizationAlert) -> None:
        if self._findings.pop(alert.alert_id, None) is not None:
            try:
                await self._alerts.resolve_alert(alert.alert_id, "monitor")
            except OptimizationError as error:
                logger.warning("could not resolve the alert %s; it will expire: %s", alert.title, error)

    async def _probe(self) -> None:
        """Check whether this node reaches Prefect; if it holds the lease, also read Prefect's late runs."""
        began, late = time.monotonic(), None
        try:
            alive = await self._prefect_alive()
            if alive and self._evaluator.evaluates:
                late = await self._late_runs(utc_now())
        except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, Prefect is not reached
            logger.debug("could not reach Prefect: %s", error)
            alive = False
        self._late = late
        self._prefect_gone = None if alive else (self._prefect_gone or began)

"""The evaluation of alert rules: over the record by one node for all, and on each node about itself.

Contract. Owned by one event loop. The node that holds the lease RULES evaluates. The states of rules and how far they
have read are written after the alerts that follow from them, and the next node goes on from there: a restart neither
repeats nor loses an alert. The first evaluator of a store begins FIRST_LOOK before its start. A pass costs the same
at any history: with the built-in rules eight reads, one for each schedule and each start, a few for each end, and no
write if nothing changes.
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
from o9.alerts.rules.rules import Board, Rule, SubjectFacts, Turn, with_rule
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
AGAIN, OVER_AFTER = timedelta(minutes=1), timedelta(minutes=5)
PAGE = 500
RUNNING = 1_000  # the newest of them
UNTIL_RESOLVED = timedelta(days=3650)
FIRST_LOOK = timedelta(minutes=10)  # what workers have ended before the first run of deliver-alerts
OWN = frozenset({Scope.THIS_NODE, Scope.NODE_DEATH})  # what each node evaluates of itself
_STATISTICAL = frozenset({Scope.GLOBAL, Scope.TYPE, Scope.STRATEGY})
_OF_THE_QUEUE = frozenset({"queued", "longest_wait_seconds"})
Statistics = tuple[Mapping[str, Any], Sequence[Row]]
"""Those of all optimizations, and the hours of the last day; empty where no rule uses them."""


class RuleEvaluator:
    """`schedules`: by the name of each flow that runs on a schedule, the lease by which its runs are claimed.

    run_page: the address of a flow run's page, by its id; empty where there is none for others to open.
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
        self._board: Board | None = None
        self._positions: dict[str, int] = {}  # how far each table is read
        self._written: dict[str, int] = {}  # the same, as the store has it
        self._due_since: dict[str, float] = {}
        self._certain_at = 0.0
        self._last_pass = -inf  # the monotonic clock of a machine that was just started is near 0

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Evaluate what is in `store`; if no node ever did, from FIRST_LOOK before now on."""
        self._store = store
        self._leadership = Leadership(store, RULES, lease_seconds)
        self._statistics = OptimizationStatistics(store=store)
        self._lease_seconds = lease_seconds
        before = moment(utc_now() - FIRST_LOOK)
        self._from = {
            TRANSITIONS: await store.read_async(queries.last_transition, before),
            REPORTS: await store.read_async(queries.last_health_report, before),
        }

    @property
    def evaluates(self) -> bool:
        """Whether this node holds the lease, as far as it knows."""
        return self._leadership.fence is not None

    async def look(self, node: str, now: datetime, late: Sequence[SubjectFacts] | None = None) -> bool:
        """One pass under the name `node`, and more while there is more to read. Returns whether this node evaluates.

        late: runs that Prefect waits for; None: unknown. Raises OptimizationStoreError where the store is away.
        """
        at = time.monotonic()
        if at - self._last_pass > self._lease_seconds:  # this process was asleep: missing heartbeats mean nothing yet
            self._certain_at = at + self._lease_seconds
        rules, fence = self._alerts.configuration.rules, self._leadership.fence
        evaluates = await asyncio.to_thread(self._leadership.acquire, node)
        if rules is not self._rules or self._leadership.fence != fence:
            self._rules, self._board = rules, None
        try:
            while evaluates and await self._evaluate(now, late):
                pass
        except StaleAttemptError as error:
            logger.warning("%s", error)
            self._leadership.release()  # another node has it
            self._board, evaluates = None, False
        except BaseException:
            self._board = None  # what it decided may not be written: the next pass goes on from what is
            raise
        self._last_pass = time.monotonic()
        return evaluates

    async def leave(self) -> None:
        """Let another node evaluate at once."""
        self._board = None
        if (going := self._leadership.release()) is not None:
            try:
                await self._store.write_async(going)
            except OptimizationError as error:
                logger.warning("could not give back the lease of the rules; it runs out: %s", error)

    async def _evaluate(self, now: datetime, late: Sequence[SubjectFacts] | None) -> bool:
        """Read, evaluate, send, write down. Returns whether there is more to read."""
        turns: list[Turn] = []
        if self._board is None:
            self._board = await asyncio.to_thread(self._restored)
            turns = self._board.use(rule for rule in self._rules if rule.scope not in OWN)
        board = self._board
        statistics = await self._read_statistics(board)
        taken, behind = await asyncio.to_thread(self._take, board, now, late, statistics)
        await self._notify([*turns, *taken, *board.pass_time(now)])
        changed = board.drain()
        if changed or self._positions != self._written:
            assert self._leadership.fence is not None
            await self._store.write_async(SaveRuleStates(RULES, self._leadership.fence, changed, self._positions))
            self._written = dict(self._positions)
        return behind

    def _restored(self) -> Board:
        """In a thread: what this node or another wrote down."""
        self._written = self._store.read(queries.rule_positions)
        self._positions = self._from | self._written
        return Board((), self._store.read(queries.rule_states))

    async def _read_statistics(self, board: Board) -> Statistics:
        """If a rule uses more of them than the queue."""
        asked = set().union(*(board.figures(scope) for scope in _STATISTICAL)) - _OF_THE_QUEUE
        if not asked:
            return {}, ()
        hours: Sequence[Row] = ()
        if any(name.startswith("last_") for name in asked):
            first_hour = (utc_now() - timedelta(hours=24)).isoformat()[:13]
            hours = await self._store.read_async(queries.ended_since, first_hour)
        return await self._statistics.get_global_statistics(), hours

    def _take(
        self, board: Board, now: datetime, late: Sequence[SubjectFacts] | None, statistics: Statistics
    ) -> tuple[list[Turn], bool]:
        """In a thread: what begins and ends by the present facts, and whether there is more to read."""
        store, scopes = self._store, board.scopes()
        turns, ended, behind = self._take_transitions(board, now)
        reports = store.read(queries.health_reports_since, self._positions[REPORTS], limit=PAGE)
        if reports:
            found = [(row, state) for row in reports if (state := self._state(row)) is not None]
            facts = [
                rule_facts.report_facts(row, state)
                for row, state in found
                if not rule_facts.is_superseded(store, row, state)
            ]
            turns += board.take(Scope.REPORT, facts, now)
            self._positions[REPORTS] = reports[-1]["id"]
        if Scope.OPTIMIZATION in scopes:
            running = store.read(queries.page, queries.Filter(status=OptimizationStatus.RUNNING), limit=RUNNING).items
            facts = [*map(rule_facts.state_facts, running), *ended]
            turns += board.take(Scope.OPTIMIZATION, facts, now, complete=True)
        if Scope.GLOBAL in scopes:
            queue = store.read(queries.queue, limit=rule_facts.QUEUE_COUNTED)
            turns += board.take(Scope.GLOBAL, [rule_facts.global_facts(*statistics, queue, now)], now)
        for scope in {Scope.TYPE, Scope.STRATEGY} & scopes:
            turns += board.take(scope, rule_facts.group_facts(scope, *statistics, now), now)
        if scopes & {Scope.NODE, Scope.SCHEDULE}:
            database_now = -store.read(queries.seconds_left, 0.0)
            certain = time.monotonic() >= self._certain_at
            nodes = rule_facts.node_facts(store.read(queries.nodes), database_now, certain=certain)
            turns += board.take(Scope.NODE, nodes, now, complete=True)
            schedules = [self._schedule_facts(*schedule, database_now) for schedule in self._schedules.items()]
            turns += board.take(Scope.SCHEDULE, [*schedules, *(late or ())], now, complete=late is not None)
        if Scope.CHANNEL in scopes:
            receivers = self._alerts.configuration.receivers.values()
            named = {channel_name(each) for receiver in receivers for each in receiver.channels}
            known = frozenset(BUILT_IN_CHANNELS) | named | set(store.read(queries.sending_channels))
            channels = rule_facts.channel_facts(store.read(queries.alert_channels), known, now)
            turns += board.take(Scope.CHANNEL, channels, now, complete=True)
        return turns, behind or len(reports) == PAGE

    def _take_transitions(self, board: Board, now: datetime) -> tuple[list[Turn], list[SubjectFacts], bool]:
        """By what started, died or ended; also the last facts of what ended, and whether there is more to read."""
        store = self._store
        rows = store.read(queries.transitions_since, self._positions[TRANSITIONS], limit=PAGE)
        asked = board.figures(Scope.END)
        turns: list[Turn] = []
        last: list[SubjectFacts] = []
        for row in rows:
            started, died = rule_facts.started(row), rule_facts.died(row)
            ended = OptimizationStatus(row["to_status"]) in ENDED
            if (state := self._state(row) if started or died or ended else None) is None:
                continue
            if started:
                turns += board.take(Scope.START, [rule_facts.start_facts(row, state)], now)
                continue
            if died:
                turns += board.take(Scope.DEATH, [rule_facts.death_facts(store, row, state)], now)
                continue
            if state.status is OptimizationStatus.COMPLETED:
                turns += board.fix(state.optimization_id, {Scope.DEATH})
                for before in rule_facts.retried(store, state):
                    turns += board.fix(before, {Scope.END, Scope.DEATH})
            turns += board.take(Scope.END, [rule_facts.end_facts(store, row, asked, state)], now)
            last.append(rule_facts.state_facts(state))
        if rows:
            self._positions[TRANSITIONS] = rows[-1]["id"]
        return turns, last, len(rows) == PAGE

    def _state(self, row: Row) -> OptimizationState | None:
        """None where it was pruned meanwhile, and of a placebo run, which raises no alerts."""
        state = self._store.read(queries.get, row["optimization_id"])
        return None if state is None or is_placebo(state.metadata) else state

    def _schedule_facts(self, name: str, lease: str, database_now: float) -> SubjectFacts:
        """Late by the time since this node first saw its lease unclaimed."""
        held, at = self._store.read(queries.leader, lease), time.monotonic()
        if held is not None and held["expires_at"] > database_now:
            self._due_since.pop(name, None)
            late = 0.0
        else:
            late = at - self._due_since.setdefault(name, at)
        return SubjectFacts(name, {"late_seconds": late}, {"schedule": name})

    async def _notify(self, turns: Sequence[Turn]) -> None:
        """What begins is sent together, and then what ends, since that may have begun in this pass."""
        begun = [turn.alert for turn in turns if turn.alert is not None]
        new = [alert for alert in begun if await self._store.read_async(queries.alert, alert.alert_id) is None]
        linked = [await self.linked(alert) for alert in new]
        sent = await asyncio.gather(*(self.send(alert, UNTIL_RESOLVED) for alert in linked), return_exceptions=True)
        for answer in sent:
            if isinstance(answer, BaseException):
                raise answer
        for turn in turns:
            if turn.alert is None:
                await self.end(turn)

    async def linked(self, alert: OptimizationAlert) -> OptimizationAlert:
        """With the pages of its optimization's run and report. Raises OptimizationStoreError."""
        if not alert.optimization_id:
            return alert
        holding = await self._store.read_async(queries.holding, alert.optimization_id)
        run = self._run_page(holding.prefect_run_id) if holding and holding.prefect_run_id else ""
        pages = {"run": run, "report": report_page(alert.optimization_id)}
        return replace(alert, metadata=alert.metadata | {name: page for name, page in pages.items() if page})

    async def send(self, alert: OptimizationAlert, resolve_timeout: timedelta) -> bool:
        """False: it was resolved meanwhile, and is not to be repeated. Raises OptimizationStoreError."""
        try:
            await self._alerts.send_alert(alert, resolve_timeout=resolve_timeout)
        except OptimizationStoreError:
            raise
        except OptimizationConflictError:  # sent before, and resolved meanwhile
            return False
        except OptimizationError as error:
            logger.error("the alert of the rule %s cannot be sent: %s", alert.metadata["rule"], error)
        return True

    async def end(self, turn: Turn) -> None:
        """Resolve its alert. Raises OptimizationStoreError."""
        try:
            await self._alerts.resolve_alert(turn.ended, ended_by_rule(turn.rule, turn.why))
        except OptimizationStoreError:
            raise
        except OptimizationError as error:  # dropped by a user's rule, or pruned
            logger.debug("%s", error)


class RuleService:
    """Alert rules on a node: evaluated every `interval` seconds for all nodes while it holds the lease, and those about
    itself in any case. `schedules`, `run_page`: see RuleEvaluator.

    Owned by one event loop, but for `node_died`. A store that is away is logged once; rules are evaluated again when it
    is back. Alerts about this node, nodes that died beside it and what its monitor finds are repeated while they hold,
    and expire after OVER_AFTER when this node dies: no other node could resolve them. Every node's monitor finds the
    same and sends it under its own id; equal labels make one alert of them. What a person has resolved is not sent
    again until it has been gone once. The rule of a finding's name decides whether it is sent at all.
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
        for name, rule in await asyncio.to_thread(rule_facts.deaths_notified, self._store, node, rules):
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
        self._node, self._prefect_alive, self._late_runs = node, prefect_alive, late_runs
        await self.look()
        passes, probes = (ErrorBoundary(logger, what) for what in ("evaluating the alert rules", "asking Prefect"))
        self._tasks = [
            asyncio.create_task(periodic(self._pass, self._interval, passes), name="o9-rules"),
            asyncio.create_task(periodic(self._probe, PROBE_SECONDS, probes, at_once=True), name="o9-rules-prefect"),
        ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
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
        alive = await asyncio.to_thread(rule_facts.living, self._store) if dead or known_dead else set()
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

    async def _probe(self) -> None:
        """Whether this node reaches Prefect, and, if it evaluates for all, the runs that Prefect waits for."""
        began, late = time.monotonic(), None
        try:
            alive = await self._prefect_alive()
            if alive and self._evaluator.evaluates:
                late = await self._late_runs(utc_now())
        except Exception as error:  # noqa: BLE001 - Prefect's client, its server or the network: it is away
            logger.debug("Prefect cannot be asked: %s", error)
            alive = False
        self._late = late
        self._prefect_gone = None if alive else (self._prefect_gone or began)

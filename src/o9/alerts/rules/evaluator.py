"""Evaluating alert rules over all that O9 knows, by one node for all.

Contract. Owned by one event loop. The node that holds the lease RULES evaluates; the states of rules and how far they
have read are written after the alerts that follow from them, and the next node goes on from there: a restart neither
repeats nor loses an alert. The first evaluator of a store begins with what happens from then on. A pass costs the same
at any history: with the built-in rules eight reads and one for each schedule, a few for each end, and no write where
nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from typing import Any

from o9.alerts.channels.registry import channel_name
from o9.alerts.config.schema import BUILT_IN_CHANNELS
from o9.alerts.pipeline.reasons import ended_by_rule
from o9.alerts.rules import facts as rule_facts
from o9.alerts.rules.metrics import INSTANTS, Scope
from o9.alerts.rules.node_health import OWN
from o9.alerts.rules.rules import Board, Facts, Rule, Turn
from o9.alerts.service.system import AlertNotificationSystem
from o9.lifecycle.leadership import Leadership
from o9.model.errors import OptimizationConflictError, OptimizationError, OptimizationStoreError, StaleAttemptError
from o9.model.optimization import OptimizationAlert, is_placebo, utc_now
from o9.model.states import OptimizationStatus
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.alerts.rule_state import KeepRuleStates
from o9.store.core.unit import Row
from o9.store.store import Store

logger = logging.getLogger(__name__)
RULES = "alert rules"
TRANSITIONS, REPORTS = "transition", "health_report"
PAGE = 500
STATISTICS_SECONDS = 15.0
UNTIL_RESOLVED = timedelta(days=3650)
_CHEAP = frozenset({"queued", "longest_wait_seconds"})


@dataclass
class _Pass:
    """What one pass has read: what a board is to take, in this order."""

    acts: list[Callable[[Board, datetime], list[Turn]]] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    behind: bool = False

    def take(self, scope: Scope, facts: Sequence[Facts], *, complete: bool = False) -> None:
        self.acts.append(lambda board, now: board.take(scope, facts, now, complete=complete))

    def fix(self, optimization_id: str, scopes: Iterable[Scope]) -> None:
        self.acts.append(lambda board, _: board.fix(optimization_id, scopes))


class RuleEvaluator:
    """`schedules`: by the name of each flow that is to run on one, the lease by which its runs are claimed."""

    def __init__(self, alerts: AlertNotificationSystem, schedules: Mapping[str, str] | None = None) -> None:
        self._alerts = alerts
        self._schedules = dict(schedules or {})
        self._lease_seconds = 0.0
        self._rules: tuple[Rule, ...] = ()
        self._board: Board | None = None
        self._positions: dict[str, int] = {}
        self._due_since: dict[str, float] = {}
        self._figures: tuple[float, dict[str, Any], list[Row]] | None = None
        self._certain_at = 0.0
        self._last_pass = -inf  # a machine that was just started counts from 0

    async def use(self, store: Store, lease_seconds: float) -> None:
        """Evaluate what is in `store`; if that never happened, from now on."""
        self._store = store
        self._leading = Leadership(store, RULES, lease_seconds)
        self._statistics = OptimizationStatistics(store=store)
        self._lease_seconds = lease_seconds
        self._from = {
            TRANSITIONS: await store.read_async(queries.last_transition),
            REPORTS: await store.read_async(queries.last_health_report),
        }

    @property
    def evaluates(self) -> bool:
        """Whether it is this one, by what it knows."""
        return self._leading.fence is not None

    async def look(self, node: str, now: datetime, late: Sequence[Facts] | None = None) -> bool:
        """One pass under the name `node`, and more where there is much to read. Whether it was this one's to judge.

        late: what Prefect waits for; None: it was not asked. Raises OptimizationStoreError where the store is away.
        """
        at = time.monotonic()
        if at - self._last_pass > self._lease_seconds:  # it was away, or asleep: missing heartbeats mean nothing yet
            self._certain_at = at + self._lease_seconds
        self._use_rules()
        if evaluates := await asyncio.to_thread(self._lead, node):
            try:
                while await self._evaluate(now, late):
                    pass
            except StaleAttemptError as error:
                logger.warning("%s", error)
                self._leading.release()  # another node has it
                self._board = None
                evaluates = False
            except BaseException:
                self._board = None  # what it has judged may not be written: the next one goes on from what is
                raise
        self._last_pass = time.monotonic()
        return evaluates

    async def leave(self) -> None:
        """Let another node evaluate at once."""
        self._board = None
        if (going := self._leading.release()) is not None:
            try:
                await self._store.write_async(going)
            except OptimizationError as error:
                logger.warning("could not give back the lease of the rules; it runs out: %s", error)

    def _use_rules(self) -> None:
        rules = self._alerts.configuration.rules
        if rules is not self._rules:
            self._rules, self._board = rules, None

    def _lead(self, node: str) -> bool:
        """In a thread."""
        before = self._leading.fence
        leads = self._leading.acquire(node)
        if self._leading.fence != before:
            self._board = None
        return leads

    async def _evaluate(self, now: datetime, late: Sequence[Facts] | None) -> bool:
        """Read, evaluate, notify, write down. Whether there is more to read."""
        turns: list[Turn] = []
        if self._board is None:
            turns = await asyncio.to_thread(self._restore)
        board = self._board
        assert board is not None
        if board.scopes() & {Scope.GLOBAL, Scope.TYPE, Scope.STRATEGY}:
            await self._read_statistics(board)
        read = await asyncio.to_thread(self._read, board, now, late)
        for act in read.acts:
            turns += act(board, now)
        turns += board.pass_time(now)
        await self._notify(turns)
        changed = board.drain()
        moved = {name: at for name, at in read.positions.items() if self._positions.get(name) != at}
        if changed or moved:
            assert self._leading.fence is not None
            await self._store.write_async(KeepRuleStates(RULES, self._leading.fence, changed, moved))
            self._positions |= moved
        return read.behind

    def _restore(self) -> list[Turn]:
        store = self._store
        rules = [rule for rule in self._rules if rule.scope not in OWN]
        self._board = Board.restored(rules, store.read(queries.rule_states))
        self._positions = store.read(queries.rule_positions)
        missing = {name: at for name, at in self._from.items() if name not in self._positions}
        if missing:
            assert self._leading.fence is not None
            store.write(KeepRuleStates(RULES, self._leading.fence, positions=missing))
            self._positions |= missing
        return self._board.use(rules)

    async def _read_statistics(self, board: Board) -> None:
        """Where a rule asks for more than the queue, and they are no longer new."""
        asked = set().union(*(board.figures(scope) for scope in (Scope.GLOBAL, Scope.TYPE, Scope.STRATEGY)))
        wanted = asked - _CHEAP
        if not wanted and not board.scopes() & {Scope.TYPE, Scope.STRATEGY}:
            self._figures = (0.0, {}, [])
            return
        if self._figures is not None and time.monotonic() - self._figures[0] < STATISTICS_SECONDS:
            return
        windows: list[Row] = []
        if any(name.startswith("last_") for name in wanted):
            windows = await self._store.read_async(queries.ended_since, rule_facts.first_hour(utc_now()))
        given = await self._statistics.get_global_statistics()
        self._figures = (time.monotonic(), given, windows)

    def _read(self, board: Board, now: datetime, late: Sequence[Facts] | None) -> _Pass:
        """In a thread."""
        store, scopes, read = self._store, board.scopes(), _Pass()
        ended = self._read_transitions(board, read)
        reports = store.read(queries.health_reports_since, self._positions[REPORTS], limit=PAGE)
        if reports:
            read.take(Scope.REPORT, [made for row in reports if (made := rule_facts.report_facts(store, row))])
            read.positions[REPORTS] = reports[-1]["id"]
            read.behind |= len(reports) == PAGE
        if Scope.OPTIMIZATION in scopes:
            read.take(Scope.OPTIMIZATION, [*rule_facts.running_facts(store), *ended], complete=True)
        if self._figures is not None:
            _, statistics, windows = self._figures
            if Scope.GLOBAL in scopes:
                queue = store.read(queries.queue, limit=rule_facts.QUEUE_COUNTED)
                read.take(Scope.GLOBAL, [rule_facts.global_facts(statistics, windows, queue, now)])
            for scope in {Scope.TYPE, Scope.STRATEGY} & scopes:
                read.take(scope, rule_facts.group_facts(scope, statistics, windows, now))
        if scopes & {Scope.NODE, Scope.SCHEDULE}:
            self._read_house(read, late, -store.read(queries.seconds_left, 0.0))
        if Scope.CHANNEL in scopes:
            receivers = self._alerts.configuration.receivers.values()
            named = {channel_name(each) for receiver in receivers for each in receiver.channels}
            known = frozenset(BUILT_IN_CHANNELS) | named | set(store.read(queries.sending_channels))
            facts = rule_facts.channel_facts(store.read(queries.alert_channels), known, now)
            read.take(Scope.CHANNEL, facts, complete=True)
        return read

    def _read_transitions(self, board: Board, read: _Pass) -> list[Facts]:
        """What has died or ended since; answers with the last figures of those that ended."""
        store = self._store
        rows = store.read(queries.transitions_since, self._positions[TRANSITIONS], limit=PAGE)
        asked, last = board.figures(Scope.END), []
        for row in rows:
            name = row["optimization_id"]
            if rule_facts.died(row):
                if (death := rule_facts.death_facts(store, row)) is not None:
                    read.take(Scope.DEATH, [death])
            elif (
                rule_facts.ended(row)
                and (state := store.read(queries.get, name)) is not None
                and not is_placebo(state.metadata)
            ):
                if state.status is OptimizationStatus.COMPLETED:
                    read.fix(name, {Scope.DEATH})
                    for before in rule_facts.retried(store, state):
                        read.fix(before, INSTANTS)
                read.take(Scope.END, [rule_facts.end_facts(store, row, asked, state)])
                last.append(rule_facts.last_facts(state))
        if rows:
            read.positions[TRANSITIONS] = rows[-1]["id"]
            read.behind = len(rows) == PAGE
        return last

    def _read_house(self, read: _Pass, late: Sequence[Facts] | None, database_now: float) -> None:
        certain = time.monotonic() >= self._certain_at
        nodes = rule_facts.node_facts(self._store.read(queries.nodes), database_now, certain=certain)
        read.take(Scope.NODE, nodes, complete=True)
        schedules = [self._schedule_facts(*schedule, database_now) for schedule in self._schedules.items()]
        read.take(Scope.SCHEDULE, [*schedules, *(late or ())], complete=late is not None)

    def _schedule_facts(self, name: str, lease: str, database_now: float) -> Facts:
        """Late is what was not claimed since this node saw it due."""
        held, at = self._store.read(queries.leader, lease), time.monotonic()
        if held is not None and held["expires_at"] > database_now:
            self._due_since.pop(name, None)
            late = 0.0
        else:
            late = at - self._due_since.setdefault(name, at)
        return Facts(name, {"late_seconds": late}, {"schedule": name})

    async def _notify(self, turns: Iterable[Turn]) -> None:
        """What begins is recorded together; what ends after it, for it may have begun just now."""
        given = list(turns)
        news = [turn.alert for turn in given if turn.alert is not None]
        news = [alert for alert in news if await self._store.read_async(queries.alert, alert.alert_id) is None]
        sent = await asyncio.gather(*(self.send(alert, UNTIL_RESOLVED) for alert in news), return_exceptions=True)
        for answer in sent:
            if isinstance(answer, BaseException):
                raise answer
        for turn in given:
            if turn.alert is None:
                await self.end(turn)

    async def send(self, alert: OptimizationAlert, resolve_timeout: timedelta) -> bool:
        """Send what a rule found. False: it was resolved meanwhile, and need not be sent again."""
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
        """Resolve it."""
        try:
            await self._alerts.resolve_alert(turn.ended, ended_by_rule(turn.rule, turn.why))
        except OptimizationStoreError:
            raise
        except OptimizationError as error:  # dropped by a user's rule, or pruned
            logger.debug("%s", error)

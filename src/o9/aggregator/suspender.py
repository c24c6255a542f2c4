"""Suspends optimizations that must not run now, and resumes them when the reason is gone.

Contract. Owned by one event loop. `o9.lifecycle.suspension` decides. A node suspends only what it runs itself: during a
shortage, one optimization at a time, and it starts nothing new. Any node resumes what is suspended once it finds no
reason left; only a node with health rules can do so for a health rule.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from pathlib import Path

from o9.health.checker import OptimizationHealthChecker
from o9.health.checks.security import risk_limits
from o9.health.facts import HealthFacts
from o9.lifecycle.effect import direction_of
from o9.lifecycle.suspension import (
    OF_THE_MACHINE,
    Circumstances,
    Room,
    Suspension,
    decide_suspension,
    free_disk_mib,
    free_memory_mib,
    shortage,
    suspension_order,
)
from o9.model.loops import MIN_INTERVAL_SECONDS, ErrorBoundary, cancel_and_wait, periodic
from o9.model.optimization import OptimizationState, utc_now
from o9.model.settings import settings
from o9.model.states import Intent, SuspendedFor
from o9.store import queries
from o9.store.optimizations.intents import EndSuspension, StateWithIntent, Suspend
from o9.store.store import Store

logger = logging.getLogger(__name__)
SETTLE_SECONDS = 30.0  # after a resume, until the processes use the memory that they need
_REASONS = {reason.by: reason for reason in SuspendedFor}


class Suspender:
    """Checks every `interval` seconds, at most twice a second; the health rules of `checker` at its own interval."""

    def __init__(self, checker: OptimizationHealthChecker, interval: float) -> None:
        self._checker = checker
        self._interval = max(interval, MIN_INTERVAL_SECONDS)
        self._rules_interval = max(checker.check_interval, MIN_INTERVAL_SECONDS)
        self._rule_reasons: dict[str, str] = {}
        self._boundaries: dict[str, ErrorBoundary] = {}
        self._short: Suspension | None = None
        self._short_since: datetime | None = None
        self._resumed_at = -inf  # the last resume after a shortage
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def blocked_reason(self) -> str:
        """Why this node starts nothing new; empty if it does."""
        return self._short.why if self._short is not None else ""

    def start(self, store: Store, node: str, running: Callable[[], Sequence[str]]) -> None:
        """`running`: the ids of what this node runs."""
        self._store, self._node, self._running = store, node, running
        self._tasks = [
            asyncio.create_task(
                periodic(act, seconds, ErrorBoundary(logger, "checking what must be suspended"), at_once=True),
                name="o9-suspender",
            )
            for act, seconds in ((self._check, self._interval), (self._apply_rules, self._rules_interval))
        ]

    async def stop(self) -> None:
        """Stop checking. What is suspended waits for another node, or for the next start."""
        await cancel_and_wait(*self._tasks)
        self._tasks, self._short = [], None

    async def _check(self) -> None:
        memory, disk = await asyncio.to_thread(_rooms, self._store)
        short = shortage(memory, disk)
        if short is not None and self._short is None:
            self._short_since = utc_now()
        self._short = short
        running, suspended = await asyncio.to_thread(self._read, list(self._running()))
        await self._suspend(running, memory, disk)
        await self._resume(suspended, memory, disk)

    async def _apply_rules(self) -> None:
        """Apply the health rules to what this node runs, and to what is suspended for a rule."""
        if not self._checker.has_rules:
            return
        running, suspended = await asyncio.to_thread(self._read, list(self._running()))
        asked = [*running, *(one for one in suspended if _suspended_for(one) is SuspendedFor.HEALTH_RULE)]
        names = [one.state.optimization_id for one in asked]
        for name in names:
            with self._boundaries.setdefault(name, ErrorBoundary(logger, f"applying the health rules to {name}")):
                self._rule_reasons[name] = (await self._checker.recent_report(name)).suspend
        for name in self._boundaries.keys() - set(names):
            del self._boundaries[name]
            self._rule_reasons.pop(name, None)

    async def _suspend(self, mine: list[StateWithIntent], memory: Room, disk: Room) -> None:
        makes_room = any(one.intent is Intent.SUSPEND for one in mine)
        for one in sorted(mine, key=lambda one: suspension_order(one.state)):
            if one.intent is not Intent.RUN:
                continue
            found = await self._decided(one, None if makes_room else memory, None if makes_room else disk)
            if found is None:
                continue
            name = one.state.optimization_id
            if await self._store.write_async(Suspend(name, found.reason, found.why, self._node)):
                logger.warning("%s is suspended: %s", name, found.why)
                makes_room |= found.reason in OF_THE_MACHINE

    async def _resume(self, suspended: list[StateWithIntent], memory: Room, disk: Room) -> None:
        for one in sorted(suspended, key=lambda one: suspension_order(one.state), reverse=True):
            name, reason = one.state.optimization_id, _suspended_for(one)
            if one.intent is Intent.SUSPEND:
                settles = reason in OF_THE_MACHINE and time.monotonic() - self._resumed_at < SETTLE_SECONDS
                if settles or await self._decided(one, memory, disk) is not None:
                    continue
            why = f"suspended for {reason.value}, which is over" if reason else f"{one.intent.value} requested"
            if await self._store.write_async(EndSuspension(name, reason, why, self._node)):
                logger.info("%s resumes: %s", name, why)
                if reason in OF_THE_MACHINE:
                    self._resumed_at = time.monotonic()

    async def _decided(self, one: StateWithIntent, memory: Room | None, disk: Room | None) -> Suspension | None:
        broken = ""
        if "risk_limits" in one.state.metadata:
            broken = await asyncio.to_thread(self._broken_limits, one.state)
        name, reason = one.state.optimization_id, _suspended_for(one)
        seen = Circumstances(memory, disk, broken, self._rule_reasons.get(name))
        if decide_suspension(seen, reason, one.state.memory_usage) is None:
            return None
        despite = await asyncio.to_thread(self._resumed_despite, name)
        return decide_suspension(seen, reason, one.state.memory_usage, despite)

    def _read(self, running: list[str]) -> tuple[list[StateWithIntent], list[StateWithIntent]]:
        """What this node runs, and what is suspended. Blocks."""
        mine = []
        for name in running:
            state, holding = self._store.read(queries.get, name), self._store.read(queries.holding, name)
            if state is not None and holding is not None:  # else it was deleted meanwhile
                mine.append(StateWithIntent(state, Intent(holding.intent), holding.intent_by))
        return mine, self._store.read(queries.suspended)

    def _broken_limits(self, state: OptimizationState) -> str:
        """Which of its risk limits the best trial breaks, as text. Blocks."""
        best = self._store.read(queries.best_trials, state.optimization_id, direction_of(state), limit=1)
        checks = risk_limits(HealthFacts(state, best=best[0] if best else None))
        return "; ".join(check.words for check in checks if check.score == 0.0)

    def _resumed_despite(self, optimization_id: str) -> set[SuspendedFor]:
        """The reasons despite which a person resumed it; a shortage that began later is a new one. Blocks."""
        despite: set[SuspendedFor] = set()
        last: SuspendedFor | None = None
        for row in self._store.read(queries.intents, optimization_id):
            if row["intent"] == Intent.SUSPEND.value:
                last = _REASONS.get(row["by"])
            elif row["intent"] == Intent.RUN.value and last is not None and row["by"] not in _REASONS:
                since = self._short_since if last in OF_THE_MACHINE else None
                if since is None or datetime.fromisoformat(row["at"]) >= since:
                    despite.add(last)
        return despite


def _suspended_for(one: StateWithIntent) -> SuspendedFor | None:
    """Why O9 has suspended it; None where O9 has not."""
    return _REASONS.get(one.by) if one.intent is Intent.SUSPEND else None


def _rooms(store: Store) -> tuple[Room, Room]:
    """Free memory, and free space on the disk of the store, or of the spool for a database server. Blocks."""
    place = Path(settings().spool_folder).expanduser() if "://" in store.url else Path(store.url)
    memory = Room(free_memory_mib(), settings().memory_reserve_mib)
    return memory, Room(free_disk_mib(place), settings().disk_reserve_mib)

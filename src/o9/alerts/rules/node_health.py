"""What only a node itself knows: whether it reaches Prefect and the store, and who has died beside it.

Contract. Owned by one event loop, but for `node_died`. An alert is repeated while its condition holds, and ends
by itself when the node dies: no other node could resolve it. A node that is back is not dead any more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf

from o9.alerts.rules.metrics import Scope
from o9.alerts.rules.rules import Board, Facts, Rule, Turn
from o9.model.optimization import OptimizationAlert, utc_now

logger = logging.getLogger(__name__)
OWN = frozenset({Scope.THIS_NODE, Scope.NODE_DEATH})
PROBE_SECONDS = 10.0
AGAIN, OVER_AFTER = timedelta(minutes=1), timedelta(minutes=5)

Send = Callable[[OptimizationAlert, timedelta], Awaitable[bool]]
End = Callable[[Turn], Awaitable[None]]
Living = Callable[[], Awaitable[Collection[str]]]


class NodeHealth:
    """`send` answers False for what need not be sent again; `living` names the nodes that live."""

    def __init__(self, send: Send, end: End, living: Living) -> None:
        self._send = send
        self._end = end
        self._living = living
        self._board = Board()
        self._firing: dict[str, OptimizationAlert] = {}
        self._notified_at = -inf
        self._dead: deque[str] = deque()
        self._prefect_gone: float | None = None
        self._store_gone: tuple[float, str] | None = None
        self.late: list[Facts] | None = None  # runs that Prefect waits for; None: it was not asked

    def node_died(self, names: Iterable[str]) -> None:
        """From any thread: these nodes of this host are found dead. A flow's process is reported by its attempt."""
        self._dead += [name for name in names if not name.endswith("#flows")]

    def store_is_away(self, why: str) -> bool:
        """Whether that is new."""
        known = self._store_gone
        self._store_gone = known or (time.monotonic(), why)
        return known is None

    def store_is_back(self) -> None:
        self._store_gone = None

    def use(self, rules: Sequence[Rule]) -> None:
        """Alerts of a removed rule end by themselves."""
        for turn in self._board.use([rule for rule in rules if rule.scope in OWN]):
            self._firing.pop(turn.ended, None)

    async def look(self, node: str, now: datetime) -> None:
        """Evaluate, and send. Raises OptimizationStoreError if the store is away; then the next call sends."""
        dead = tuple(self._dead)
        known_dead = self._board.keys(Scope.NODE_DEATH)
        living = await self._living() if dead or known_dead else ()
        at, host = time.monotonic(), socket.gethostname()
        figures = {
            "prefect_away_seconds": 0.0 if self._prefect_gone is None else at - self._prefect_gone,
            "store_away_seconds": 0.0 if self._store_gone is None else at - self._store_gone[0],
        }
        why = "" if self._store_gone is None else self._store_gone[1]
        turns = self._board.take(Scope.THIS_NODE, [Facts(node, figures, {"node": node}, words={"detail": why})], now)
        for name in known_dead:
            if name in living:
                turns += self._board.fix(name, {Scope.NODE_DEATH})
        gone = [name for name in dead if name not in living]
        deaths = [Facts(name, {"died": 1.0}, {"node": name}, words={"host": host}) for name in gone]
        turns += self._board.take(Scope.NODE_DEATH, deaths, now)
        turns += self._board.pass_time(now)
        self._board.drain()
        for turn in turns:
            if turn.alert is not None:
                self._firing[turn.alert.alert_id] = turn.alert
                self._notified_at = -inf
            elif self._firing.pop(turn.ended, None) is not None:
                await self._end(turn)
        if at - self._notified_at >= AGAIN.total_seconds():
            for name, alert in list(self._firing.items()):
                if not await self._send(replace(alert, timestamp=now), OVER_AFTER):
                    del self._firing[name]
            self._notified_at = at
        for _ in dead:
            self._dead.popleft()

    async def keep_probing(
        self,
        prefect_alive: Callable[[], Awaitable[bool]],
        late_runs: Callable[[datetime], Awaitable[list[Facts]]],
        evaluates: Callable[[], bool],
    ) -> None:
        """Whether this node reaches Prefect, and, where it evaluates for all, what Prefect waits for."""
        while True:
            began, late = time.monotonic(), None
            try:
                alive = await prefect_alive()
                if alive and evaluates():
                    late = await late_runs(utc_now())
            except Exception as error:  # noqa: BLE001 - Prefect's client, its server or the network: it is away
                logger.debug("Prefect cannot be asked: %s", error)
                alive = False
            self.late = late
            self._prefect_gone = None if alive else (self._prefect_gone or began)
            await asyncio.sleep(PROBE_SECONDS)

"""Following optimizations through the store's change feed, whichever process works on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from o9.lifecycle.heartbeat import ONLY
from o9.lifecycle.processes import lives
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Holding
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

FEED_PAGE = 1000
POLL_SECONDS = 0.2
HALTED = frozenset({OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED})
TAKE_NO_WORK = ("#flows", "#sync")  # how `o9.flows.membership` and a synchronizer alone end the names of their nodes


@dataclass
class Follower:
    """The present states of some optimizations, in their order. `look` reads only what has changed."""

    store: Store
    ids: Iterable[str]
    states: dict[str, OptimizationState] = field(default_factory=dict)
    _cursor: int = -1

    def look(self) -> list[OptimizationState]:
        """Read what has changed since the last look; answers with all of them."""
        if self._cursor < 0:
            self._cursor = self.store.read(queries.last_change)
            self._read(self.ids)
        else:
            self._read(self._changed())
        return list(self.states.values())

    def unfinished(self) -> list[OptimizationState]:
        return [state for state in self.states.values() if state.status not in ENDED]

    def at_rest(self, *, pausing: bool = False) -> bool:
        """Nothing of it runs or waits to run: it has ended, or somebody has to resume it.

        What O9 itself suspended goes on by itself where it runs; while all is `pausing`, it rests.
        """
        resting = ENDED | (HALTED if pausing else {OptimizationStatus.PAUSED})
        return all(state.status in resting for state in self.states.values())

    def _changed(self) -> list[str]:
        changed: set[str] = set()
        while rows := self.store.read(queries.changes, self._cursor, limit=FEED_PAGE):
            changed |= {row["optimization_id"] for row in rows}
            self._cursor = rows[-1]["id"]
        return [name for name in self.states if name in changed]

    def _read(self, ids: Iterable[str]) -> None:
        for name in ids:
            if (state := self.store.read(queries.get, name)) is not None:
                self.states[name] = state


def counted(store: Store) -> str:
    """`3 completed, 1 running`; empty where there is nothing."""
    counts: Counter[str] = Counter()
    for row in store.read(queries.counts):
        counts[row["status"]] += row["count"]
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def is_halted(state: OptimizationState) -> bool:
    return state.status in HALTED


def is_watched(state: OptimizationState) -> bool:
    """Somebody else runs it, as a flow under `mirror_states`; O9 keeps its record and cannot steer it."""
    return state.metadata.get("strategy") == MIRRORED


@dataclass(frozen=True)
class Crew:
    """Which nodes live, and when those that died gave their last heartbeat. A node that left is in neither.

    only: the ids that a node claims, of those that do not take all that is queued.
    """

    alive: frozenset[str] = frozenset()
    gone: Mapping[str, datetime] = field(default_factory=dict)
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def takes_work(self) -> bool:
        """Is there a node that starts anything?"""
        return any(not node.endswith(TAKE_NO_WORK) for node in self.alive)

    def takers(self, optimization_id: str) -> list[str]:
        """The nodes that start it when it is queued."""
        workers = sorted(node for node in self.alive if not node.endswith(TAKE_NO_WORK))
        return [node for node in workers if node not in self.only or optimization_id in self.only[node]]

    def lost(self, holding: Holding | None) -> str | None:
        """`its node X is gone since 12:00:00`; None where it has none, or a living one."""
        node = holding.lease_node if holding else None
        if node is None or node not in self.gone:
            return None
        return f"its node {node} is gone since {self.gone[node].astimezone():%Y-%m-%d %H:%M:%S}"


def crew_of(store: Store) -> Crew:
    """Who is there now: those whose process is seen to live, though the store may keep it waiting; of the others those
    whose leases have not run out."""
    oldest, nodes = time.time() - settings().lease_seconds, store.read(queries.nodes)
    seen = {node["node_id"]: lives(node) for node in nodes}
    beats = {node["node_id"]: node["heartbeat_at"] for node in nodes}
    alive = frozenset(name for name, living in seen.items() if living or (living is None and beats[name] > oldest))
    gone = {name: datetime.fromtimestamp(at, UTC) for name, at in beats.items() if name not in alive}
    only = {node["node_id"]: frozenset(node["info"][ONLY]) for node in nodes if node["info"].get(ONLY) is not None}
    return Crew(alive, gone, only)


def nobody_works_on(status: OptimizationStatus, holding: Holding | None, crew: Crew, name: str) -> str | None:
    """Why an optimization that should be moving does not; None where somebody has it, or will, or where it rests."""
    if status in ENDED or status in HALTED:
        return None
    if problem := crew.lost(holding):
        return problem
    claimed = holding is not None and holding.lease_node is not None
    held_back = holding is not None and holding.intent == Intent.HOLD.value
    if status is OptimizationStatus.CREATED and not (claimed or held_back or crew.takers(name)):
        return "it waits for a process that runs it, and there is none"
    return None

"""Following optimizations through the store's change feed, whichever process works on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from o9.lifecycle.heartbeat import WORKERS, claims, living_nodes, workers_claim
from o9.model.optimization import OptimizationState
from o9.model.states import ENDED, Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.queries import Holding
from o9.store.queue.claims import MIRRORED
from o9.store.store import Store

FEED_PAGE = 1000
POLL_SECONDS = 0.2
HALTED = frozenset({OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED})


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
            self._cursor, changed = self.store.read(queries.last_change), self.ids
        else:
            changed = self._changed()
        for name in changed:
            if (state := self.store.read(queries.get, name)) is not None:
                self.states[name] = state
        return list(self.states.values())

    def at_rest(self, *, pausing: bool = False) -> bool:
        """All have ended, or wait until somebody resumes them.

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


def counted(store: Store) -> str:
    """`3 completed, 1 running`; empty where there is nothing."""
    counts: Counter[str] = Counter()
    for row in store.read(queries.counts):
        counts[row["status"]] += row["count"]
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def is_watched(state: OptimizationState) -> bool:
    """Somebody else runs it, as a flow under `mirror_states`; O9 keeps its record and cannot steer it."""
    return state.metadata.get("strategy") == MIRRORED


@dataclass(frozen=True)
class Crew:
    """The nodes that are there, with what is known of each, and those that are gone, with their last heartbeat. A node
    that has left is in neither.
    """

    alive: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: Mapping[str, datetime] = field(default_factory=dict)

    def takers(self, optimization_id: str) -> list[str]:
        """The nodes that start it when it is queued."""
        return sorted(node for node, info in self.alive.items() if claims(info, optimization_id))

    def lost(self, holding: Holding | None) -> str | None:
        """`its node X is gone since 12:00:00`; None where it has none, or a living one."""
        node = holding.lease_node if holding else None
        if node is None or node not in self.gone:
            return None
        return f"its node {node} is gone since {self.gone[node].astimezone():%Y-%m-%d %H:%M:%S}"


def crew_of(store: Store) -> Crew:
    alive, nodes = living_nodes(store), store.read(queries.nodes)
    seen = {node["node_id"]: datetime.fromtimestamp(node["heartbeat_at"], UTC) for node in nodes}
    workers = {WORKERS: {"limit": None}} if workers_claim(store) else {}
    return Crew(alive | workers, {name: at for name, at in seen.items() if name not in alive})


def nobody_works_on(status: OptimizationStatus, holding: Holding | None, crew: Crew, name: str) -> str | None:
    """Why an optimization that should be running is not; None if a node has or will take it, or it is at rest."""
    if status in ENDED or status in HALTED:
        return None
    if problem := crew.lost(holding):
        return problem
    claimed = holding is not None and holding.lease_node is not None
    held_back = holding is not None and holding.intent == Intent.HOLD.value
    if status is OptimizationStatus.CREATED and not (claimed or held_back or crew.takers(name)):
        return "it waits for a process that runs it, and there is none"
    return None


def going_on(
    state: OptimizationState, holding: Holding | None, crew: Crew, *, refused: bool = False
) -> tuple[str, str] | None:
    """The command that makes it go on, and what that does; None where it goes on by itself, or there is none.

    refused: its submission was, so that only its deployment, with what was wrong corrected, can run it.
    """
    intent = Intent(holding.intent) if holding is not None else Intent.RUN
    if is_watched(state) or state.status is OptimizationStatus.COMPLETED:
        return None
    if refused:
        return "open", "its run in Prefect: correct what the issues name there, and run its deployment again"
    if state.status in ENDED:
        return "retry", "queues it once more, as a new one"
    if intent is Intent.HOLD:
        return "start", "queues it"
    if state.status in HALTED and crew.takers(state.optimization_id):
        return "resume", "queues it again"
    if state.status in HALTED or nobody_works_on(state.status, holding, crew, state.optimization_id):
        return "resume --here", "goes on here, behind the last committed step"
    return None

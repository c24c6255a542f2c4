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
from o9.text.format import local_moment

FEED_PAGE = 1000
POLL_SECONDS = 0.2
HALTED = frozenset({OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED})


@dataclass
class Follower:
    """Keeps the states of some optimizations current, in their order; `refresh` reads only what has changed."""

    store: Store
    ids: Iterable[str]
    states: dict[str, OptimizationState] = field(default_factory=dict)
    _cursor: int = -1

    def refresh(self) -> list[OptimizationState]:
        """Read what has changed since the last call, and return all states."""
        if self._cursor < 0:
            self._cursor, changed = self.store.read(queries.last_change), self.ids
        else:
            changed = self._changed()
        for name in changed:
            if (state := self.store.read(queries.get, name)) is not None:
                self.states[name] = state
        return list(self.states.values())

    def has_stopped(self, *, pausing: bool = False) -> bool:
        """Return whether all have ended or are paused.

        A suspended one continues by itself, so it counts as stopped only while `pausing`.
        """
        stopped = ENDED | (HALTED if pausing else {OptimizationStatus.PAUSED})
        return all(state.status in stopped for state in self.states.values())

    def _changed(self) -> list[str]:
        changed: set[str] = set()
        while rows := self.store.read(queries.changes, self._cursor, limit=FEED_PAGE):
            changed |= {row["optimization_id"] for row in rows}
            self._cursor = rows[-1]["id"]
        return [name for name in self.states if name in changed]


def status_counts(store: Store) -> str:
    """`3 completed, 1 running`; empty for an empty store."""
    counts: Counter[str] = Counter()
    for row in store.read(queries.counts):
        counts[row["status"]] += row["count"]
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def is_watched(state: OptimizationState) -> bool:
    """Return whether another program runs it, as a flow under `mirror_states`: O9 records it and cannot control it."""
    return state.metadata.get("strategy") == MIRRORED


@dataclass(frozen=True)
class Nodes:
    """The nodes of a store: those alive, with their information, and those gone without leaving, with their last
    heartbeat.
    """

    alive: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: Mapping[str, datetime] = field(default_factory=dict)

    def takers(self, optimization_id: str) -> list[str]:
        """Return the nodes that would start it once it is queued."""
        return sorted(node for node, info in self.alive.items() if claims(info, optimization_id))

    def lost(self, holding: Holding | None) -> str | None:
        """`its node X has been gone since …`; None if it has no node, or a living one."""
        node = holding.lease_node if holding else None
        if node is None or node not in self.gone:
            return None
        return f"its node {node} has been gone since {local_moment(self.gone[node])}"


def nodes_of(store: Store) -> Nodes:
    alive, rows = living_nodes(store), store.read(queries.nodes)
    seen = {node["node_id"]: datetime.fromtimestamp(node["heartbeat_at"], UTC) for node in rows}
    workers = {WORKERS: {"limit": None}} if workers_claim(store) else {}
    return Nodes(alive | workers, {name: at for name, at in seen.items() if name not in alive})


def why_idle(status: OptimizationStatus, holding: Holding | None, nodes: Nodes, name: str) -> str | None:
    """Return why an optimization that should run does not; None if it has a node or will get one, or should not run."""
    if status in ENDED or status in HALTED:
        return None
    if problem := nodes.lost(holding):
        return problem
    claimed = holding is not None and holding.lease_node is not None
    held_back = holding is not None and holding.intent == Intent.HOLD.value
    if status is OptimizationStatus.CREATED and not (claimed or held_back or nodes.takers(name)):
        return "it is queued, but no node runs queued optimizations"
    return None


def way_to_continue(
    state: OptimizationState, holding: Holding | None, nodes: Nodes, *, refused: bool = False
) -> tuple[str, str] | None:
    """Return the command that makes it continue, and what that does; None if it continues by itself, or never will.

    refused: O9 refused its submission, so only its corrected deployment can run it.
    """
    intent = Intent(holding.intent) if holding is not None else Intent.RUN
    if is_watched(state) or state.status is OptimizationStatus.COMPLETED:
        return None
    if refused:
        return "open", "opens its run in Prefect: correct what the issues name, then run the deployment again"
    if state.status in ENDED:
        return "retry", "queues it again, as a new optimization"
    if intent is Intent.HOLD:
        return "start", "queues it"
    if state.status in HALTED and nodes.takers(state.optimization_id):
        return "resume", "queues it again"
    if state.status in HALTED or why_idle(state.status, holding, nodes, state.optimization_id):
        return "resume --here", "continues it here, after the last committed step"
    return None

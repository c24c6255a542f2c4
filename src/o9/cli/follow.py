"""Following optimizations through the store's change feed, whichever process works on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from o9.lifecycle.presence import dead_on_this_host
from o9.model.optimization import OptimizationState
from o9.model.states import ACTIVE, ENDED
from o9.store.store import Store

FEED_PAGE = 1000
POLL_SECONDS = 0.2


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
            self._cursor = self.store.last_change()
            self._read(self.ids)
        else:
            self._read(self._changed())
        return list(self.states.values())

    def unfinished(self) -> list[OptimizationState]:
        return [state for state in self.states.values() if state.status not in ENDED]

    def at_rest(self) -> bool:
        """Nothing of it runs or waits to run: it has ended, or somebody has to resume it."""
        return all(state.status in ENDED or is_parked(state) for state in self.states.values())

    def _changed(self) -> list[str]:
        changed: set[str] = set()
        while rows := self.store.changes(self._cursor, limit=FEED_PAGE):
            changed |= {row["optimization_id"] for row in rows}
            self._cursor = rows[-1]["id"]
        return [name for name in self.states if name in changed]

    def _read(self, ids: Iterable[str]) -> None:
        for name in ids:
            if (state := self.store.get(name)) is not None:
                self.states[name] = state


def is_parked(state: OptimizationState) -> bool:
    return state.status.value in ("paused", "suspended")


def nobody_works_on(store: Store, state: OptimizationState) -> str | None:
    """Why an optimization that should be moving cannot; None where somebody has it, or will."""
    if state.status in ENDED or is_parked(state):
        return None
    holding = store.holding(state.optimization_id)
    dead = dead_on_this_host(store)
    if holding is not None and holding.lease_node in dead:
        return f"the process that ran it ({holding.lease_node}) is gone"
    alive = [node for node in store.nodes() if node["node_id"] not in dead]
    if state.status not in ACTIVE and not alive:
        return "it waits for a process that runs it, and there is none"
    return None

"""Which nodes there are, which of them live, and how far each has read what was published.

A node lives while its heartbeat comes within its lease, by this process's monotonic clock, which nobody can set. One
whose process is gone from this machine is dead at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from o9.lifecycle.processes import lives
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.store import Store
from o9.store.synchronization import Gathering

Node = dict[str, Any]


def gather(store: Store) -> tuple[Gathering, dict[str, bool]]:
    """All nodes, and by id whether its process may live. Reads; for a thread."""
    found = store.read(queries.gathering)
    return found, {row["node_id"]: lives(row) is not False for row in found.running}


class Roster:
    """Is given every reading of the nodes."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[float, float]] = {}

    def look(self, found: Gathering, may_live: dict[str, bool], now: float, today: datetime) -> list[Node]:
        """The nodes by id, as `AsyncStateSynchronizer.get_nodes` gives them. now: by the monotonic clock."""
        self._beats = {row["node_id"]: self._beat(row, found.at, now) for row in found.running}
        nodes = {}
        for row in found.running:
            name, lasts = row["node_id"], float(row["info"].get("lease_seconds") or 0.0)
            is_living = may_live[name] and now - self._beats[name][1] < lasts
            nodes[name] = {
                "node_id": name, "host": row["host"], "pid": row["pid"], "heartbeat_at": row["heartbeat_at"],
                "living": is_living, **_lag(row["cursor"], found, today),
            }  # fmt: skip
        absent = {"host": None, "pid": None, "heartbeat_at": None, "living": False, **_lag(0, found, today)}
        for name in found.expected.keys() - nodes.keys():
            nodes[name] = {"node_id": name, **absent}
        for name, node in nodes.items():
            node["expected"] = found.expected[name]["info"] if name in found.expected else None
        return [nodes[name] for name in sorted(nodes)]

    def excuse(self, now: float) -> None:
        """This process saw nothing for a while: others may not have been able to give a heartbeat either."""
        self._beats = {name: (beat, now) for name, (beat, _) in self._beats.items()}

    def _beat(self, row: Row, at: float, now: float) -> tuple[float, float]:
        """Its last heartbeat, and when that came, by the monotonic clock."""
        beat = row["heartbeat_at"]
        known = self._beats.get(row["node_id"])
        if known is None:
            return beat, now - max(0.0, at - beat)
        return known if known[0] == beat else (beat, now)


def _lag(cursor: int, found: Gathering, today: datetime) -> Node:
    """`cursor` is the change that it reads next; 0: it reads none."""
    if not cursor:
        return dict.fromkeys(("read_to", "lag", "lag_seconds"))
    since = found.unread_since.get(cursor)
    seconds = 0.0 if since is None else max(0.0, (today - datetime.fromisoformat(since)).total_seconds())
    return {"read_to": cursor - 1, "lag": max(0, found.last_change + 1 - cursor), "lag_seconds": seconds}

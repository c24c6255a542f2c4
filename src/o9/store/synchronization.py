"""Messages that nodes publish in the change feed, each node's position in it, and nodes registered by hand.

Contract. Published messages are ordered with all other changes, so every node receives the same ones in the same order.
A read costs what was published since the last one. A node receives nothing that was published before it joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from o9.model.optimization import utc_now
from o9.store.core.column_types import to_json
from o9.store.core.reading import rows
from o9.store.core.unit import OnOptimization, Operation, Row, UnitOfWork
from o9.store.optimizations.queries import last_change, nodes
from o9.store.queue.claims import database_time
from o9.store.schema.optimizations import CHANGE, EXPECTED, NODE

PAGE = 100
STATE, UPDATE = "state", "update"  # kinds of change


@dataclass(frozen=True)
class Publish(OnOptimization[int]):
    """Send all nodes an optimization's present state, or `update`, a mapping that JSON can represent.

    Returns the change's id. Raises OptimizationNotFoundError.
    """

    optimization_id: str
    node: str
    update: Mapping[str, Any] | None = None

    def apply(self, unit: UnitOfWork) -> int:
        unit.existing(self.optimization_id)
        unit.flush()  # this unit's earlier changes come first in the feed
        data = to_json({"node": self.node, "update": self.update})
        return unit.change_now(STATE if self.update is None else UPDATE, self.optimization_id, data)


@dataclass(frozen=True)
class SetReadCursor(Operation[None]):
    """Record that `node` has read all changes before `cursor`; 0 means that it no longer reads."""

    node: str
    cursor: int

    def apply(self, unit: UnitOfWork) -> None:
        unit.connection.execute(update(NODE).where(NODE.c.node_id == self.node).values(cursor=self.cursor))


@dataclass(frozen=True)
class RegisterNode(Operation[None]):
    """Register a node by hand, or replace its `info`."""

    node: str
    info: Mapping[str, Any]

    def apply(self, unit: UnitOfWork) -> None:
        unit.upsert(EXPECTED, [{"node_id": self.node, "info": to_json(self.info), "at": unit.now}])


@dataclass(frozen=True)
class UnregisterNode(Operation[bool]):
    """Delete a node's registration and what it announced. Returns whether there was either.

    Leases that it still holds expire. A node that is alive announces itself again.
    """

    node: str

    def apply(self, unit: UnitOfWork) -> bool:
        unit.flush()
        gone = [
            unit.connection.execute(delete(table).where(table.c.node_id == self.node)).rowcount
            for table in (EXPECTED, NODE)
        ]
        return any(gone)


@dataclass(frozen=True)
class Published:
    """A page of published messages in order; `read_to` is the last change that it covers."""

    changes: list[Row]
    read_to: int


def published(connection: Connection, after: int) -> Published:
    """Return what was published after the change `after`. `update` is None for a message about the state."""
    last = max(after, last_change(connection))
    wanted = (
        select(CHANGE)
        .where(CHANGE.c.id > after, CHANGE.c.id <= last, CHANGE.c.data.is_not(None))
        .order_by(CHANGE.c.id)
        .limit(PAGE)
    )
    found = rows(connection, wanted)
    changes = [row | json.loads(row["data"]) for row in found]
    return Published(changes, found[-1]["id"] if len(found) == PAGE else last)


def cluster_nodes(connection: Connection) -> list[Row]:
    """Return all nodes by id, including those registered by hand; see `AsyncStateSynchronizer.get_nodes`.

    `living` compares the node's lease with the database's time. `info` is what the node announced.
    """
    at, last, now = database_time(connection), last_change(connection), utc_now()
    expected = {row["node_id"]: json.loads(row["info"]) for row in rows(connection, select(EXPECTED))}
    unknown: Row = dict.fromkeys(("host", "pid", "heartbeat_at", "read_to", "lag", "lag_seconds"))
    found: dict[str, Row] = {name: {"node_id": name, "living": False, "info": {}, **unknown} for name in expected}
    for row in nodes(connection):
        cursor = row["cursor"]
        ends = row["heartbeat_at"] + float(row["info"].get("lease_seconds") or 0.0)
        shown = {name: row[name] for name in ("node_id", "host", "pid", "heartbeat_at", "info")}
        found[row["node_id"]] = unknown | shown | {"living": at < ends}
        if cursor:
            found[row["node_id"]] |= {"read_to": cursor - 1, "lag": max(0, last + 1 - cursor), "lag_seconds": 0.0}
        if 0 < cursor <= last:
            first = select(CHANGE.c.at).where(CHANGE.c.id >= cursor).order_by(CHANGE.c.id).limit(1)
            since = datetime.fromisoformat(connection.execute(first).scalar_one())
            found[row["node_id"]]["lag_seconds"] = max(0.0, (now - since).total_seconds())
    return [found[name] | {"expected": expected.get(name)} for name in sorted(found)]

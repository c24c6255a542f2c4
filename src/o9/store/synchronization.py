"""What nodes tell each other through the change feed, how far each has read it, and nodes that are expected.

Contract. A published change has its place among all changes, so every node receives the same in the same order. A node
reads what lies between two looks, however long the feed is; what was published before it joined it does not receive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

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
    """Tell all nodes of an optimization: of its state as it is, or of `update`, which JSON can hold.

    Answers with the change's id. Raises OptimizationError where there is no such optimization.
    """

    optimization_id: str
    node: str
    update: Mapping[str, Any] | None = None

    def apply(self, unit: UnitOfWork) -> int:
        unit.existing(self.optimization_id)
        unit.flush()  # what this unit has changed so far comes before it
        change = {
            "optimization_id": self.optimization_id,
            "kind": STATE if self.update is None else UPDATE,
            "at": unit.now,
            "data": to_json({"node": self.node, "update": self.update}),
        }
        (made,) = unit.connection.execute(insert(CHANGE).values(change)).inserted_primary_key or (0,)
        return int(made)


@dataclass(frozen=True)
class ReadNext(Operation[None]):
    """`node` has read all before the change `cursor`; 0: it reads no more."""

    node: str
    cursor: int

    def apply(self, unit: UnitOfWork) -> None:
        unit.connection.execute(update(NODE).where(NODE.c.node_id == self.node).values(cursor=self.cursor))


@dataclass(frozen=True)
class ExpectNode(Operation[None]):
    """Keep a node by hand, with what is known of it; again: with what is known now."""

    node: str
    info: Mapping[str, Any]

    def apply(self, unit: UnitOfWork) -> None:
        unit.upsert(EXPECTED, [{"node_id": self.node, "info": to_json(self.info), "at": unit.now}])


@dataclass(frozen=True)
class ForgetNode(Operation[bool]):
    """Expect it no more, and drop what it announced. Answers whether there was anything.

    Leases that it still holds run out. One that lives announces itself anew.
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
    """A page of what was published, in order, and up to which change that is all there is."""

    changes: list[Row]
    read_to: int


def published(connection: Connection, after: int) -> Published:
    """What was published behind the change `after`. `update` is None where the state is meant."""
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


def gathering(connection: Connection) -> list[Row]:
    """All nodes by id, those too that were registered by hand: see `AsyncStateSynchronizer.get_nodes`.

    `living`: by its lease and the database's time. `info`: what it announced of itself.
    """
    at, last, now = database_time(connection), last_change(connection), utc_now()
    expected = {row["node_id"]: json.loads(row["info"]) for row in rows(connection, select(EXPECTED))}
    unknown: Row = dict.fromkeys(("host", "pid", "heartbeat_at", "read_to", "lag", "lag_seconds"))
    found: dict[str, Row] = {name: {"node_id": name, "living": False, "info": {}, **unknown} for name in expected}
    for row in nodes(connection):
        cursor = row["cursor"]  # the change that it reads next; 0: it reads none
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

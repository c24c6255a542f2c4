"""What nodes tell each other through the change feed, how far each has read it, and nodes that are expected.

Contract. A published change has its place among all changes, so every node receives the same in the same order. A node
reads what lies between two looks, however long the feed is; what was published before it joined it does not receive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

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


@dataclass(frozen=True)
class Gathering:
    """All nodes as the store knows them. `at`: the database's time.

    running: those that announced themselves. expected: by id, those that were registered by hand. unread_since: by
    cursor, when the first change was written that a node there has not read.
    """

    at: float
    last_change: int
    running: list[Row]
    expected: dict[str, Row]
    unread_since: dict[int, str]


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


def gathering(connection: Connection) -> Gathering:
    at, last, running = database_time(connection), last_change(connection), nodes(connection)
    expected = {row["node_id"]: row | {"info": json.loads(row["info"])} for row in rows(connection, select(EXPECTED))}
    since: dict[int, str] = {}
    for cursor in {row["cursor"] for row in running if 0 < row["cursor"] <= last}:
        first = select(CHANGE.c.at).where(CHANGE.c.id >= cursor).order_by(CHANGE.c.id).limit(1)
        since[cursor] = str(connection.execute(first).scalar_one())
    return Gathering(at, last, running, expected, since)

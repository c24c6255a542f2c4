"""What only one node may do at a time, by a name: a lease that expires, with a fence.

Measured by the database's clock, in seconds. A node that takes a lease from another raises its fence, so that the old
holder's writes fail (`held`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from o9.model.errors import StaleAttemptError
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.claims import database_now, database_time
from o9.store.schema.alerts import LEASE


@dataclass(frozen=True)
class AcquireLeadership(Operation[int | None]):
    """Take the lease called `name`, or keep it; answers with the fence, or None while another node holds it.

    `dead_nodes`: those of which it is known without waiting that they hold nothing any more.
    """

    name: str
    node: str
    lease_seconds: float
    dead_nodes: Sequence[str] = ()

    def apply(self, unit: UnitOfWork) -> int | None:
        now = database_now(unit)
        found = leader(unit.connection, self.name)
        values: Row = {"node": self.node, "expires_at": now + self.lease_seconds}
        if found is None:
            unit.connection.execute(insert(LEASE).values(name=self.name, fence=1, cursor=0, **values))
            return 1
        free = found["node"] is None or found["expires_at"] <= now or found["node"] in self.dead_nodes
        if found["node"] != self.node and not free:
            return None
        fence: int = found["fence"] + (found["node"] != self.node)
        unit.connection.execute(update(LEASE).where(LEASE.c.name == self.name).values(fence=fence, **values))
        return fence


@dataclass(frozen=True)
class ReleaseLeadership(Operation[None]):
    """Give the lease back, where it is still held with this fence."""

    name: str
    fence: int

    def apply(self, unit: UnitOfWork) -> None:
        mine = (LEASE.c.name == self.name) & (LEASE.c.fence == self.fence)
        unit.connection.execute(update(LEASE).where(mine).values(node=None, expires_at=0.0))


def leader(connection: Connection, name: str) -> Row | None:
    """Who holds the lease: `node` (None: no node), `fence`, `expires_at`, `cursor`; None where it was never held."""
    found = connection.execute(select(LEASE).where(LEASE.c.name == name)).mappings().first()
    return dict(found) if found else None


def seconds_left(connection: Connection, expires_at: float) -> float:
    """Until a lease expires, by the database's clock."""
    return expires_at - database_time(connection)


def held(unit: UnitOfWork, name: str, fence: int) -> None:
    """Raise StaleAttemptError unless the lease still has this fence."""
    found = leader(unit.connection, name)
    if found is None or found["fence"] != fence or found["node"] is None:
        raise StaleAttemptError(
            f"{name}: this node (fence {fence}) no longer holds the lease; "
            f"{found['node'] if found else 'no node'} does. Nothing was written"
        )

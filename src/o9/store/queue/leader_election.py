"""Leader election: a named lease that only one node holds at a time, with a fence.

Expiry is measured in seconds of the database's clock. A node that takes over a lease raises its fence, so that writes
of the former holder fail (`require_lease`).
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
    """Acquire or renew the lease `name`. Returns the fence, or None while another node holds the lease.

    A lease of one of `dead_nodes` is free before it expires.
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
    """Release the lease if it still has this fence."""

    name: str
    fence: int

    def apply(self, unit: UnitOfWork) -> None:
        mine = (LEASE.c.name == self.name) & (LEASE.c.fence == self.fence)
        unit.connection.execute(update(LEASE).where(mine).values(node=None, expires_at=0.0))


def leader(connection: Connection, name: str) -> Row | None:
    """Return the lease: `node` (None if it is free), `fence`, `expires_at`, `cursor`; None if it was never held."""
    found = connection.execute(select(LEASE).where(LEASE.c.name == name)).mappings().first()
    return dict(found) if found else None


def seconds_left(connection: Connection, expires_at: float) -> float:
    """Return the seconds until a lease expires, by the database's clock."""
    return expires_at - database_time(connection)


def require_lease(unit: UnitOfWork, name: str, fence: int) -> None:
    """Raise StaleAttemptError unless the lease is held with this fence."""
    found = leader(unit.connection, name)
    if found is None or found["fence"] != fence or found["node"] is None:
        raise StaleAttemptError(
            f"{name}: this node (fence {fence}) no longer holds the lease; "
            f"{found['node'] if found else 'no node'} does. Nothing was written"
        )

"""Leader election: a lease in the store, which the leading node renews.

Contract. `acquire` blocks, and is called by one thread at a time. A leader's writes carry its `fence`, so that the
store refuses them once another node leads.
"""

from __future__ import annotations

import time

from o9.lifecycle.heartbeat import dead_on_this_host
from o9.store import queries
from o9.store.queue.leader_election import AcquireLeadership, ReleaseLeadership
from o9.store.store import Store


class Leadership:
    """`fence` is set while this node leads, as far as it knows; each leadership has a new one."""

    def __init__(self, store: Store, lease: str, lease_seconds: float) -> None:
        self._store = store
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._renew_at = 0.0
        self.fence: int | None = None

    def acquire(self, node: str) -> bool:
        """Whether `node` leads now. Renews the lease every third of its time; takes it if it is free."""
        if self.fence is not None and time.monotonic() < self._renew_at:
            return True
        dead: tuple[str, ...] = ()
        if self.fence is None:
            dead = dead_on_this_host(self._store)
            held = self._store.read(queries.leader, self._lease)
            # Read before writing, so that waiting nodes write nothing.
            others = held is not None and held["node"] not in (None, node, *dead)
            if held is not None and others and self._store.read(queries.seconds_left, held["expires_at"]) > 0:
                return False
        began = time.monotonic()
        self.fence = self._store.write(AcquireLeadership(self._lease, node, self._lease_seconds, dead))
        self._renew_at = began + self._lease_seconds / 3
        return self.fence is not None

    def renewal(self, node: str) -> AcquireLeadership:
        """The write that renews the lease, for the caller to carry out; its answer goes to `renewed`."""
        return AcquireLeadership(self._lease, node, self._lease_seconds)

    def renewed(self, fence: int | None) -> None:
        self._renew_at = time.monotonic() + self._lease_seconds / 3 if fence == self.fence else 0.0

    def doubt(self) -> None:
        """Make the next `acquire` ask the store."""
        self._renew_at = 0.0

    def release(self) -> ReleaseLeadership | None:
        """Stop leading. Returns the write that lets another node lead at once; None where this one did not lead."""
        fence, self.fence = self.fence, None
        return None if fence is None else ReleaseLeadership(self._lease, fence)

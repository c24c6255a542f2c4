"""Finds expired leases, and jumps of the store's clock, by this process's monotonic clock.

A lease's deadline is a wall time: when a clock is set, or a machine has slept, living holders look dead and dead ones
alive. What a process observes between two of its own readings does not depend on any clock that can be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from o9.store.queue.claims import HeldLease, Leases

LOOK_SECONDS = 2.0
# A lease that has expired when it is first seen may be a living holder's, after a jump of the clock: it will renew it.
FIRST_PATIENCE_SECONDS = 2 * LOOK_SECONDS
JUMP_SECONDS = 1.0


class LeaseExpiry:
    """Is given every reading of the leases. After a gap of more than a third of `lease_seconds`, it starts over."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._dead_at: dict[HeldLease, float] = {}
        self._looked_at: float | None = None
        self._patience = FIRST_PATIENCE_SECONDS

    def run_out(self, leases: Leases, lasting: Mapping[str, float], now: float) -> list[HeldLease]:
        """The leases that their holders have not renewed for as long as they last (`lasting`, by node).

        now: the monotonic clock's time before the reading.
        """
        if self._looked_at is not None and now - self._looked_at > self._lease_seconds / 3:
            # The store was away or locked, or this process stopped: perhaps others could not renew theirs either.
            self._dead_at, self._looked_at, self._patience = {}, None, self._lease_seconds / 3
        self._dead_at = {
            lease: self._dead_at.get(lease) or self._deadline(lease, leases.at, lasting.get(lease.node, 0.0), now)
            for lease in leases.held
        }
        self._looked_at = now
        return [lease for lease, at in self._dead_at.items() if now >= at]

    def _deadline(self, lease: HeldLease, at: float, lasts: float, now: float) -> float:
        if self._looked_at is not None and lasts:
            return self._looked_at + lasts  # renewed since the last reading
        return now + min(max(lease.expires_at - at, self._patience), lasts or inf)


class StoreClock:
    """Is given every reading of the store's clock, and detects jumps."""

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None

    def jumped(self, at: float, before: float, after: float) -> float:
        """The seconds that it has jumped since the last reading; `at` was read between `before` and `after`."""
        least, most = at - after, at - before
        known, self._ahead = self._ahead, (least, most)
        if known is None:
            return 0.0
        jump = max(least - known[1], 0.0) or min(most - known[0], 0.0)
        return jump if abs(jump) >= JUMP_SECONDS else 0.0

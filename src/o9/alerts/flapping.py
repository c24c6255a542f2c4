"""Flap damping: an alert that goes on and off too often is told once as flapping, and then no more until it is quiet.

What is known of an alert is when it changed: each end, and each start but the first. It flaps from the moment of its
`changes`-th change within `within` until it has not changed for `quiet`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from o9.alerts.alert import Alert

CHANGES_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Damping:
    changes: int = 6
    within: timedelta = timedelta(minutes=15)
    quiet: timedelta = timedelta(minutes=15)


def flaps(changes: Sequence[datetime], now: datetime, damping: Damping) -> bool:
    """`changes` in their order."""
    if len(changes) < damping.changes or now - changes[-1] >= damping.quiet:
        return False
    return changes[-1] - changes[-damping.changes] <= damping.within


def kept(changes: Sequence[datetime], now: datetime, damping: Damping) -> tuple[datetime, ...]:
    """Those of `changes` that still matter at `now`; none where it has been quiet."""
    if not changes or now - changes[-1] >= damping.quiet:
        return ()
    since = changes[-1] - damping.within
    return tuple(change for change in changes[-CHANGES_KEPT:] if change >= since)


def changes_of(episodes: Iterable[Alert], now: datetime) -> tuple[datetime, ...]:
    """When an alert changed, from its episodes as a store has them."""
    moments: list[datetime] = []
    for episode in sorted(episodes, key=lambda each: each.starts_at):
        if moments:
            moments.append(max(episode.starts_at, moments[-1]))
        if episode.ends_at is not None and episode.ends_at <= now:
            moments.append(max(episode.ends_at, episode.starts_at))
    return tuple(moments)

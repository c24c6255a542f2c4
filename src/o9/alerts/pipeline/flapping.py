"""Flap damping: an alert that changes too often is reported once as flapping, and then not until it is quiet.

What is known of an alert is when it changed: each end, and each start but the first. It flaps from the moment of its
`changes`-th change within `within` until it has not changed for `quiet`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field, Strict

from o9.alerts.config.fields import Span
from o9.alerts.pipeline.alert import Alert
from o9.config import Typed

CHANGES_KEPT = 1000


class Damping(Typed):
    changes: Annotated[int, Strict(), Field(ge=2, le=1_000)] = 6
    within: Span = timedelta(minutes=15)
    quiet: Span = timedelta(minutes=15)


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


class CountedChanges(dict[str, tuple[datetime, ...]]):
    """By fingerprint, when an alert changed, as far as that counts; in the order of the last change of each."""

    def __init__(self, damping: Damping | None) -> None:
        super().__init__()
        self._damping = damping

    def count(self, name: str, at: datetime) -> tuple[datetime, ...]:
        """It changed at `at`, or as late as it changed before. Answers with all that counts."""
        if self._damping is None:
            return ()
        before = self.pop(name, ())
        at = max((at, *before[-1:]))
        self[name] = (*kept(before, at, self._damping), at)
        return self[name]

    def flaps(self, name: str) -> bool:
        """At its last change."""
        changes = self.get(name)
        return self._damping is not None and changes is not None and flaps(changes, changes[-1], self._damping)

    def is_quiet(self, name: str, now: datetime) -> bool:
        """Whether its changes count no more."""
        changes = self.get(name)
        return self._damping is not None and changes is not None and now - changes[-1] >= self._damping.quiet


def changes_of(episodes: Iterable[Alert], now: datetime) -> tuple[datetime, ...]:
    """When an alert changed, from its episodes as a store has them."""
    moments: list[datetime] = []
    for episode in sorted(episodes, key=lambda each: each.starts_at):
        if moments:
            moments.append(max(episode.starts_at, moments[-1]))
        if episode.ends_at is not None and episode.ends_at <= now:
            moments.append(max(episode.ends_at, episode.starts_at))
    return tuple(moments)

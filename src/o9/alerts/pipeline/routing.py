"""Routing: which receivers an alert goes to, and with which others it is grouped. The semantics are Alertmanager's.

A route takes an alert that fits its matchers. Its own routes are asked in their order; the first that takes the alert
ends the search unless it says `continue`; where none does, the route itself has it. What a route does not say, it has
from its parent, but not the matchers, `continue` and time intervals. Alerts of one route with equal values in the
labels `group_by` are one group, which is notified together. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from o9.alerts.pipeline.alert import Labels, digest
from o9.alerts.pipeline.matchers import Matchers, match

GROUP_WAIT = timedelta(seconds=20)  # with a pass of the rules: a failure is sent within 30 s
GROUP_INTERVAL = timedelta(minutes=5)
REPEAT_INTERVAL = timedelta(hours=4)
GROUP_BY = ("title", "level", "series")

Grouping = tuple[tuple[str, str], ...]
"""The labels by which an alert is grouped, with their values."""


@dataclass(frozen=True, slots=True)
class Route:
    """One node of the tree, with everything that it has from its parents. `group_by` None is by all labels."""

    receiver: str
    key: str = "{}"
    """Names the route: the matchers from the root down, so that it stays the same where other routes change."""
    matchers: Matchers = ()
    continues: bool = False
    group_by: tuple[str, ...] | None = GROUP_BY
    group_wait: timedelta = GROUP_WAIT
    group_interval: timedelta = GROUP_INTERVAL
    repeat_interval: timedelta = REPEAT_INTERVAL
    mute_time_intervals: tuple[str, ...] = ()
    active_time_intervals: tuple[str, ...] = ()
    escalate_after: timedelta | None = None
    escalate_to: str = ""
    routes: tuple[Route, ...] = ()

    def grouping(self, labels: Labels) -> Grouping:
        """A label that an alert does not have is left out."""
        names = sorted(labels) if self.group_by is None else self.group_by
        return tuple([(name, labels[name]) for name in names if name in labels])

    def walk(self) -> Iterator[Route]:
        """This route and all below it."""
        yield self
        for route in self.routes:
            yield from route.walk()


def routes_of(root: Route, labels: Labels) -> tuple[Route, ...]:
    """The routes that take an alert with these labels: one, or more where some say `continue`."""
    if not match(root.matchers, labels):
        return ()
    found: tuple[Route, ...] = ()
    for route in root.routes:
        taken = routes_of(route, labels)
        found += taken
        if taken and not route.continues:
            break
    return found or (root,)


def group_key(route: Route, grouping: Grouping) -> str:
    """Names the group: equal for equal routes, receivers and labels, on every node and after every restart."""
    return digest((route.receiver, route.key, *(part for label in grouping for part in label)))

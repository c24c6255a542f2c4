"""Routing: to which receivers an alert goes, and with which others it is grouped. Pure; semantics as Alertmanager's.

A route takes an alert that matches its matchers. Its subroutes are tried in order; the first that takes the alert ends
the search, unless it has `continue`. If none does, the route keeps the alert. A route inherits every setting from its
parent except matchers, `continue` and time intervals. Alerts of one route with equal values in the labels `group_by`
form a group, which is notified together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from o9.alerts.pipeline.alert import Labels, digest
from o9.alerts.pipeline.matchers import Matchers, match

GROUP_WAIT = timedelta(seconds=20)  # plus a pass of the rules: a failure is sent within 30 s
GROUP_INTERVAL = timedelta(minutes=5)
REPEAT_INTERVAL = timedelta(hours=4)
GROUP_BY = ("title", "level", "series")

Grouping = tuple[tuple[str, str], ...]
"""The names and values of the labels by which alerts are grouped."""


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, with its inherited settings. `group_by` None means by all labels."""

    receiver: str
    key: str = "{}"
    """The matchers from the root down; independent of changes to other routes."""
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
        """Return the labels by which an alert is grouped. Missing labels are omitted."""
        names = sorted(labels) if self.group_by is None else self.group_by
        return tuple([(name, labels[name]) for name in names if name in labels])

    def walk(self) -> Iterator[Route]:
        """Yield this route and all below it."""
        yield self
        for route in self.routes:
            yield from route.walk()


def routes_of(root: Route, labels: Labels) -> tuple[Route, ...]:
    """Return the routes that take an alert with these labels; more than one if some have `continue`."""
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
    """Return the group's key: the same for equal routes, receivers and labels on every node and after every restart."""
    return digest((route.receiver, route.key, *(part for label in grouping for part in label)))

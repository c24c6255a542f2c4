"""What an engine remembers of an alert, and what it gives a store to keep and gets back after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.groups import Group
from o9.alerts.pipeline.routing import Grouping, Route, group_key
from o9.alerts.pipeline.silences import Silence
from o9.alerts.pipeline.stages import Decision


class Place:
    """A route and a grouping: where all alerts of one group belong, also while there is no such group."""

    __slots__ = ("__weakref__", "group", "grouping", "route")

    def __init__(self, route: Route, grouping: Grouping) -> None:
        self.route = route
        self.grouping = grouping
        self.group: Group | None = None

    @property
    def key(self) -> str:
        return group_key(self.route, self.grouping) if self.group is None else self.group.key


@dataclass(slots=True)
class Known:
    """An alert that fires, or whose end is still to be reported. Equal labels have one, over all their episodes."""

    alert: Alert
    places: tuple[Place, ...]
    firing: bool = True
    """Until its end has been noticed."""
    acknowledged_by: str = ""
    episodes: tuple[tuple[datetime, str], ...] = ()
    """Earlier ones that flap damping still counts: when they ended, and their ids."""

    @property
    def is_in_a_group(self) -> bool:
        return any(place.group is not None and self.alert.fingerprint in place.group.members for place in self.places)


@dataclass(frozen=True, slots=True)
class Held:
    """Why a receiver is not notified of an alert, or not again."""

    alert: Alert
    receiver: str
    group_key: str
    decision: Decision
    at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since the last time."""

    groups: Mapping[str, tuple[Group, dict[str, Any]] | None]
    """By key, the group and its state; None where it is gone."""
    due: Mapping[str, datetime]
    """By key, when the others are looked at next, where that has changed."""
    held: tuple[Held, ...]
    closed: tuple[str, ...]
    """The ids of alerts that need no more messages: a restored engine need not know them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert in a snapshot."""

    alert: Alert
    ended: bool = False
    """Whether its end has been noticed."""
    acknowledged_by: str = ""
    changes: tuple[datetime, ...] = ()
    """When it changed; from a store's rows, `o9.alerts.pipeline.flapping.changes_of` its episodes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything an engine knows beside its configuration."""

    alerts: tuple[Kept, ...]
    silences: tuple[Silence, ...]
    groups: Mapping[str, tuple[datetime, dict[str, Any]]]
    """By key: when it is looked at next, and its state."""

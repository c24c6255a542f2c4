"""One group: the alerts of one route with equal labels, when it is flushed next, and what its receiver was notified of.

A group begins with its first alert and waits `group_wait` for others; an alert that is older than that does not wait.
From then on it is flushed every `group_interval`, until nothing is left of it. `state` and `Group.of` take everything
but its alerts into JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.reasons import Reason
from o9.alerts.pipeline.routing import Grouping, Route


@dataclass(slots=True)
class Group:
    """`notified`: by fingerprint, what the receiver believes to fire and since when; it is notified of the end."""

    key: str
    route: Route
    labels: Grouping
    due_at: datetime
    """When it is flushed next."""
    waits: bool = True
    """Whether it was not flushed yet."""
    idle: bool = False
    """Nothing in it fires: only ends are left that could not be sent yet."""
    number: int = 0
    """Of its last notice. A new group begins with the microseconds of its moment, behind all that were before."""
    members: dict[str, None] = field(default_factory=dict)
    """The fingerprints of its alerts."""
    firing: set[str] = field(default_factory=set)
    """Those that the last message reported as firing."""
    at: datetime | None = None
    """When that was."""
    notified: dict[str, datetime] = field(default_factory=dict)
    flapping: dict[str, datetime] = field(default_factory=dict)
    """By fingerprint: when the receiver was last notified that it flaps."""
    lingering: set[str] = field(default_factory=set)
    """Resolved ones that were never reported, and that are here because they flap."""
    escalated: set[str] = field(default_factory=set)
    escalate_at: datetime | None = None
    held: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    """By fingerprint: the decision that holds it back, which is recorded already."""
    receiver: str = ""
    audience: str = ""
    """A digest of the receiver's channels, by which it is known again where it is renamed."""
    not_before: datetime | None = None
    """Where flushing it failed: it is not flushed before that. Not part of its state."""

    @property
    def next_at(self) -> datetime:
        at = self.due_at if self.escalate_at is None else min(self.due_at, self.escalate_at)
        return at if self.not_before is None else max(at, self.not_before)

    def take_in(self, alert: Alert, now: datetime) -> bool:
        """An alert that fires or flaps; whether the group's state or time has changed by it."""
        self.members[alert.fingerprint] = None
        changed = self.idle or alert.fingerprint in self.lingering
        self.lingering.discard(alert.fingerprint)
        if self.idle:
            self.idle, self.waits = False, True
            self.due_at = min(self.due_at, first_look(self.route, alert, now))
        return changed

    def begins_anew(self, fingerprint: str, now: datetime) -> None:
        """A new episode of an alert whose last one the receiver still believes to fire: time to react starts anew."""
        if fingerprint in self.notified:
            self.notified[fingerprint] = now
            self.plan_escalation(now)

    def is_news(self, fingerprint: str) -> bool:
        """Whether the last message did not report it, or only an episode that is over by now."""
        if self.at is None or fingerprint not in self.firing:
            return True
        return self.notified.get(fingerprint, self.at) > self.at

    def take_out(self, fingerprint: str) -> None:
        """A resolved alert of which the receiver needs no more messages."""
        self.members.pop(fingerprint, None)
        self.firing.discard(fingerprint)
        self.notified.pop(fingerprint, None)
        self.flapping.pop(fingerprint, None)
        self.lingering.discard(fingerprint)
        self.escalated.discard(fingerprint)
        self.held.pop(fingerprint, None)

    def notifies(self, receiver: str, renamed: Mapping[str, str]) -> bool:
        """Whether that is this group's receiver, or, of those in `renamed`, by name, one with the same audience."""
        return receiver == self.receiver or renamed.get(receiver) == self.audience

    def inherits(self, name: str, other: Group, now: datetime) -> None:
        """An alert that `other` reported, under another configuration, and whose end is reported here."""
        if name in self.notified or other.at is None:
            return
        self.members[name] = None
        self.notified[name] = other.notified[name]
        self.held |= {name: other.held[name]} if name in other.held else {}
        self.flapping |= {name: other.flapping[name]} if name in other.flapping else {}
        self.firing |= {name} & other.firing
        self.escalated |= {name} & other.escalated
        self.due_at = other.due_at if self.at is None else min(self.due_at, other.due_at)
        self.at = other.at if self.at is None else max(self.at, other.at)
        self.waits = False
        self.plan_escalation(now)

    def plan_escalation(self, now: datetime) -> None:
        """Sets when the next alert is due to be escalated; overdue ones are handled at each flush."""
        after = self.route.escalate_after
        if after is None:
            return
        moments = (at + after for name, at in self.notified.items() if name not in self.escalated)
        self.escalate_at = min((moment for moment in moments if moment > now), default=None)

    def state(self) -> dict[str, Any]:
        """Everything but `due_at` and the alerts, JSON-ready. A store keeps it as it is."""
        return {
            "route": self.route.key,
            "labels": [list(label) for label in self.labels],
            "waits": self.waits,
            "idle": self.idle,
            "number": self.number,
            "firing": sorted(self.firing),
            "at": _text(self.at),
            "notified": _by_moment(self.notified),
            "flapping": _by_moment(self.flapping),
            "lingering": sorted(self.lingering),
            "escalated": sorted(self.escalated),
            "escalate_at": _text(self.escalate_at),
            "held": _by_decision(self.held),
            "receiver": self.receiver,
            "audience": self.audience,
        }

    @classmethod
    def beginning(cls, key: str, route: Route, labels: Grouping, alert: Alert, now: datetime) -> Group:
        """With its first alert."""
        number = (now - _EPOCH) // timedelta(microseconds=1)
        return cls(key, route, labels, first_look(route, alert, now), number=number, members={alert.fingerprint: None})

    @classmethod
    def of(cls, key: str, route: Route, due_at: datetime, state: Mapping[str, Any]) -> Group:
        return cls(
            key=key,
            route=route,
            labels=tuple((name, value) for name, value in state["labels"]),
            due_at=due_at,
            waits=state["waits"],
            idle=state["idle"],
            number=state["number"],
            firing=set(state["firing"]),
            at=_moment(state["at"]),
            notified={name: datetime.fromisoformat(at) for at, names in state["notified"] for name in names},
            flapping={name: datetime.fromisoformat(at) for at, names in state["flapping"] for name in names},
            lingering=set(state["lingering"]),
            escalated=set(state["escalated"]),
            escalate_at=_moment(state["escalate_at"]),
            held={name: (reason, by) for reason, by, names in held_in(state) for name in names},
            receiver=state["receiver"],
            audience=state["audience"],
        )


def held_in(state: Mapping[str, Any]) -> list[tuple[Reason, str, list[str]]]:
    """Of a stored state: each decision that holds alerts back, with their fingerprints."""
    return [(Reason.of(reason), by, names) for reason, by, names in state["held"]]


def first_look(route: Route, alert: Alert, now: datetime) -> datetime:
    """When a group that begins with `alert` is flushed first."""
    return now if now - alert.starts_at > route.group_wait else now + route.group_wait


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _by_moment(moments: Mapping[str, datetime]) -> list[tuple[str, list[str]]]:
    """Many alerts are reported at one moment: each moment once, with all its alerts."""
    found: dict[datetime, list[str]] = {}
    for name, at in moments.items():
        found.setdefault(at, []).append(name)
    return [(at.isoformat(), names) for at, names in sorted(found.items())]


def _by_decision(held: Mapping[str, tuple[Reason, str]]) -> list[tuple[str, str, list[str]]]:
    found: dict[tuple[Reason, str], list[str]] = {}
    for name, decision in held.items():
        found.setdefault(decision, []).append(name)
    return [(reason.value, by, names) for (reason, by), names in found.items()]

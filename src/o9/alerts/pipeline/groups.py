"""Alerts and groups as the engine tracks them, and the flush of a group, which makes its notices.

A group has the alerts of one route with equal values in the labels `group_by`. It begins with its first alert and waits
`group_wait` for others, unless that alert is older. Then it is flushed every `group_interval` until it is empty.
`Group.state` and `Group.of` convert everything but the alerts to JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from o9.alerts.config.schema import Receiver
from o9.alerts.pipeline import stages
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind, NotifyReason, worst_first
from o9.alerts.pipeline.routing import Grouping, Route, group_key
from o9.alerts.pipeline.stages import GOES_ON, StageDecision
from o9.text.format import duration

V = TypeVar("V")


@dataclass(slots=True)
class Group:
    """A group, and what its receiver was notified of. Alerts are referred to by their fingerprints."""

    key: str
    route: Route
    labels: Grouping
    due_at: datetime
    """The time of its next flush."""
    idle: bool = False
    """Whether no member fires: only resolutions are left that could not be sent yet."""
    number: int = 0
    """The number of its last notice. A new group starts with the microseconds since 1970, above all earlier numbers."""
    members: dict[str, None] = field(default_factory=dict)
    """An ordered set."""
    firing: set[str] = field(default_factory=set)
    """The alerts that the last message reported as firing."""
    at: datetime | None = None
    """The time of the last message."""
    notified: dict[str, datetime] = field(default_factory=dict)
    """The alerts that the receiver believes to fire, and since when. It will be notified of their end."""
    flapping: dict[str, datetime] = field(default_factory=dict)
    """When the receiver was last notified that an alert flaps."""
    lingering: set[str] = field(default_factory=set)
    """Resolved alerts that were never reported and stay only because they flap."""
    escalated: set[str] = field(default_factory=set)
    escalate_at: datetime | None = None
    held: dict[str, tuple[NotifyReason, str]] = field(default_factory=dict)
    """The decision that suppresses an alert; it is recorded already."""
    receiver: str = ""
    slot: GroupSlot = field(init=False, repr=False, compare=False)

    @property
    def next_at(self) -> datetime:
        return self.due_at if self.escalate_at is None else min(self.due_at, self.escalate_at)

    def add(self, alert: Alert, now: datetime) -> bool:
        """Add an alert that fires or flaps. Returns whether that changed the group's state or next flush."""
        self.members[alert.fingerprint] = None
        changed = self.idle or alert.fingerprint in self.lingering
        self.lingering.discard(alert.fingerprint)
        if self.idle:
            self.idle = False
            self.due_at = min(self.due_at, first_flush_at(self.route, alert, now))
        return changed

    def is_new(self, fingerprint: str) -> bool:
        """Return whether the last message did not report this episode of the alert."""
        if self.at is None or fingerprint not in self.firing:
            return True
        return self.notified.get(fingerprint, self.at) > self.at

    def remove(self, fingerprint: str) -> None:
        """Remove an alert about which the receiver needs no more messages."""
        self.members.pop(fingerprint, None)
        self.firing.discard(fingerprint)
        self.notified.pop(fingerprint, None)
        self.flapping.pop(fingerprint, None)
        self.lingering.discard(fingerprint)
        self.escalated.discard(fingerprint)
        self.held.pop(fingerprint, None)

    def inherit_from(self, name: str, other: Group, now: datetime) -> None:
        """Take over an alert that `other` reported under another configuration; its end is reported here."""
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
        self.schedule_escalation(now)

    def schedule_escalation(self, now: datetime) -> None:
        """Set the time of the next escalation. Overdue ones are handled by each flush."""
        after = self.route.escalate_after
        if after is None:
            return
        moments = (at + after for name, at in self.notified.items() if name not in self.escalated)
        self.escalate_at = min((moment for moment in moments if moment > now), default=None)

    def state(self) -> dict[str, Any]:
        """Return everything but `due_at` and the alerts, JSON-ready, for the store."""
        return {
            "route": self.route.key,
            "labels": [list(label) for label in self.labels],
            "idle": self.idle,
            "number": self.number,
            "firing": sorted(self.firing),
            "at": self.at and self.at.isoformat(),
            "notified": _by_moment(self.notified),
            "flapping": _by_moment(self.flapping),
            "lingering": sorted(self.lingering),
            "escalated": sorted(self.escalated),
            "escalate_at": self.escalate_at and self.escalate_at.isoformat(),
            "held": [(reason.value, by, names) for (reason, by), names in _names_by(self.held).items()],
            "receiver": self.receiver,
        }

    @classmethod
    def beginning(cls, key: str, route: Route, labels: Grouping, alert: Alert, now: datetime) -> Group:
        """Return a new group with its first alert."""
        number = (now - _EPOCH) // timedelta(microseconds=1)
        return cls(
            key, route, labels, first_flush_at(route, alert, now), number=number, members={alert.fingerprint: None}
        )

    @classmethod
    def of(cls, key: str, route: Route, due_at: datetime, state: Mapping[str, Any]) -> Group:
        return cls(
            key=key,
            route=route,
            labels=tuple((name, value) for name, value in state["labels"]),
            due_at=due_at,
            idle=state["idle"],
            number=state["number"],
            firing=set(state["firing"]),
            at=state["at"] and datetime.fromisoformat(state["at"]),
            notified={name: datetime.fromisoformat(at) for at, names in state["notified"] for name in names},
            flapping={name: datetime.fromisoformat(at) for at, names in state["flapping"] for name in names},
            lingering=set(state["lingering"]),
            escalated=set(state["escalated"]),
            escalate_at=state["escalate_at"] and datetime.fromisoformat(state["escalate_at"]),
            held={name: (reason, by) for reason, by, names in suppressions_in(state) for name in names},
            receiver=state["receiver"],
        )


class GroupSlot:
    """A route and a grouping, with their group while there is one. All alerts of the group share the slot."""

    __slots__ = ("__weakref__", "group", "grouping", "route")

    def __init__(self, route: Route, grouping: Grouping) -> None:
        self.route = route
        self.grouping = grouping
        self.group: Group | None = None

    @property
    def key(self) -> str:
        return group_key(self.route, self.grouping) if self.group is None else self.group.key


@dataclass(slots=True)
class TrackedAlert:
    """An alert, over all its episodes, that fires or whose end is still to be reported."""

    alert: Alert
    slots: tuple[GroupSlot, ...] = ()
    firing: bool = True
    """False once its end has been processed."""
    acknowledged_by: str = ""
    episodes: tuple[tuple[datetime, str], ...] = ()
    """The ends and ids of earlier episodes that still count for flap damping."""
    changes: tuple[datetime, ...] = ()
    """In a snapshot only: its changes, see `o9.alerts.pipeline.stages.changes_of`."""

    @property
    def is_in_a_group(self) -> bool:
        return any(slot.group is not None and self.alert.fingerprint in slot.group.members for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a receiver is not notified of an alert, or not again."""

    alert: Alert
    receiver: str
    decision: StageDecision
    at: datetime


def suppressions_in(state: Mapping[str, Any]) -> list[tuple[NotifyReason, str, list[str]]]:
    """Return the suppressing decisions in a stored group state, each with the fingerprints of its alerts."""
    return [(NotifyReason(reason), by, names) for reason, by, names in state["held"]]


def first_flush_at(route: Route, alert: Alert, now: datetime) -> datetime:
    """Return the time of the first flush of a group that begins with `alert`."""
    return now if now - alert.starts_at > route.group_wait else now + route.group_wait


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _names_by(values: Mapping[str, V]) -> dict[V, list[str]]:
    """Return the names by value, since many alerts share one."""
    found: dict[V, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def _by_moment(moments: Mapping[str, datetime]) -> list[tuple[str, list[str]]]:
    return [(at.isoformat(), names) for at, names in sorted(_names_by(moments).items())]


_KINDS = {
    NotifyReason.FIRST: NoticeKind.FIRING,
    NotifyReason.NEW_ALERTS: NoticeKind.FIRING,
    NotifyReason.SOME_RESOLVED: NoticeKind.FIRING,
    NotifyReason.ALL_RESOLVED: NoticeKind.RESOLVED,
    NotifyReason.REPEATED: NoticeKind.REPEAT,
}


@dataclass(slots=True)
class Flush:
    """The flush of a group that is due. Carries out the decisions of `o9.alerts.pipeline.stages`."""

    group: Group
    now: datetime
    alerts: Mapping[str, TrackedAlert]
    context: stages.GroupContext
    receivers: Mapping[str, Receiver]
    notices: list[Notice] = field(default_factory=list)
    held: list[Suppression] = field(default_factory=list)
    done: list[Alert] = field(default_factory=list)
    """Resolved alerts about which the receiver needs no more messages."""
    changed: bool = False
    """Whether the group's state has changed."""

    def regular(self) -> None:
        """Make the notice for the group's receiver, due every `group_interval`."""
        firing, ended, flapping = self._sorted()
        over = [alert for alert in ended if not alert.expired]
        if self.receivers[self.group.route.receiver].channels:
            self._notify(firing, over)
            self._notify_flapping(flapping)
        else:
            for alert in firing:
                self._hold(alert, StageDecision(NotifyReason.NO_CHANNEL))
        escalated = [alert for alert in over if alert.fingerprint in self.group.escalated]
        if escalated and self.receivers[self.group.route.escalate_to].send_resolved:
            resolved = NotifyReason.ALL_RESOLVED.text
            self._notice(NoticeKind.RESOLVED, [], escalated, resolved, self.group.route.escalate_to)
        for alert in ended:
            if alert.expired:
                self._hold(alert, StageDecision(NotifyReason.EXPIRED))
            self.group.remove(alert.fingerprint)
            self.changed = True
        self.done += ended

    def escalation(self) -> None:
        """Make the notice for the receiver to which overdue alerts are escalated."""
        group, now, after = self.group, self.now, self.group.route.escalate_after
        if after is None:
            return
        overdue = [
            self.alerts[name]
            for name, at in group.notified.items()
            if name not in group.escalated and at + after <= now
        ]
        alerts = [
            known.alert
            for known in overdue
            if known.firing
            and not known.acknowledged_by
            and stages.suppressed(known.alert, now, self.context) is GOES_ON
        ]
        if alerts:
            reason = f"{NotifyReason.NOT_ACKNOWLEDGED.text} for {duration(after)}"
            self._notice(NoticeKind.ESCALATION, alerts, [], reason, group.route.escalate_to)
            group.escalated.update(alert.fingerprint for alert in alerts)
        before = group.escalate_at
        group.schedule_escalation(now)
        self.changed |= before != group.escalate_at

    def _sorted(self) -> tuple[list[Alert], list[Alert], list[tuple[Alert, StageDecision]]]:
        """Return the firing alerts and the resolved ones that are not suppressed, and those that flap."""
        group = self.group
        firing: list[Alert] = []
        over: list[Alert] = []
        flapping: list[tuple[Alert, StageDecision]] = []
        for name in group.members:
            known = self.alerts[name]
            decision = stages.suppressed(known.alert, self.now, self.context)
            if decision is not GOES_ON:
                self._hold(known.alert, decision)
                if decision.reason is NotifyReason.FLAPPING:
                    flapping.append((known.alert, decision))
                continue
            if group.held and group.held.get(name, _NOT_HELD)[0] not in _STAY:
                self.changed |= group.held.pop(name, None) is not None
            if group.flapping:
                self.changed |= group.flapping.pop(name, None) is not None
            (firing if known.firing else over).append(known.alert)
        return firing, over, flapping

    def _notify(self, firing: list[Alert], over: list[Alert]) -> None:
        group, now = self.group, self.now
        receiver = self.receivers[group.route.receiver]
        known_over = [alert for alert in over if alert.fingerprint in group.notified]
        acknowledged = all(self.alerts[alert.fingerprint].acknowledged_by for alert in firing)
        decision = stages.worth_notifying(
            firing, known_over, now, reported=group.firing, at=group.at, repeat_interval=group.route.repeat_interval,
            send_resolved=receiver.send_resolved, acknowledged=acknowledged,
        )  # fmt: skip
        kind = _KINDS.get(decision.reason)
        if not receiver.send_resolved:
            for alert in known_over:
                self._hold(alert, StageDecision(NotifyReason.RESOLVED_NOT_SENT))
        if decision.reason is NotifyReason.ACKNOWLEDGED:
            for alert in firing:
                by = self.alerts[alert.fingerprint].acknowledged_by
                self._hold(alert, StageDecision(NotifyReason.ACKNOWLEDGED, by))
        if kind is None:
            return
        new = firing if kind is NoticeKind.FIRING else []
        new = [alert for alert in new if group.is_new(alert.fingerprint)]
        self._notice(kind, firing, known_over if receiver.send_resolved else [], decision.reason.text, new=new)
        group.at = now
        group.firing = {alert.fingerprint for alert in firing}
        for alert in firing:
            group.notified.setdefault(alert.fingerprint, now)
        group.schedule_escalation(now)

    def _notify_flapping(self, flapping: list[tuple[Alert, StageDecision]]) -> None:
        """Report flapping alerts once, and after `repeat_interval` again unless they are acknowledged."""
        group, now, again = self.group, self.now, self.group.route.repeat_interval
        news = []
        for alert, decision in flapping:
            notified_at = group.flapping.get(alert.fingerprint)
            if notified_at is None or (
                now >= notified_at + again and not self.alerts[alert.fingerprint].acknowledged_by
            ):
                news.append((alert, decision.by))
        if not news:
            return
        reason = f"{NotifyReason.FLAPS.text}: {news[0][1]}" + (f", and {len(news) - 1} more" if len(news) > 1 else "")
        firing = [alert for alert, _ in news if self.alerts[alert.fingerprint].firing]
        over = [alert for alert, _ in news if not self.alerts[alert.fingerprint].firing]
        self._notice(NoticeKind.FLAPPING, firing, over, reason, new=firing)
        for alert, _ in news:
            group.flapping[alert.fingerprint] = now
            group.notified.setdefault(alert.fingerprint, now)
            group.firing.discard(alert.fingerprint)

    def _notice(
        self,
        kind: NoticeKind,
        firing: list[Alert],
        over: list[Alert],
        reason: str,
        receiver: str = "",
        new: Sequence[Alert] = (),
    ) -> None:
        group, names = self.group, {alert.fingerprint for alert in new}
        known = [alert for alert in firing if alert.fingerprint not in names]
        group.number += 1
        self.changed = True
        self.notices.append(
            Notice(
                receiver=receiver or group.route.receiver,
                group_key=group.key,
                number=group.number,
                group_labels=dict(group.labels),
                kind=kind,
                at=self.now,
                firing=(*worst_first(new), *worst_first(known)),
                resolved=worst_first(over),
                reason=reason,
                known=len(known),
            )
        )

    def _hold(self, alert: Alert, decision: StageDecision) -> None:
        """Record why an alert is suppressed, unless that is recorded already."""
        group, what = self.group, (decision.reason, decision.by)
        before = group.held.get(alert.fingerprint)
        if before == what or (before and before[0] is decision.reason is NotifyReason.FLAPPING):
            return
        group.held[alert.fingerprint] = what
        self.held.append(Suppression(alert, group.route.receiver, decision, self.now))
        self.changed = True


_NOT_HELD = (NotifyReason.GOES_ON, "")
_STAY = (NotifyReason.ACKNOWLEDGED, NotifyReason.NO_CHANNEL, NotifyReason.GOES_ON)

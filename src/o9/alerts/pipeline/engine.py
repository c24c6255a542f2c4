"""The pipeline: alerts go in, and notices come out at the times that `due` returns.

    engine.take(alerts, now)            alerts from sources: firing or resolved
    engine.put_silence(silence)         engine.end_silence(silence_id)          engine.acknowledge(fingerprint, by)
    engine.due()                        the next time at which a notice may be due
    engine.advance(now) -> notices      the notices of `now`
    engine.drain() -> Changes           the changes to store, in one transaction with the notices
    engine.snapshot(), Engine.restored(configuration, snapshot, now)

Pure and deterministic: the same calls with the same times give the same notices, and a restored engine continues as if
it had never stopped. Not thread-safe. Times must not go backwards.

Groups are flushed when they are due, in the order of time and key. The notices of one time are in the order in which
their alerts began, so that a start precedes its end. The reason why an alert is suppressed is recorded once. A receiver
is notified of new alerts, and of the end of every alert that it was notified of; if an alert ends while it is
suppressed, as soon as it no longer is.

If anything raises, `take`, `advance` and `restored` raise InternalError, which names the alerts. The engine may be
inconsistent then and must be discarded.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from o9.alerts.config.schema import Configuration
from o9.alerts.pipeline import stages
from o9.alerts.pipeline.alert import Alert, Notice, NotifyReason, merged
from o9.alerts.pipeline.groups import Flush, Group, GroupSlot, Suppression, TrackedAlert
from o9.alerts.pipeline.routing import Grouping, Route, group_key, routes_of
from o9.alerts.pipeline.stages import ChangeHistory, Inhibitions, Silence, StageDecision

_SWEEP_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the last `drain`."""

    groups: Mapping[str, tuple[datetime, dict[str, Any]] | None]
    """By key: the next flush, and the state; None if the group is gone."""
    due: Mapping[str, datetime]
    """By key: the next flush of groups whose state has not changed."""
    held: tuple[Suppression, ...]
    closed: tuple[str, ...]
    """The ids of alerts that need no more messages, and that a restored engine need not know."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.due or self.held or self.closed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an engine, without its configuration."""

    alerts: tuple[TrackedAlert, ...]
    silences: tuple[Silence, ...]
    groups: Mapping[str, tuple[datetime, dict[str, Any]]]
    """By key: the next flush, and the state."""


class InternalError(Exception):
    """An error while these alerts (ids by fingerprint), or the whole `group` (its key), were processed."""

    def __init__(self, error: Exception, alerts: Mapping[str, str], group: str = "") -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.alerts = alerts
        self.group = group


class Engine:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._known: dict[str, TrackedAlert] = {}
        self._inhibitions = Inhibitions(configuration.inhibit_rules)
        self._silences: dict[str, Silence] = {}
        self._changes = ChangeHistory(configuration.flapping)
        self._sweep_at: datetime | None = None
        self._slots: WeakValueDictionary[tuple[str, Grouping], GroupSlot] = WeakValueDictionary()
        self._groups: dict[str, Group] = {}
        self._due: list[tuple[datetime, str]] = []
        self._changed: set[str] = set()
        self._moved: set[str] = set()
        self._held: list[Suppression] = []
        self._closed: list[str] = []

    def take(self, alerts: Iterable[Alert], now: datetime) -> None:
        """Process alerts from sources. Sources that repeat their alerts give them an `expected_end`."""
        for given in alerts:
            try:
                self._take(given, now)
            except Exception as error:
                raise InternalError(error, {given.fingerprint: given.alert_id}) from error

    def put_silence(self, silence: Silence) -> None:
        """Add a valid silence, or replace the one with its id."""
        self._silences[silence.silence_id] = silence

    def end_silence(self, silence_id: str) -> None:
        self._silences.pop(silence_id, None)

    def acknowledge(self, fingerprint: str, by: str) -> None:
        """Acknowledge the firing episode: it is neither repeated nor escalated any more."""
        known = self._known.get(fingerprint)
        if known is not None and known.firing:
            known.acknowledged_by = by

    def due(self) -> datetime | None:
        """Return the time of the next flush."""
        while self._due:
            at, key = self._due[0]
            group = self._groups.get(key)
            if group is not None and group.next_at == at:
                return at
            heapq.heappop(self._due)
        return None

    def advance(self, now: datetime) -> list[Notice]:
        """Flush every group that is due, and return the notices.

        It also forgets what has expired, so call it about every minute even if nothing is due.
        """
        notices: list[Notice] = []
        while (at := self.due()) is not None and at <= now:
            group = self._groups[heapq.heappop(self._due)[1]]
            try:
                notices += self._flush(group, now)
            except Exception as error:
                ids = {name: self._known[name].alert.alert_id for name in group.members}
                raise InternalError(error, ids, group.key) from error
        self._sweep(now)
        return sorted(notices, key=lambda notice: notice.news_first[0].starts_at)

    def drain(self) -> Changes:
        """Return what has changed since the last call."""
        groups = {key: self._groups.get(key) for key in sorted(self._changed)}
        changes = Changes(
            {key: None if group is None else (group.due_at, group.state()) for key, group in groups.items()},
            {key: self._groups[key].due_at for key in sorted(self._moved - self._changed)},
            tuple(self._held),
            tuple(self._closed),
        )
        self._changed, self._moved, self._held, self._closed = set(), set(), [], []
        return changes

    def snapshot(self) -> Snapshot:
        return Snapshot(
            tuple(replace(each, slots=(), changes=self._changes.get(name, ())) for name, each in self._known.items()),
            tuple(self._silences.values()),
            {key: (group.due_at, group.state()) for key, group in self._groups.items()},
        )

    @classmethod
    def restored(cls, configuration: Configuration, snapshot: Snapshot, now: datetime) -> Engine:
        """Return an engine in the state of the snapshot.

        If the configuration has changed, the new groups of an alert take over what their receiver was notified of.
        """
        engine = cls(configuration)
        routes = {route.key: route for route in configuration.route.walk()}
        for silence in snapshot.silences:
            engine.put_silence(silence)
        groups = []
        for key, (due_at, state) in snapshot.groups.items():
            route = routes.get(state["route"], configuration.route)
            latest = now + max(route.group_wait, route.group_interval)  # the other clock may have been ahead
            group = Group.of(key, route, min(due_at, latest), state)
            groups.append(group)
            if group_key(group.route, group.labels) == key:
                engine._add(engine._slot(group.route, group.labels), group)
        for each in snapshot.alerts:
            try:
                engine._restore_alert(each, now)
            except Exception as error:
                raise InternalError(error, {each.alert.fingerprint: each.alert.alert_id}) from error
        engine.drain()
        for group in groups:
            engine._hand_over(group, now)
        for known in [known for known in engine._known.values() if not known.firing]:
            engine._forget_if_done(known)  # it ended while quarantined, or its receiver is gone
        engine._changed.update(key for key in snapshot.groups if key not in engine._groups)
        return engine

    # Alerts

    def _take(self, given: Alert, now: datetime) -> None:
        known = self._known.get(given.fingerprint)
        if known is not None and not known.firing and self._changes.is_quiet(given.fingerprint, now):
            self._forget_changes(known)
            known = self._known.get(given.fingerprint)
        if known is None:
            known = self._track(given)
        else:
            before, known.alert = known.alert, merged(known.alert, given, now)
            if before.alert_id != given.alert_id:
                known.episodes += ((now, before.alert_id),)
        if not known.alert.resolved(now):
            if not known.firing:
                self._restart(known, now)
            self._add_to_groups(known, now)
        elif known.firing:
            self._end(known, now)
        if known.firing:
            self._inhibitions.update(known.alert, firing=True)
        else:
            self._forget_if_done(known)

    def _track(self, alert: Alert) -> TrackedAlert:
        routes = routes_of(self.configuration.route, alert.labels)
        known = TrackedAlert(alert, tuple([self._slot(route, route.grouping(alert.labels)) for route in routes]))
        self._known[alert.fingerprint] = known
        return known

    def _restore_alert(self, kept: TrackedAlert, now: datetime) -> None:
        fingerprint = kept.alert.fingerprint
        known = self._track(kept.alert)
        known.firing, known.acknowledged_by, known.episodes = kept.firing, kept.acknowledged_by, kept.episodes
        if kept.changes:
            self._changes[fingerprint] = kept.changes
        for slot in known.slots:
            group = slot.group
            if group is not None and (known.firing or fingerprint in group.notified or fingerprint in group.lingering):
                group.members[fingerprint] = None
        if known.firing and any(slot.group is None for slot in known.slots):
            self._add_to_groups(known, now)
        self._inhibitions.update(known.alert, firing=known.firing)

    def _add_to_groups(self, known: TrackedAlert, now: datetime) -> None:
        for slot in known.slots:
            group = slot.group
            if group is None:
                group = Group.beginning(slot.key, slot.route, slot.grouping, known.alert, now)
                self._add(slot, group)
            elif group.add(known.alert, now):
                self._reschedule(group)
                self._changed.add(group.key)

    def _restart(self, known: TrackedAlert, now: datetime) -> None:
        known.firing, known.acknowledged_by, name = True, "", known.alert.fingerprint
        self._known[name] = self._known.pop(name)  # keeps the order of their starts
        self._record_change(known, now)
        for slot in known.slots:
            group = slot.group
            if group is not None and name in group.notified:
                group.notified[name] = now  # restarts the wait for its escalation
                group.schedule_escalation(now)
                self._reschedule(group)
                self._changed.add(group.key)

    def _end(self, known: TrackedAlert, now: datetime) -> None:
        """Process its end. Receivers that were not notified of the alert are not notified of its end either."""
        alert, known.firing = known.alert, False
        assert alert.ends_at is not None
        self._inhibitions.update(alert, firing=False)
        self._record_change(known, alert.ends_at)
        if self._changes.is_flapping(alert.fingerprint):
            self._add_to_groups(known, now)
            for slot in known.slots:
                if slot.group is not None and alert.fingerprint not in slot.group.notified:
                    slot.group.lingering.add(alert.fingerprint)
                    self._changed.add(slot.group.key)
            return
        for slot in known.slots:
            group = slot.group
            if group is None or alert.fingerprint not in group.notified:
                self._held.append(
                    Suppression(alert, slot.route.receiver, StageDecision(NotifyReason.NEVER_NOTIFIED), now)
                )
                if group is not None:
                    group.remove(alert.fingerprint)
                    self._changed.add(group.key)

    def _record_change(self, known: TrackedAlert, at: datetime) -> None:
        """Record a change for flap damping, and close earlier episodes that no longer count."""
        changes = self._changes.record(known.alert.fingerprint, at)
        while known.episodes and (not changes or known.episodes[0][0] < changes[0]):
            self._closed.append(known.episodes[0][1])
            known.episodes = known.episodes[1:]

    def _forget_changes(self, known: TrackedAlert) -> None:
        """Forget the changes of an alert that has been quiet, unless a group has yet to report its end."""
        if known.firing or not known.is_in_a_group:
            self._changes.pop(known.alert.fingerprint, None)
            self._closed += [name for _, name in known.episodes]
            known.episodes = ()
            self._forget_if_done(known)

    def _forget_if_done(self, known: TrackedAlert) -> None:
        fingerprint = known.alert.fingerprint
        if known.firing or fingerprint in self._changes or known.is_in_a_group:
            return
        self._closed += [*(name for _, name in known.episodes), known.alert.alert_id]
        self._inhibitions.forget(fingerprint)
        del self._known[fingerprint]

    # Groups

    def _slot(self, route: Route, grouping: Grouping) -> GroupSlot:
        slot = self._slots.get((route.key, grouping))
        if slot is None:
            slot = self._slots[route.key, grouping] = GroupSlot(route, grouping)
        return slot

    def _hand_over(self, group: Group, now: datetime) -> None:
        """Hand the reported alerts that are in other groups now over to those with the same receiver."""
        for name in [name for name in group.notified if name not in group.members]:
            if (known := self._known.get(name)) is not None:
                heirs = [slot for slot in known.slots if slot.route.receiver == group.receiver]
                for heir in heirs:
                    if heir.group is None:
                        self._add(heir, Group.beginning(heir.key, heir.route, heir.grouping, known.alert, now))
                    assert heir.group is not None
                    heir.group.inherit_from(name, group, now)
                    self._reschedule(heir.group)
                    self._changed.add(heir.group.key)
                if not heirs:
                    self._held.append(
                        Suppression(known.alert, group.receiver, StageDecision(NotifyReason.NOT_ROUTED), now)
                    )
            group.remove(name)

    def _add(self, slot: GroupSlot, group: Group) -> None:
        slot.group, group.slot = group, slot
        group.receiver = slot.route.receiver
        self._groups[group.key] = group
        self._changed.add(group.key)
        self._reschedule(group)

    def _reschedule(self, group: Group) -> None:
        heapq.heappush(self._due, (group.next_at, group.key))

    def _context(self, route: Route, now: datetime) -> stages.GroupContext:
        interval = stages.by_intervals(route, now, self.configuration.time_intervals)
        return stages.GroupContext(
            self._inhibitions, self._silences.values(), interval, self._changes, self.configuration.flapping
        )

    def _flush(self, group: Group, now: datetime) -> list[Notice]:
        known = [self._known[name] for name in group.members]
        ending = [each for each in known if each.firing and each.alert.resolved(now)]
        for each in ending:
            self._end(each, now)
        flush = Flush(group, now, self._known, self._context(group.route, now), self.configuration.receivers)
        regular = group.due_at <= now
        if regular:
            flush.regular()
        flush.escalation()
        idle = not any(self._known[name].firing for name in group.members)
        if flush.changed or group.idle != idle:
            self._changed.add(group.key)
        group.idle = idle
        if regular:
            group.due_at = now + group.route.group_interval
            self._moved.add(group.key)
        if group.members:
            self._reschedule(group)
        else:
            group.slot.group = None
            del self._groups[group.key]
            self._changed.add(group.key)
        self._held += flush.held
        for name in {alert.fingerprint: None for alert in (*flush.done, *(each.alert for each in ending))}:
            self._forget_if_done(self._known[name])
        return flush.notices

    def _sweep(self, now: datetime) -> None:
        """Forget what has expired. No notice depends on when this happens."""
        if self._sweep_at is not None and now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_INTERVAL
        self._silences = {name: each for name, each in self._silences.items() if each.ends_at > now}
        for fingerprint in list(self._changes):
            if not self._changes.is_quiet(fingerprint, now):
                break  # the others changed later
            self._forget_changes(self._known[fingerprint])

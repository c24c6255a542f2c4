"""The pipeline: alerts go in, and at the moments that `due` names, notices come out.

    engine.take(alerts, now)            from sources: what fires, what is over
    engine.put_silence(silence)         engine.end_silence(silence_id)          engine.acknowledge(fingerprint, by)
    engine.due()                        the next moment at which a notice may be due
    engine.advance(now) -> notices      the notices of `now`
    engine.drain() -> Changes           what a store has to keep of all this, in one transaction with the notices
    engine.snapshot(), Engine.restored(configuration, snapshot, now)

Pure and deterministic: the same calls with the same moments give the same notices; one that is restored goes on as if
it had never stopped. Not thread-safe: one owner at a time. Moments may not go backwards.

Groups are flushed when they are due, in order of time and key. The notices of one moment come in the order in which
what they report began, so that a start comes before its end. What holds an alert back then is recorded with its
reason, once. A receiver is notified of what is new, and of the end of all that it was notified of, also if that came
while the alert was suppressed: then as soon as it no longer is.

If something raises, `take`, `advance` and `restored` raise InternalError, which names the alerts; the engine may be
inconsistent then, and must be discarded.
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
from o9.alerts.pipeline.groups import Flush, Group, Held, Known, Place
from o9.alerts.pipeline.routing import Grouping, Route, group_key, routes_of
from o9.alerts.pipeline.stages import CountedChanges, Inhibitions, Silence, StageDecision

_SWEPT_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since the last time."""

    groups: Mapping[str, tuple[datetime, dict[str, Any]] | None]
    """By key: when it is flushed next, and its state; None where it is gone."""
    due: Mapping[str, datetime]
    """By key, when the others are flushed next, where that has changed."""
    held: tuple[Held, ...]
    closed: tuple[str, ...]
    """The ids of alerts that need no more messages: a restored engine need not know them."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.due or self.held or self.closed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything an engine knows beside its configuration."""

    alerts: tuple[Known, ...]
    silences: tuple[Silence, ...]
    groups: Mapping[str, tuple[datetime, dict[str, Any]]]
    """By key: when it is flushed next, and its state."""


class InternalError(Exception):
    """What was raised over these alerts, ids by fingerprint; `group`: over all of it, by its key."""

    def __init__(self, error: Exception, alerts: Mapping[str, str], group: str = "") -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.alerts = alerts
        self.group = group


class Engine:
    """See the module."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._known: dict[str, Known] = {}
        self._inhibitions = Inhibitions(configuration.inhibit_rules)
        self._silences: dict[str, Silence] = {}
        self._changes = CountedChanges(configuration.flapping)
        self._sweep_at: datetime | None = None
        self._places: WeakValueDictionary[tuple[str, Grouping], Place] = WeakValueDictionary()
        self._groups: dict[str, Group] = {}
        self._due: list[tuple[datetime, str]] = []
        self._changed: set[str] = set()
        self._moved: set[str] = set()
        self._held: list[Held] = []
        self._closed: list[str] = []

    def take(self, alerts: Iterable[Alert], now: datetime) -> None:
        """Alerts from sources. One that repeats its alerts gives them an `expected_end`."""
        for given in alerts:
            try:
                self._take(given, now)
            except Exception as error:
                raise InternalError(error, {given.fingerprint: given.alert_id}) from error

    def put_silence(self, silence: Silence) -> None:
        """Adds it, or replaces the one of its id; `silences.checked` says what is acceptable."""
        self._silences[silence.silence_id] = silence

    def end_silence(self, silence_id: str) -> None:
        self._silences.pop(silence_id, None)

    def acknowledge(self, fingerprint: str, by: str) -> None:
        """Of the episode that fires now: it is neither repeated nor escalated any more."""
        known = self._known.get(fingerprint)
        if known is not None and known.firing:
            known.acknowledged_by = by

    def due(self) -> datetime | None:
        while self._due:
            at, key = self._due[0]
            group = self._groups.get(key)
            if group is not None and group.next_at == at:
                return at
            heapq.heappop(self._due)
        return None

    def advance(self, now: datetime) -> list[Notice]:
        """The notices of `now`: flushes every group that is due, once.

        It also forgets what has passed; to be called every minute or so, then, where nothing is due.
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
        """What has changed since the last time."""
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
            tuple(replace(each, places=(), changes=self._changes.get(name, ())) for name, each in self._known.items()),
            tuple(self._silences.values()),
            {key: (group.due_at, group.state()) for key, group in self._groups.items()},
        )

    @classmethod
    def restored(cls, configuration: Configuration, snapshot: Snapshot, now: datetime) -> Engine:
        """As it was. If the configuration has changed since, the groups of its alerts take over what a receiver was
        notified of.
        """
        engine = cls(configuration)
        routes = {route.key: route for route in configuration.route.walk()}
        for silence in snapshot.silences:
            engine.put_silence(silence)
        groups = []
        for key, (due_at, state) in snapshot.groups.items():
            route = routes.get(state["route"], configuration.route)
            latest = now + max(route.group_wait, route.group_interval)  # it may come from a clock that is ahead
            group = Group.of(key, route, min(due_at, latest), state)
            groups.append(group)
            if group_key(group.route, group.labels) == key:
                engine._add(engine._place(group.route, group.labels), group)
        for each in snapshot.alerts:
            try:
                engine._remember(each, now)
            except Exception as error:
                raise InternalError(error, {each.alert.fingerprint: each.alert.alert_id}) from error
        engine.drain()
        for group in groups:
            engine._hand_over(group, now)
        for known in [known for known in engine._known.values() if not known.firing]:
            engine._forget_if_done(known)  # it ended while it was quarantined, or its receiver is gone
        engine._changed.update(key for key in snapshot.groups if key not in engine._groups)
        return engine

    # What becomes of one alert.

    def _take(self, given: Alert, now: datetime) -> None:
        known = self._known.get(given.fingerprint)
        if known is not None and not known.firing and self._changes.is_quiet(given.fingerprint, now):
            self._calm(known)
            known = self._known.get(given.fingerprint)
        if known is None:
            known = self._meet(given)
        else:
            before, known.alert = known.alert, merged(known.alert, given, now)
            if before.alert_id != given.alert_id:
                known.episodes += ((now, before.alert_id),)
        if not known.alert.resolved(now):
            if not known.firing:
                self._begins_anew(known, now)
            self._into_groups(known, now)
        elif known.firing:
            self._ends(known, now)
        if known.firing:
            self._inhibitions.put(known.alert, firing=True)
        else:
            self._forget_if_done(known)

    def _meet(self, alert: Alert) -> Known:
        routes = routes_of(self.configuration.route, alert.labels)
        known = Known(alert, tuple([self._place(route, route.grouping(alert.labels)) for route in routes]))
        self._known[alert.fingerprint] = known
        return known

    def _remember(self, kept: Known, now: datetime) -> None:
        fingerprint = kept.alert.fingerprint
        known = self._meet(kept.alert)
        known.firing, known.acknowledged_by, known.episodes = kept.firing, kept.acknowledged_by, kept.episodes
        if kept.changes:
            self._changes[fingerprint] = kept.changes
        for place in known.places:
            group = place.group
            if group is not None and (known.firing or fingerprint in group.notified or fingerprint in group.lingering):
                group.members[fingerprint] = None
        if known.firing and any(place.group is None for place in known.places):
            self._into_groups(known, now)
        self._inhibitions.put(known.alert, firing=known.firing)

    def _into_groups(self, known: Known, now: datetime) -> None:
        for place in known.places:
            group = place.group
            if group is None:
                group = Group.beginning(place.key, place.route, place.grouping, known.alert, now)
                self._add(place, group)
            elif group.take_in(known.alert, now):
                self._reschedule(group)
                self._changed.add(group.key)

    def _begins_anew(self, known: Known, now: datetime) -> None:
        known.firing, known.acknowledged_by, name = True, "", known.alert.fingerprint
        self._known[name] = self._known.pop(name)  # in the order of their beginning
        self._counts(known, now)
        for place in known.places:
            group = place.group
            if group is not None and name in group.notified:
                group.notified[name] = now  # its escalation waits anew
                group.plan_escalation(now)
                self._reschedule(group)
                self._changed.add(group.key)

    def _ends(self, known: Known, now: datetime) -> None:
        """Its end is noticed: receivers that were not notified of it need not be."""
        alert, known.firing = known.alert, False
        assert alert.ends_at is not None
        self._inhibitions.put(alert, firing=False)
        self._counts(known, alert.ends_at)
        if self._changes.flaps(alert.fingerprint):
            self._into_groups(known, now)
            for place in known.places:
                if place.group is not None and alert.fingerprint not in place.group.notified:
                    place.group.lingering.add(alert.fingerprint)
                    self._changed.add(place.group.key)
            return
        for place in known.places:
            group = place.group
            if group is None or alert.fingerprint not in group.notified:
                self._held.append(Held(alert, place.route.receiver, StageDecision(NotifyReason.NEVER_NOTIFIED), now))
                if group is not None:
                    group.take_out(alert.fingerprint)
                    self._changed.add(group.key)

    def _counts(self, known: Known, at: datetime) -> None:
        """A change of it, for flap damping."""
        changes = self._changes.count(known.alert.fingerprint, at)
        while known.episodes and (not changes or known.episodes[0][0] < changes[0]):
            self._closed.append(known.episodes[0][1])
            known.episodes = known.episodes[1:]

    def _calm(self, known: Known) -> None:
        """It has been quiet: earlier changes count no more, once no group waits to report its end."""
        if known.firing or not known.is_in_a_group:
            self._changes.pop(known.alert.fingerprint, None)
            self._closed += [name for _, name in known.episodes]
            known.episodes = ()
            self._forget_if_done(known)

    def _forget_if_done(self, known: Known) -> None:
        fingerprint = known.alert.fingerprint
        if known.firing or fingerprint in self._changes or known.is_in_a_group:
            return
        self._closed += [*(name for _, name in known.episodes), known.alert.alert_id]
        self._inhibitions.forget(fingerprint)
        del self._known[fingerprint]

    # What becomes of one group.

    def _place(self, route: Route, grouping: Grouping) -> Place:
        place = self._places.get((route.key, grouping))
        if place is None:
            place = self._places[route.key, grouping] = Place(route, grouping)
        return place

    def _hand_over(self, group: Group, now: datetime) -> None:
        """What it reported of alerts that are in other groups now, where the same receiver is notified."""
        for name in [name for name in group.notified if name not in group.members]:
            if (known := self._known.get(name)) is not None:
                heirs = [place for place in known.places if place.route.receiver == group.receiver]
                for heir in heirs:
                    if heir.group is None:
                        self._add(heir, Group.beginning(heir.key, heir.route, heir.grouping, known.alert, now))
                    assert heir.group is not None
                    heir.group.inherits(name, group, now)
                    self._reschedule(heir.group)
                    self._changed.add(heir.group.key)
                if not heirs:
                    self._held.append(Held(known.alert, group.receiver, StageDecision(NotifyReason.NOT_ROUTED), now))
            group.take_out(name)

    def _add(self, place: Place, group: Group) -> None:
        place.group, group.place = group, place
        group.receiver = place.route.receiver
        self._groups[group.key] = group
        self._changed.add(group.key)
        self._reschedule(group)

    def _reschedule(self, group: Group) -> None:
        heapq.heappush(self._due, (group.next_at, group.key))

    def _facts(self, route: Route, now: datetime) -> stages.GroupContext:
        interval = stages.by_intervals(route, now, self.configuration.time_intervals)
        return stages.GroupContext(
            self._inhibitions, self._silences.values(), interval, self._changes, self.configuration.flapping
        )

    def _flush(self, group: Group, now: datetime) -> list[Notice]:
        known = [self._known[name] for name in group.members]
        ending = [each for each in known if each.firing and each.alert.resolved(now)]
        for each in ending:
            self._ends(each, now)
        flush = Flush(group, now, self._known, self._facts(group.route, now), self.configuration.receivers)
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
            group.place.group = None
            del self._groups[group.key]
            self._changed.add(group.key)
        self._held += flush.held
        for name in {alert.fingerprint: None for alert in (*flush.done, *(each.alert for each in ending))}:
            self._forget_if_done(self._known[name])
        return flush.notices

    def _sweep(self, now: datetime) -> None:
        """Forgets what has passed; no notice depends on when."""
        if self._sweep_at is not None and now < self._sweep_at:
            return
        self._sweep_at = now + _SWEPT_EVERY
        self._silences = {name: each for name, each in self._silences.items() if each.ends_at > now}
        for fingerprint in list(self._changes):
            if not self._changes.is_quiet(fingerprint, now):
                break  # they are in the order of their last change
            self._calm(self._known[fingerprint])

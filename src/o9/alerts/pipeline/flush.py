"""Flushing one group when it is due: the notices for its receivers, and the alerts that are held back with the reason.

`o9.alerts.pipeline.stages` decides; here the decisions are carried out: notices are made, and the group records what
its receiver was notified of. Nothing else is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from o9.alerts.config.schema import Receiver
from o9.alerts.pipeline import stages
from o9.alerts.pipeline.alert import Alert, in_order
from o9.alerts.pipeline.groups import Group, Held, Known
from o9.alerts.pipeline.notice import Notice, NoticeKind
from o9.alerts.pipeline.reasons import NotifyReason
from o9.alerts.pipeline.stages import GOES_ON, Reported, StageDecision
from o9.text.format import duration

_KINDS = {
    NotifyReason.FIRST: NoticeKind.FIRING,
    NotifyReason.NEW_ALERTS: NoticeKind.FIRING,
    NotifyReason.SOME_RESOLVED: NoticeKind.FIRING,
    NotifyReason.ALL_RESOLVED: NoticeKind.RESOLVED,
    NotifyReason.REPEATED: NoticeKind.REPEAT,
}


class Flush:
    """At `group`, at `now`. Afterwards `notices`, `held` and `done` say what came of it."""

    def __init__(
        self,
        group: Group,
        now: datetime,
        alerts: Mapping[str, Known],
        facts: stages.GroupContext,
        receivers: Mapping[str, Receiver],
    ) -> None:
        self.notices: list[Notice] = []
        self.held: list[Held] = []
        self.done: list[Alert] = []
        """Resolved alerts of which the receiver needs no more messages."""
        self.changed = False
        """Whether the group's state has."""
        self._group = group
        self._now = now
        self._alerts = alerts
        self._facts = facts
        self._receivers = receivers

    def regular(self) -> None:
        """The notice for the group's receiver, each `group_interval`."""
        firing, ended, flapping = self._sorted()
        over = [alert for alert in ended if not alert.expired]
        if self._receivers[self._group.route.receiver].channels:
            self._notify(firing, over)
            self._notify_flapping(flapping)
        else:
            for alert in firing:
                self._hold(alert, StageDecision(NotifyReason.NO_CHANNEL))
        self._notify_escalated(over)
        for alert in ended:
            if alert.expired:
                self._hold(alert, StageDecision(NotifyReason.EXPIRED))
            self._group.take_out(alert.fingerprint)
            self.changed = True
        self.done += ended

    def escalation(self) -> None:
        """What was reported so long ago that it is escalated."""
        group, now, after = self._group, self._now, self._group.route.escalate_after
        if after is None:
            return
        late = [
            self._alerts[name]
            for name, at in group.notified.items()
            if name not in group.escalated and at + after <= now
        ]
        alerts = [
            known.alert
            for known in late
            if known.firing and not known.acknowledged_by and self._decided(known.alert) is GOES_ON
        ]
        if alerts:
            reason = f"{NotifyReason.NOT_ACKNOWLEDGED.text} for {duration(after)}"
            self._notice(NoticeKind.ESCALATION, alerts, [], reason, group.route.escalate_to)
            group.escalated.update(alert.fingerprint for alert in alerts)
        before = group.escalate_at
        group.plan_escalation(now)
        self.changed |= before != group.escalate_at

    def _sorted(self) -> tuple[list[Alert], list[Alert], list[tuple[Alert, StageDecision]]]:
        """The alerts that nothing holds back, those of them that are over, and those that flap."""
        group = self._group
        firing: list[Alert] = []
        over: list[Alert] = []
        flapping: list[tuple[Alert, StageDecision]] = []
        for name in group.members:
            known = self._alerts[name]
            decision = self._decided(known.alert)
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

    def _decided(self, alert: Alert) -> StageDecision:
        return stages.suppressed(alert, self._now, self._facts)

    def _notify(self, firing: list[Alert], over: list[Alert]) -> None:
        group, now = self._group, self._now
        receiver = self._receivers[group.route.receiver]
        known_over = [alert for alert in over if alert.fingerprint in group.notified]
        acknowledged = all(self._alerts[alert.fingerprint].acknowledged_by for alert in firing)
        given = Reported(group.firing, group.at, group.route.repeat_interval, receiver.send_resolved, acknowledged)
        decision = stages.worth_notifying((firing, known_over), now, given)
        kind = _KINDS.get(decision.reason)
        if not receiver.send_resolved:
            for alert in known_over:
                self._hold(alert, StageDecision(NotifyReason.RESOLVED_NOT_SENT))
        if decision.reason is NotifyReason.ACKNOWLEDGED:
            for alert in firing:
                by = self._alerts[alert.fingerprint].acknowledged_by
                self._hold(alert, StageDecision(NotifyReason.ACKNOWLEDGED, by))
        if kind is None:
            return
        new = firing if kind is NoticeKind.FIRING else []
        new = [alert for alert in new if group.is_news(alert.fingerprint)]
        self._notice(kind, firing, known_over if receiver.send_resolved else [], decision.reason.text, new=new)
        group.at = now
        group.firing = {alert.fingerprint for alert in firing}
        for alert in firing:
            group.notified.setdefault(alert.fingerprint, now)
        group.plan_escalation(now)

    def _notify_flapping(self, flapping: list[tuple[Alert, StageDecision]]) -> None:
        """Once, and again if it goes on for `repeat_interval` without being acknowledged."""
        group, now, again = self._group, self._now, self._group.route.repeat_interval
        news = []
        for alert, decision in flapping:
            notified_at = group.flapping.get(alert.fingerprint)
            if notified_at is None or (
                now >= notified_at + again and not self._alerts[alert.fingerprint].acknowledged_by
            ):
                news.append((alert, decision.by))
        if not news:
            return
        reason = f"{NotifyReason.FLAPS.text}: {news[0][1]}" + (f", and {len(news) - 1} more" if len(news) > 1 else "")
        firing = [alert for alert, _ in news if self._alerts[alert.fingerprint].firing]
        over = [alert for alert, _ in news if not self._alerts[alert.fingerprint].firing]
        self._notice(NoticeKind.FLAPPING, firing, over, reason, new=firing)
        for alert, _ in news:
            group.flapping[alert.fingerprint] = now
            group.notified.setdefault(alert.fingerprint, now)
            group.firing.discard(alert.fingerprint)

    def _notify_escalated(self, over: list[Alert]) -> None:
        group = self._group
        alerts = [alert for alert in over if alert.fingerprint in group.escalated]
        if alerts and self._receivers[group.route.escalate_to].send_resolved:
            self._notice(NoticeKind.RESOLVED, [], alerts, NotifyReason.ALL_RESOLVED.text, group.route.escalate_to)

    def _notice(
        self,
        kind: NoticeKind,
        firing: list[Alert],
        over: list[Alert],
        reason: str,
        receiver: str = "",
        new: Sequence[Alert] = (),
    ) -> None:
        group, names = self._group, {alert.fingerprint for alert in new}
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
                at=self._now,
                firing=(*in_order(new), *in_order(known)),
                resolved=in_order(over),
                reason=reason,
                known=len(known),
            )
        )

    def _hold(self, alert: Alert, decision: StageDecision) -> None:
        """Notes it, unless the same was noted before."""
        group, what = self._group, (decision.reason, decision.by)
        before = group.held.get(alert.fingerprint)
        if before == what or (before and before[0] is decision.reason is NotifyReason.FLAPPING):
            return
        group.held[alert.fingerprint] = what
        self.held.append(Held(alert, group.route.receiver, decision, self._now))
        self.changed = True


_NOT_HELD = (NotifyReason.GOES_ON, "")
_STAY = (NotifyReason.ACKNOWLEDGED, NotifyReason.NO_CHANNEL, NotifyReason.GOES_ON)

"""The decisions between an alert and a message, each with a named reason. Pure.

    suppressed          whether anyone may be notified of an alert now
    worth_notifying     whether a group has news for its receiver

`o9.alerts.pipeline.engine` supplies the arguments and carries out the decisions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

import re2
from pydantic import Field, Strict

from o9.alerts.config.fields import LONGEST, Span
from o9.alerts.pipeline.alert import Alert, Labels, NotifyReason
from o9.alerts.pipeline.matchers import Matchers, format_matchers, match, regular_expression, why_unsatisfiable
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.time_intervals import TimeIntervals
from o9.model.errors import OptimizationValidationError
from o9.model.faults import Typed
from o9.text.format import duration

CHANGES_KEPT = 1000
PATTERN_LIMIT = 1000
COMMENT_LIMIT = 10_000


# Inhibition: while one alert fires, others are suppressed.


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """Mutes alerts that match `target` while an alert that matches `source` fires and has the same values in the labels
    `equal`; a missing label equals a missing one. An alert that matches both is muted only by one that does not, so
    none mutes itself and no two each other. The semantics are Alertmanager's.
    """

    source: Matchers
    target: Matchers
    equal: tuple[str, ...] = ()
    name: str = ""

    def values(self, labels: Labels) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)


class Inhibitions:
    """The firing alerts that may mute others, by rule and values. The rules of an alert are determined once."""

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = tuple(rules)
        # By rule, values, and whether the alert is also a target of the rule; then by fingerprint.
        self._firing: dict[tuple[int, tuple[str, ...], bool], dict[str, Alert]] = {}
        self._rule_numbers: dict[str, RuleNumbers] = {}
        self._shared: dict[RuleNumbers, RuleNumbers] = {}  # equal values are stored once

    def update(self, alert: Alert, *, firing: bool) -> None:
        sources, targets = self._rules_of(alert)
        for number in sources:
            key = number, self._rules[number].values(alert.labels), number in targets
            known = self._firing.setdefault(key, {})
            if firing:
                known[alert.fingerprint] = alert
            else:
                known.pop(alert.fingerprint, None)
            if not known:
                del self._firing[key]

    def inhibitor_of(self, alert: Alert, now: datetime) -> Alert | None:
        """Return an alert that mutes this one at `now`."""
        sources, targets = self._rules_of(alert)
        for number in targets:
            values = self._rules[number].values(alert.labels)
            for is_target in (False,) if number in sources else (False, True):
                for source in self._firing.get((number, values, is_target), {}).values():
                    if not source.resolved(now):
                        return source
        return None

    def forget(self, fingerprint: str) -> None:
        """Drop what is known of an alert that does not fire."""
        self._rule_numbers.pop(fingerprint, None)

    def _rules_of(self, alert: Alert) -> RuleNumbers:
        if not self._rules:
            return _NONE
        found = self._rule_numbers.get(alert.fingerprint)
        if found is None:
            sources = tuple(number for number, rule in enumerate(self._rules) if match(rule.source, alert.labels))
            targets = tuple(number for number, rule in enumerate(self._rules) if match(rule.target, alert.labels))
            found = self._shared.setdefault((sources, targets), (sources, targets))
            self._rule_numbers[alert.fingerprint] = found
        return found


RuleNumbers = tuple[tuple[int, ...], tuple[int, ...]]
"""The rules for which an alert is a source, and those for which it is a target."""
_NONE: RuleNumbers = ((), ())


# Silences


@dataclass(frozen=True, slots=True)
class Silence:
    """Mutes alerts from a start to an end; `validated_silence` checks it.

    It has either matchers or a pattern. A pattern without wildcards matches an alert that contains it in its title or
    message, in any case, or whose optimization id equals it. With `*` (any text) or `?` (one character) it must match
    all of one of the three.
    """

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    matchers: Matchers = ()
    pattern: str = ""
    author: str = ""
    comment: str = ""
    matches: Callable[[Alert], bool] = field(init=False, repr=False, compare=False)
    """Whether it mutes this alert while it is active."""

    def __post_init__(self) -> None:
        matches = _matches_pattern(self.pattern) if self.pattern else lambda alert: match(self.matchers, alert.labels)
        object.__setattr__(self, "matches", matches)

    def __str__(self) -> str:
        return f"{self.pattern!r}" if self.pattern else format_matchers(self.matchers)

    def is_active(self, now: datetime) -> bool:
        return self.starts_at <= now < self.ends_at


def new_silence(
    now: datetime,
    lasts: timedelta,
    matchers: Matchers = (),
    *,
    pattern: str = "",
    starts_at: datetime | None = None,
    author: str = "",
    comment: str = "",
) -> Silence:
    """Return a silence with a new, short id. Raises as `validated_silence` does."""
    begins = now if starts_at is None else starts_at
    try:
        ends_at = begins + lasts
    except OverflowError:
        raise OptimizationValidationError(
            "starts_at", f"{begins} plus {lasts} is later than the last possible date"
        ) from None
    return validated_silence(Silence(uuid.uuid4().hex[:12], begins, ends_at, matchers, pattern, author, comment), now)


def validated_silence(silence: Silence, now: datetime) -> Silence:
    """Return the silence. Raises OptimizationValidationError if it mutes nothing, everything or never."""
    if not silence.matchers and not silence.pattern.strip():
        raise OptimizationValidationError("matchers", "there are no matchers and no pattern; write what to silence")
    if silence.matchers and silence.pattern:
        raise OptimizationValidationError("pattern", "give either matchers or a pattern")
    if silence.matchers and match(silence.matchers, {}):
        raise OptimizationValidationError(
            "matchers",
            f"{format_matchers(silence.matchers)} matches every alert; name a label that an alert must have",
        )
    if (why := why_unsatisfiable(silence.matchers)) is not None:
        raise OptimizationValidationError("matchers", why)
    for name, limit in (("pattern", PATTERN_LIMIT), ("author", PATTERN_LIMIT), ("comment", COMMENT_LIMIT)):
        if len(getattr(silence, name)) > limit:
            raise OptimizationValidationError(name, f"at most {limit:,} characters are allowed")
    if silence.ends_at <= silence.starts_at:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is not after the start, {silence.starts_at}")
    if silence.ends_at <= now:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is in the past; give a time in the future")
    if silence.ends_at - max(silence.starts_at, now) > LONGEST:
        raise OptimizationValidationError(
            "ends_at", f"at most {LONGEST.days:,} days are allowed; change the rule instead"
        )
    return silence


def active_silence(silences: Iterable[Silence], alert: Alert, now: datetime) -> Silence | None:
    """Return the active silence that matches the alert; of several the one that ends last."""
    active = (each for each in silences if each.is_active(now) and each.matches(alert))
    return max(active, key=lambda each: (each.ends_at, each.silence_id), default=None)


def _matches_pattern(pattern: str) -> Callable[[Alert], bool]:
    if not any(wildcard in pattern for wildcard in "*?"):
        wanted = pattern.casefold()
        return lambda alert: (
            wanted in alert.title.casefold() or wanted in alert.message.casefold() or pattern == alert.optimization_id
        )
    parts = {"*": ".*", "?": "."}
    translated = "".join(parts.get(character) or re2.escape(character) for character in pattern)
    is_id, is_text = regular_expression(translated), regular_expression(f"(?i:{translated})")
    return lambda alert: is_text(alert.title) or is_text(alert.message) or is_id(alert.optimization_id)


# Flap damping


class Damping(Typed):
    """When an alert counts as flapping: it is reported once as such, and then not until it is quiet.

    An alert changes at each end and at each start but the first. It flaps from its `changes`-th change within `within`
    until it has not changed for `quiet`.
    """

    changes: Annotated[int, Strict(), Field(ge=2, le=1_000)] = 6
    within: Span = timedelta(minutes=15)
    quiet: Span = timedelta(minutes=15)


def is_flapping(changes: Sequence[datetime], now: datetime, damping: Damping) -> bool:
    """Return whether an alert with these changes, oldest first, flaps at `now`."""
    if len(changes) < damping.changes or now - changes[-1] >= damping.quiet:
        return False
    return changes[-1] - changes[-damping.changes] <= damping.within


def recent_changes(changes: Sequence[datetime], now: datetime, damping: Damping) -> tuple[datetime, ...]:
    """Return the changes that still count at `now`; none if it has been quiet."""
    if not changes or now - changes[-1] >= damping.quiet:
        return ()
    since = changes[-1] - damping.within
    return tuple(change for change in changes[-CHANGES_KEPT:] if change >= since)


class ChangeHistory(dict[str, tuple[datetime, ...]]):
    """The changes of each alert that count, by fingerprint, in the order of their last change."""

    def __init__(self, damping: Damping | None) -> None:
        super().__init__()
        self._damping = damping

    def record(self, name: str, at: datetime) -> tuple[datetime, ...]:
        """Record a change at `at`, or at the time of the last one if that is later. Returns all that count."""
        if self._damping is None:
            return ()
        before = self.pop(name, ())
        at = max((at, *before[-1:]))
        self[name] = (*recent_changes(before, at, self._damping), at)
        return self[name]

    def is_flapping(self, name: str) -> bool:
        """Return whether it flaps as of its last change."""
        changes = self.get(name)
        return self._damping is not None and changes is not None and is_flapping(changes, changes[-1], self._damping)

    def is_quiet(self, name: str, now: datetime) -> bool:
        """Return whether none of its changes counts any more."""
        changes = self.get(name)
        return self._damping is not None and changes is not None and now - changes[-1] >= self._damping.quiet


def changes_of(episodes: Iterable[Alert], now: datetime) -> tuple[datetime, ...]:
    """Return the changes of an alert from its stored episodes."""
    moments: list[datetime] = []
    for episode in sorted(episodes, key=lambda each: each.starts_at):
        if moments:
            moments.append(max(episode.starts_at, moments[-1]))
        if episode.ends_at is not None and episode.ends_at <= now:
            moments.append(max(episode.ends_at, episode.starts_at))
    return tuple(moments)


# The decisions


@dataclass(frozen=True, slots=True)
class StageDecision:
    """A reason, and what it refers to (`by`): a silence's id, the inhibiting alert, an interval."""

    reason: NotifyReason
    by: str = ""


GOES_ON = StageDecision(NotifyReason.GOES_ON)


@dataclass(frozen=True, slots=True)
class GroupContext:
    """What decisions about a group's alerts depend on, beside the alerts and the time."""

    inhibitions: Inhibitions
    silences: Collection[Silence]
    interval: StageDecision
    """The decision of `by_intervals`."""
    changes: Mapping[str, Sequence[datetime]]
    """By fingerprint."""
    damping: Damping | None


def suppressed(alert: Alert, now: datetime, known: GroupContext) -> StageDecision:
    """Return what suppresses the alert now, or GOES_ON."""
    if (source := known.inhibitions.inhibitor_of(alert, now)) is not None:
        return StageDecision(NotifyReason.INHIBITED, source.title or source.fingerprint)
    if (silence := active_silence(known.silences, alert, now)) is not None:
        return StageDecision(NotifyReason.SILENCED, silence.silence_id)
    if known.interval is not GOES_ON:
        return known.interval
    changes = known.changes.get(alert.fingerprint)
    if known.damping is None or not changes or not is_flapping(changes, now, known.damping):
        return GOES_ON
    recent = recent_changes(changes, now, known.damping)
    return StageDecision(NotifyReason.FLAPPING, f"{len(recent)} changes in {duration(recent[-1] - recent[0])}")


def by_intervals(route: Route, now: datetime, intervals: TimeIntervals) -> StageDecision:
    """Return whether the route's time intervals mute it. An interval that may or may not hold mutes nothing."""
    for name in route.mute_time_intervals:
        if any(each.holds(now) for each in intervals[name]):
            return StageDecision(NotifyReason.MUTED, name)
    active = [each.holds(now) for name in route.active_time_intervals for each in intervals[name]]
    if active and not any(holds is not False for holds in active):
        return StageDecision(NotifyReason.NOT_ACTIVE, ", ".join(route.active_time_intervals))
    return GOES_ON


def worth_notifying(
    firing: Sequence[Alert],
    over: Sequence[Alert],
    now: datetime,
    *,
    reported: Collection[str],
    at: datetime | None,
    repeat_interval: timedelta,
    send_resolved: bool,
    acknowledged: bool,
) -> StageDecision:
    """Return whether and why to notify a receiver of a group's firing alerts, and of those that are over.

    reported: the fingerprints that the last message, at `at`, reported as firing. acknowledged: whether all firing
    alerts are.
    """
    if any(alert.fingerprint not in reported for alert in firing):
        return StageDecision(NotifyReason.NEW_ALERTS if reported else NotifyReason.FIRST)
    if over and send_resolved:
        return StageDecision(NotifyReason.SOME_RESOLVED if firing else NotifyReason.ALL_RESOLVED)
    if not firing or at is None or now < at + repeat_interval:
        return StageDecision(NotifyReason.NOTHING_NEW)
    if acknowledged:
        return StageDecision(NotifyReason.ACKNOWLEDGED)
    return StageDecision(NotifyReason.REPEATED, duration(repeat_interval))


class Throttle(Typed):
    """At most `messages` per `every`, for each channel."""

    messages: Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
    every: Span

"""The stages between an alert and a message, each a decision with a named reason.

    suppressed          of one alert: may anyone be notified of it now?
    worth_notifying     of a group: does the receiver know that already?

Every stage is a function (what it is about, now, what is known) → Decision. It does nothing, and the same arguments
always give the same answer; `o9.alerts.pipeline.engine` gathers what is known and does what is decided. Pure.
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
from o9.alerts.pipeline.matchers import Matchers, match, regular_expression, unfit, written
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
    """It mutes an alert that fits `target` while one that fits `source` fires and has the same values in the labels
    `equal` (both without one are equal, too). An alert that fits both sides is muted only by one that does not: so none
    mutes itself, and no two each other. The semantics are Alertmanager's.
    """

    source: Matchers
    target: Matchers
    equal: tuple[str, ...] = ()
    name: str = ""

    def values(self, labels: Labels) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)


class Inhibitions:
    """The alerts that may mute others, by rule and values. Which rules concern an alert is looked up once."""

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = tuple(rules)
        # By rule, values and whether they are targets too; then by fingerprint.
        self._firing: dict[tuple[int, tuple[str, ...], bool], dict[str, Alert]] = {}
        self._concerning: dict[str, Concerning] = {}
        self._shared: dict[Concerning, Concerning] = {}

    def put(self, alert: Alert, *, firing: bool) -> None:
        """An alert that fires, or does no more."""
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

    def muting(self, alert: Alert, now: datetime) -> Alert | None:
        """An alert that mutes this one at `now`."""
        sources, targets = self._rules_of(alert)
        for number in targets:
            values = self._rules[number].values(alert.labels)
            for is_target in (False,) if number in sources else (False, True):
                for source in self._firing.get((number, values, is_target), {}).values():
                    if not source.resolved(now):
                        return source
        return None

    def forget(self, fingerprint: str) -> None:
        """An alert that does not fire."""
        self._concerning.pop(fingerprint, None)

    def _rules_of(self, alert: Alert) -> Concerning:
        if not self._rules:
            return _NONE
        found = self._concerning.get(alert.fingerprint)
        if found is None:
            sources = tuple(number for number, rule in enumerate(self._rules) if match(rule.source, alert.labels))
            targets = tuple(number for number, rule in enumerate(self._rules) if match(rule.target, alert.labels))
            found = self._shared.setdefault((sources, targets), (sources, targets))
            self._concerning[alert.fingerprint] = found
        return found


Concerning = tuple[tuple[int, ...], tuple[int, ...]]
"""The rules of which an alert is a source, and those of which it is a target."""
_NONE: Concerning = ((), ())


# Silences


@dataclass(frozen=True, slots=True)
class Silence:
    """A person's mute, from a start to an end, with who and why; `checked` says what is acceptable.

    It has either matchers or a pattern. A pattern without wildcards mutes what has it somewhere in the title or the
    message, in whatever case, or has exactly this optimization id (`opt-1` is not `opt-10`). With `*` (anything) or `?`
    (one character) it has to fit the whole of one of the three.
    """

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    matchers: Matchers = ()
    pattern: str = ""
    author: str = ""
    comment: str = ""
    fits: Callable[[Alert], bool] = field(init=False, repr=False, compare=False)
    """Whether it mutes this alert while it stands."""

    def __post_init__(self) -> None:
        fits = _fits_pattern(self.pattern) if self.pattern else lambda alert: match(self.matchers, alert.labels)
        object.__setattr__(self, "fits", fits)

    def __str__(self) -> str:
        return f"{self.pattern!r}" if self.pattern else written(self.matchers)

    def stands(self, now: datetime) -> bool:
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
    """One with a new id, short enough to be typed. Raises as `checked` does."""
    begins = now if starts_at is None else starts_at
    try:
        ends_at = begins + lasts
    except OverflowError:
        raise OptimizationValidationError("starts_at", f"{lasts} from {begins} on is behind the end of time") from None
    return checked(Silence(uuid.uuid4().hex[:12], begins, ends_at, matchers, pattern, author, comment), now)


def checked(silence: Silence, now: datetime) -> Silence:
    """The silence. Raises OptimizationValidationError for one that mutes nothing, everything or never."""
    if not silence.matchers and not silence.pattern.strip():
        raise OptimizationValidationError("matchers", "there are no matchers and no pattern; say what shall be silent")
    if silence.matchers and silence.pattern:
        raise OptimizationValidationError("pattern", "give either matchers or a pattern")
    if silence.matchers and match(silence.matchers, {}):
        raise OptimizationValidationError(
            "matchers",
            f"{written(silence.matchers)} fits every alert, even without labels; name a label that an alert must have",
        )
    if (why := unfit(silence.matchers)) is not None:
        raise OptimizationValidationError("matchers", why)
    for name, limit in (("pattern", PATTERN_LIMIT), ("author", PATTERN_LIMIT), ("comment", COMMENT_LIMIT)):
        if len(getattr(silence, name)) > limit:
            raise OptimizationValidationError(name, f"at most {limit:,} characters are allowed")
    if silence.ends_at <= silence.starts_at:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is not after the start, {silence.starts_at}")
    if silence.ends_at <= now:
        raise OptimizationValidationError("ends_at", f"{silence.ends_at} is over already; give a moment in the future")
    if silence.ends_at - max(silence.starts_at, now) > LONGEST:
        raise OptimizationValidationError(
            "ends_at", f"at most {LONGEST.days:,} days are allowed; change the rule instead"
        )
    return silence


def muting(silences: Iterable[Silence], alert: Alert, now: datetime) -> Silence | None:
    """Of those that stand and fit, the one that stands longest."""
    fitting = (each for each in silences if each.stands(now) and each.fits(alert))
    return max(fitting, key=lambda each: (each.ends_at, each.silence_id), default=None)


def _fits_pattern(pattern: str) -> Callable[[Alert], bool]:
    if not any(wildcard in pattern for wildcard in "*?"):
        wanted = pattern.casefold()
        return lambda alert: (
            wanted in alert.title.casefold() or wanted in alert.message.casefold() or pattern == alert.optimization_id
        )
    parts = {"*": ".*", "?": "."}
    translated = "".join(parts.get(character) or re2.escape(character) for character in pattern)
    ids, words = regular_expression(translated), regular_expression(f"(?i:{translated})")
    return lambda alert: words(alert.title) or words(alert.message) or ids(alert.optimization_id)


# Flap damping


class Damping(Typed):
    """An alert that changes too often is reported once as flapping, and then not until it is quiet.

    It changes at each end, and at each start but the first. It flaps from the moment of its `changes`-th change within
    `within` until it has not changed for `quiet`.
    """

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


# The decisions


@dataclass(frozen=True, slots=True)
class StageDecision:
    """`by` names what decided: a silence's id, the inhibiting alert, an interval."""

    reason: NotifyReason
    by: str = ""


GOES_ON = StageDecision(NotifyReason.GOES_ON)


@dataclass(frozen=True, slots=True)
class GroupContext:
    """What the decisions on the alerts of one group rest on, beside them and the time."""

    inhibitions: Inhibitions
    silences: Collection[Silence]
    interval: StageDecision
    """What the route's time intervals say now: `by_intervals`."""
    changes: Mapping[str, Sequence[datetime]]
    """By fingerprint: when an alert changed."""
    damping: Damping | None


def suppressed(alert: Alert, now: datetime, known: GroupContext) -> StageDecision:
    """Whether anyone may be notified of it now: the first of these that holds it back."""
    if (source := known.inhibitions.muting(alert, now)) is not None:
        return StageDecision(NotifyReason.INHIBITED, source.title or source.fingerprint)
    if (silence := muting(known.silences, alert, now)) is not None:
        return StageDecision(NotifyReason.SILENCED, silence.silence_id)
    if known.interval is not GOES_ON:
        return known.interval
    changes = known.changes.get(alert.fingerprint)
    if known.damping is None or not changes or not flaps(changes, now, known.damping):
        return GOES_ON
    recent = kept(changes, now, known.damping)
    return StageDecision(NotifyReason.FLAPPING, f"{len(recent)} changes in {duration(recent[-1] - recent[0])}")


def by_intervals(route: Route, now: datetime, intervals: TimeIntervals) -> StageDecision:
    """Whether the route is muted. An interval of which it is unknown whether it holds mutes nothing."""
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
    """Of the alerts of a group that fire, and of those that the receiver knows of and that are over.

    reported: the fingerprints that the last message, at `at`, reported as firing. acknowledged: whether each that fires
    is.
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
    """At most `messages` in any span of `every`, for each channel."""

    messages: Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
    every: Span

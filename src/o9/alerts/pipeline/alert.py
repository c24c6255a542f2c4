"""Alerts and notices, the input and output of the pipeline, and the codes of reasons. Pure; times are in UTC.

An alert is identified by its labels: its fingerprint is their hash, and two alerts with equal labels are one. It fires
from `starts_at` until `ends_at`, or until it is resolved. The reasons why alerts are sent, suppressed or resolved are
codes, which programs compare and the store holds; each has a text for people. An unknown code is its own text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field

from o9.alerts.config.fields import PlainName
from o9.model.errors import OptimizationValidationError
from o9.model.faults import validated
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store.alerts.episodes import EndedBy
from o9.store.core.column_types import free_text

LABELS_LIMIT = 64
VALUE_LIMIT = 10_000
LEVELS = tuple(level.value for level in AlertLevel)

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """An episode of an alert: `alert_id` identifies the episode, `fingerprint` the alert."""

    labels: Labels
    starts_at: datetime
    alert_id: str
    optimization_id: str
    level: AlertLevel
    title: str
    message: str = ""
    ends_at: datetime | None = None
    expected_end: bool = False
    """Whether its source is expected to repeat it before `ends_at` (`resolve_timeout`)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    expired: bool = False
    """Whether it ended only because of its age."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint_of(self.labels))

    def resolved(self, now: datetime) -> bool:
        return self.ends_at is not None and self.ends_at <= now


class NoticeKind(str, Enum):
    """What a notice reports about its group."""

    FIRING = "firing"
    """New alerts fire, or some of those that the receiver knows are resolved."""
    REPEAT = "repeat"
    """The same alerts still fire after `repeat_interval`."""
    RESOLVED = "resolved"
    """All alerts that the receiver knows are resolved."""
    FLAPPING = "flapping"
    """An alert changes too often; no other message is sent about it until it is quiet."""
    ESCALATION = "escalation"
    """Alerts were not acknowledged in time; the receiver is the one that the route escalates to."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to every channel of `receiver`, sent after all earlier ones of its group.

    `(group_key, number)` identifies it, so that a repeated write is recognized; the numbers of a group increase even
    after it ends and begins anew. `firing` and `resolved` have the worst alerts first, then the oldest; in `firing`
    those that are new to the receiver precede the others.
    """

    receiver: str
    group_key: str
    number: int
    group_labels: Labels
    kind: NoticeKind
    at: datetime
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    reason: str
    """Why it is sent, for people, in one short sentence."""
    known: int = 0
    """The number of alerts at the end of `firing` that the receiver was notified of before."""
    may_be_double: bool = False
    """Whether an earlier try may have arrived; the reason says so, too."""

    @property
    def new(self) -> tuple[Alert, ...]:
        """The firing alerts that are new to the receiver."""
        return self.firing[: len(self.firing) - self.known]

    @property
    def news_first(self) -> tuple[Alert, ...]:
        """All alerts: new, resolved, then known ones."""
        new = self.new
        return (*new, *self.resolved, *self.firing[len(new) :])


def fingerprint_of(labels: Labels) -> str:
    """Return the hash of labels in any order."""
    return digest(part for label in sorted(labels.items()) for part in label)


def digest(parts: Iterable[str]) -> str:
    """Return a 64-bit hash of texts. The separator cannot occur in a label."""
    return hashlib.blake2b("\udc00".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _known_level(labels: dict[str, str]) -> dict[str, str]:
    if (level := labels.get("level", LEVELS[0])) not in LEVELS:
        raise OptimizationValidationError("level", f"no level is called {level!r:.80}; available: {', '.join(LEVELS)}")
    return labels


class _Metadata(BaseModel):
    """The metadata of an alert that O9 itself reads."""

    labels: Annotated[
        dict[PlainName, Annotated[str, Field(max_length=VALUE_LIMIT)]],
        Field(max_length=LABELS_LIMIT),
        AfterValidator(_known_level),
    ] = Field(default_factory=dict)
    evidence: dict[str, Any] | None = None
    remedy: str | None = None
    link: str | None = None


def labels_of(given: OptimizationAlert) -> dict[str, str]:
    """Return the labels of an alert: `title`, `level`, `optimization`, `rule` (``metadata["rule"]``), and those in
    ``metadata["labels"]``, a flat mapping of text, which may override the former.

    Empty labels are omitted, and characters that databases cannot hold are replaced. Raises OptimizationValidationError
    for metadata that messages could not show.
    """
    labels = {"title": given.title, "level": given.level._value_, "optimization": given.optimization_id}
    if given.metadata:
        labels["rule"] = str(given.metadata.get("rule", ""))
        labels |= validated(_Metadata, given.metadata, field="metadata").labels
    return {name: free_text(value)[:VALUE_LIMIT] for name, value in labels.items() if value}


def optimization_alert_of(alert: Alert, now: datetime) -> OptimizationAlert:
    """Return the alert in its public form, as of `now`."""
    resolved = alert.resolved(now)
    return OptimizationAlert(
        alert_id=alert.alert_id,
        optimization_id=alert.optimization_id,
        level=alert.level,
        title=alert.title,
        message=alert.message,
        timestamp=alert.starts_at,
        resolved=resolved,
        resolved_at=alert.ends_at if resolved else None,
        metadata=dict(alert.metadata),
    )


def merged(known: Alert, given: Alert, now: datetime) -> Alert:
    """Merge an alert with a newer report of the same labels.

    If the two do not overlap, `given` is a new episode. If they do, the earliest start counts, and the later end, if
    both are over, or if neither is and the known end was given rather than expected.
    """
    end = known.ends_at
    if end is None or given.ends_at is None or end <= given.starts_at:
        later = False
    elif given.resolved(now):
        later = known.resolved(now) and end > given.ends_at
    else:
        later = end > given.ends_at and not known.expected_end
    apart = end is not None and end <= given.starts_at
    starts_at = given.starts_at if apart else min(known.starts_at, given.starts_at)
    if later:
        return replace(given, starts_at=starts_at, ends_at=end, expected_end=known.expected_end)
    return given if starts_at == given.starts_at else replace(given, starts_at=starts_at)


def worst_first(alerts: Iterable[Alert]) -> tuple[Alert, ...]:
    """Return the alerts in the order for people: the worst first, then the oldest."""
    return tuple(sorted(alerts, key=lambda alert: (-_SEVERITY[alert.level], alert.starts_at, alert.fingerprint)))


_SEVERITY = {level: rank for rank, level in enumerate(AlertLevel)}


_RULE = "o9:rule:"  # with the rule's name and a RuleReason, in `resolved_by`


class _Coded(str, Enum):
    """A code with a text for people."""

    text: str

    def __new__(cls, code: str, text: str = "") -> Self:
        made = str.__new__(cls, code)
        made._value_ = code
        made.text = text
        return made


class NotifyReason(_Coded):
    """Why a receiver is notified, or not."""

    GOES_ON = "goes_on", "goes on"
    # An alert is suppressed.
    INHIBITED = "inhibited", "inhibited"
    SILENCED = "silenced", "silenced"
    MUTED = "muted", "muted by a time interval"
    NOT_ACTIVE = "not_active", "outside active time intervals"
    FLAPPING = "flapping", "flapping"
    QUARANTINED = "quarantined", "quarantined after an internal error"
    DROPPED = "dropped_by_rule", "dropped by a rule"
    # An alert needs no message.
    NEVER_NOTIFIED = "never_notified", "resolved before anyone was notified"
    RESOLVED_NOT_SENT = "resolved_not_sent", "the receiver takes no resolved messages"
    EXPIRED = "expired", "expired without being resolved"
    NO_CHANNEL = "no_channel", "the receiver has no channel"
    NOT_ROUTED = "not_routed", "the configuration no longer routes it to this receiver"
    # A group.
    NOTHING_NEW = "nothing_new", "already notified"
    ACKNOWLEDGED = "acknowledged", "acknowledged: no repeats"
    FIRST = "first", "first message of the group"
    NEW_ALERTS = "new_alerts", "new alerts in the group"
    SOME_RESOLVED = "some_resolved", "some are resolved"
    ALL_RESOLVED = "all_resolved", "resolved"
    REPEATED = "repeated", "still firing (repeat_interval)"
    FLAPS = "flaps", "flaps"
    NOT_ACKNOWLEDGED = "not_acknowledged", "not acknowledged"


class RuleReason(_Coded):
    """Why a rule's state for a subject changes, or not."""

    QUIET = "quiet", "its condition does not hold"
    BEGINS = "begins", "its condition holds, and must last"
    LASTS = "lasts", "its condition has not held long enough yet"
    TOO_SHORT = "too_short", "its condition did not hold long enough"
    FIRES = "fires", "its condition has held long enough"
    GOES_ON = "goes_on", "its condition still holds"
    BETWEEN = "between", "its condition does not hold, and it is not clear yet"
    UNKNOWN = "unknown", "it is not known whether its condition holds"
    LINGERS = "lingers", "it is clear and keeps firing for a while"
    CLEAR = "clear", "it is clear"
    EXPIRED = "expired", NotifyReason.EXPIRED.text
    GONE = "gone", "its subject is gone"
    NO_RULE = "no_rule", "the rule was removed"
    FIXED = "fixed", "it was fixed"


_ENDED_BY: dict[str, str] = {
    EndedBy.NOT_REPEATED: "not repeated by its source",
    EndedBy.END_REACHED: "its end was reached",
    EndedBy.SOURCE: "by its source",
}


def ended_by_rule(rule: str, why: RuleReason) -> str:
    """Return the `resolved_by` of an alert that a rule ended."""
    return f"{_RULE}{rule}:{why.value}"


def is_expired(resolved_by: str | None) -> bool:
    """Return whether an alert ended only because of its age, which does not mean that its problem is solved."""
    given = resolved_by or ""
    return given.startswith(_RULE) and given.endswith(f":{RuleReason.EXPIRED.value}")


def ended_by_text(resolved_by: str) -> str:
    """Return a text such as `by ann` or `by the rule failed: it is clear`."""
    if resolved_by.startswith(_RULE):
        rule, _, why = resolved_by.removeprefix(_RULE).rpartition(":")
        return f"by the rule {rule}: {_text_of(RuleReason, why)}"
    return _ENDED_BY.get(resolved_by, f"by {resolved_by}")


def reason_text(code: str) -> str:
    return _text_of(NotifyReason, code)


def _text_of(codes: type[_Coded], code: str) -> str:
    try:
        return codes(code).text
    except ValueError:
        return code

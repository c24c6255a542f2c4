"""Alerts, and notices about them: what goes into the pipeline, and what comes out.

An alert has labels that say which one it is: its fingerprint is their hash, and two with equal labels are one. It fires
from `starts_at` until `ends_at`; without an end it fires until it is resolved. Pure; moments are aware and in UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from o9.alerts.config.fields import PlainName
from o9.model.errors import OptimizationValidationError
from o9.model.faults import validated
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store.core.column_types import free_text

LABELS_LIMIT = 64
VALUE_LIMIT = 10_000
LEVELS = tuple(level.value for level in AlertLevel)

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """`alert_id` names this episode, `fingerprint` the alert over all its episodes."""

    labels: Labels
    starts_at: datetime
    alert_id: str
    optimization_id: str
    level: AlertLevel
    title: str
    message: str = ""
    ends_at: datetime | None = None
    expected_end: bool = False
    """`ends_at` is when it is resolved unless its source repeats it (`resolve_timeout`)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    expired: bool = False
    """It ended only because time passed."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint_of(self.labels))

    def resolved(self, now: datetime) -> bool:
        return self.ends_at is not None and self.ends_at <= now


class NoticeKind(str, Enum):
    """What a notice says of its group."""

    FIRING = "firing"
    """Something fires that the receiver was not notified of, or some of what it was notified of is resolved."""
    REPEAT = "repeat"
    """Nothing new: it still fires after `repeat_interval`."""
    RESOLVED = "resolved"
    """Nothing that the receiver was notified of fires any more."""
    FLAPPING = "flapping"
    """An alert changes too often; until it is quiet no other message is sent about it."""
    ESCALATION = "escalation"
    """It was not acknowledged in time; the receiver is the one that the route escalates to."""


@dataclass(frozen=True, slots=True)
class Notice:
    """To be sent to every channel of `receiver`, after all earlier ones of the same group.

    `(group_key, number)` is its name: numbers of one group only grow, also where it ends and begins anew, so that a
    notice which is written twice is seen to be the same. `firing` and `resolved` hold the alerts, the worst first, then
    the oldest; in `firing` those first that are new to the receiver.
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
    """Why it is sent, for people: one short sentence."""
    known: int = 0
    """How many at the end of `firing` its receiver was notified of before."""
    may_be_double: bool = False
    """Whether it is sent again, and it is unknown whether it arrived before; the reason says so."""

    @property
    def new(self) -> tuple[Alert, ...]:
        """What begins to fire for its receiver."""
        return self.firing[: len(self.firing) - self.known]

    @property
    def news_first(self) -> tuple[Alert, ...]:
        """All of it: what is new, what is over, then what was known."""
        new = self.new
        return (*new, *self.resolved, *self.firing[len(new) :])


def fingerprint_of(labels: Labels) -> str:
    """Equal for equal labels, whatever their order."""
    return digest(part for label in sorted(labels.items()) for part in label)


def digest(parts: Iterable[str]) -> str:
    """Equal for equal parts, of 64 bits as Alertmanager's. What stands between them no label can have."""
    return hashlib.blake2b("\udc00".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _known_level(labels: dict[str, str]) -> dict[str, str]:
    if (level := labels.get("level", LEVELS[0])) not in LEVELS:
        raise OptimizationValidationError("level", f"no level is called {level!r:.80}; there are {', '.join(LEVELS)}")
    return labels


class _Metadata(BaseModel):
    """What O9 itself reads of an alert's metadata."""

    labels: Annotated[
        dict[PlainName, Annotated[str, Field(max_length=VALUE_LIMIT)]],
        Field(max_length=LABELS_LIMIT),
        AfterValidator(_known_level),
    ] = Field(default_factory=dict)
    evidence: dict[str, Any] | None = None
    remedy: str | None = None
    link: str | None = None


def labels_of(given: OptimizationAlert) -> dict[str, str]:
    """`title`, `level`, `optimization` (where it has one) and `rule` (``metadata["rule"]``), and on top of these
    ``metadata["labels"]``: a flat mapping of text, which may also replace one of them.

    A label whose value is empty counts as absent; what no database can hold is replaced. Raises
    OptimizationValidationError for metadata that messages could not show.
    """
    labels = {"title": given.title, "level": given.level._value_, "optimization": given.optimization_id}
    if given.metadata:
        labels["rule"] = str(given.metadata.get("rule", ""))
        labels |= validated(_Metadata, given.metadata, field="metadata").labels
    return {name: free_text(value)[:VALUE_LIMIT] for name, value in labels.items() if value}


def optimization_alert_of(alert: Alert, now: datetime) -> OptimizationAlert:
    """What users hold, as it is at `now`."""
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
    """What is known after `given`, an alert with the same labels.

    Where the two do not overlap, `given` is a new episode. Where they do, the earliest start counts, and the latest
    end: of two that are over, and of two that are not where the known one was given and not only expected.
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


def in_order(alerts: Iterable[Alert]) -> tuple[Alert, ...]:
    """As people read them: the worst first, then the oldest."""
    return tuple(sorted(alerts, key=lambda alert: (-_SEVERITY[alert.level], alert.starts_at, alert.fingerprint)))


_SEVERITY = {level: rank for rank, level in enumerate(AlertLevel)}

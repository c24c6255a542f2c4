"""Why alerts are sent, held back or over: codes, which programs compare and stores hold, each with its text for people.

Pure. What a store or a document holds and this release does not know stands as it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Self

from o9.store.alerts.episodes import EndedBy

_RULE = "o9:rule:"  # with the rule's name and a RuleReason, in `resolved_by`


class _Coded(str, Enum):
    """A code, and its text."""

    text: str

    def __new__(cls, code: str, text: str = "") -> Self:
        made = str.__new__(cls, code)
        made._value_ = code
        made.text = text
        return made


class NotifyReason(_Coded):
    """Why a receiver is notified, is notified later, or is not notified."""

    GOES_ON = "goes_on", "goes on"
    # Of one alert: it is suppressed.
    INHIBITED = "inhibited", "inhibited"
    SILENCED = "silenced", "silenced"
    MUTED = "muted", "muted by a time interval"
    NOT_ACTIVE = "not_active", "outside active time intervals"
    FLAPPING = "flapping", "flapping"
    QUARANTINED = "quarantined", "quarantined after an internal error"
    DROPPED = "dropped_by_rule", "dropped by a rule"
    # Of one alert: it needs no message any more.
    NEVER_NOTIFIED = "never_notified", "resolved before anyone was notified"
    RESOLVED_NOT_SENT = "resolved_not_sent", "the receiver takes no resolved messages"
    EXPIRED = "expired", "expired without being resolved"
    NO_CHANNEL = "no_channel", "the receiver has no channel"
    NOT_ROUTED = "not_routed", "the configuration no longer routes it to this receiver"
    # Of a group.
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
    """Why a rule does what it does with a subject."""

    QUIET = "quiet", "its condition does not hold"
    BEGINS = "begins", "its condition holds, and has to last"
    LASTS = "lasts", "its condition has not lasted long enough yet"
    TOO_SHORT = "too_short", "its condition did not last long enough"
    FIRES = "fires", "its condition has lasted long enough"
    GOES_ON = "goes_on", "its condition still holds"
    BETWEEN = "between", "its condition does not hold, and it is not clear yet"
    UNKNOWN = "unknown", "it is not known whether its condition holds"
    LINGERS = "lingers", "it is clear, and keeps firing for a while"
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
    """What `resolved_by` holds where a rule ended an alert."""
    return f"{_RULE}{rule}:{why.value}"


def is_expired(resolved_by: str | None) -> bool:
    """Whether an alert ended only because time passed: nothing says that its problem is solved."""
    given = resolved_by or ""
    return given.startswith(_RULE) and given.endswith(f":{RuleReason.EXPIRED.value}")


def ended_by_text(resolved_by: str) -> str:
    """`by ann`; `by the rule failed: it is clear`."""
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

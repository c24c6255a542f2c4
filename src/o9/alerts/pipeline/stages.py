"""The stages between an alert and a message, each a decision with a named reason.

    suppressed                                   of one alert: may anyone be notified of it now?
    worth_notifying                              of a group: does the receiver know that already?
    tried_again                                  of a message that failed: later, or no more?

Every stage is a function (what it is about, now, what is known) → Decision. It does nothing, and the same arguments
always give the same answer; `o9.alerts.pipeline.engine` gathers what is known and does what is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field, Strict

from o9.alerts.config.fields import Span
from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.flapping import Damping, flaps, kept
from o9.alerts.pipeline.inhibition import Inhibitions
from o9.alerts.pipeline.reasons import NotifyReason
from o9.alerts.pipeline.routing import Route
from o9.alerts.pipeline.silences import Silences
from o9.alerts.pipeline.time_intervals import TimeIntervals, holding, none_holds
from o9.config import Typed
from o9.text.format import duration


@dataclass(frozen=True, slots=True)
class StageDecision:
    """`by` names what decided (a silence's id, the inhibiting alert, …); `until` is set where time will decide anew."""

    reason: NotifyReason
    by: str = ""
    until: datetime | None = None


GOES_ON = StageDecision(NotifyReason.GOES_ON)


@dataclass(frozen=True, slots=True)
class GroupContext:
    """What the decisions on the alerts of one group rest on, beside them and the time."""

    inhibitions: Inhibitions
    silences: Silences
    interval: StageDecision
    """What the route's time intervals say now: `by_intervals`."""
    changes: Mapping[str, Sequence[datetime]]
    """By fingerprint: when an alert changed."""
    damping: Damping | None


def suppressed(alert: Alert, now: datetime, known: GroupContext) -> StageDecision:
    """Whether anyone may be notified of it now: the first of these that holds it back."""
    if (source := known.inhibitions.muting(alert, now)) is not None:
        return StageDecision(NotifyReason.INHIBITED, source.title or source.fingerprint)
    if (silence := known.silences.muting(alert, now)) is not None:
        return StageDecision(NotifyReason.SILENCED, silence.silence_id, silence.ends_at)
    if known.interval is not GOES_ON:
        return known.interval
    changes = known.changes.get(alert.fingerprint)
    if known.damping is None or not changes or not flaps(changes, now, known.damping):
        return GOES_ON
    recent = kept(changes, now, known.damping)
    words = f"{len(recent)} changes in {duration(recent[-1] - recent[0])}"
    return StageDecision(NotifyReason.FLAPPING, words, recent[-1] + known.damping.quiet)


def by_intervals(route: Route, now: datetime, intervals: TimeIntervals) -> StageDecision:
    """Whether the route is muted. An interval of which it is unknown whether it holds mutes nothing."""
    if route.mute_time_intervals and (by := holding(intervals, route.mute_time_intervals, now)):
        return StageDecision(NotifyReason.MUTED, by)
    if route.active_time_intervals and none_holds(intervals, route.active_time_intervals, now):
        return StageDecision(NotifyReason.NOT_ACTIVE, ", ".join(route.active_time_intervals))
    return GOES_ON


@dataclass(frozen=True, slots=True)
class Reported:
    """What a group's receiver was notified of, from the notification log."""

    firing: frozenset[str] | set[str]
    """The fingerprints that the last message reported as firing."""
    at: datetime | None
    """When that was."""
    repeat_interval: timedelta
    send_resolved: bool
    all_acknowledged: bool
    """Whether each firing alert of the group is acknowledged."""


def worth_notifying(group: tuple[Sequence[Alert], Sequence[Alert]], now: datetime, given: Reported) -> StageDecision:
    """Of the alerts of a group that fire, and of those that the receiver knows of and that are over."""
    firing, over = group
    if any(alert.fingerprint not in given.firing for alert in firing):
        return StageDecision(NotifyReason.NEW_ALERTS if given.firing else NotifyReason.FIRST)
    if over and given.send_resolved:
        return StageDecision(NotifyReason.SOME_RESOLVED if firing else NotifyReason.ALL_RESOLVED)
    if not firing or given.at is None or now < given.at + given.repeat_interval:
        return StageDecision(NotifyReason.NOTHING_NEW)
    if given.all_acknowledged:
        return StageDecision(NotifyReason.ACKNOWLEDGED)
    return StageDecision(NotifyReason.REPEATED, duration(given.repeat_interval))


class Throttle(Typed):
    """At most `messages` in any span of `every`, for each channel."""

    messages: Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
    every: Span


FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
TRIED_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Failure:
    """How the last try went. `chance` is a random number from 0 to 1, by which the pauses of many spread out."""

    tries: int
    permanent: bool
    retry_after: timedelta | None
    chance: float


def tried_again(created_at: datetime, now: datetime, known: Failure) -> StageDecision:
    """Of a message that failed: when it is tried again. Pauses double up to the longest, less up to half by chance.

    What the service asks for (`Retry-After`) is kept to. The last try is a day after the message was due at the latest.
    """
    end = created_at + TRIED_FOR
    if known.permanent:
        return StageDecision(NotifyReason.GIVEN_UP, "the channel refused it for good")
    if now >= end:
        return StageDecision(NotifyReason.GIVEN_UP, f"it was tried for {duration(TRIED_FOR)}")
    pause = min(FIRST_PAUSE * 2 ** min(known.tries - 1, 30), LONGEST_PAUSE) * (1 - known.chance / 2)
    by = ""
    if known.retry_after is not None and known.retry_after > pause:
        pause, by = min(known.retry_after, TRIED_FOR), "Retry-After"
    return StageDecision(NotifyReason.TRIED_AGAIN, by, min(now + pause, end))

"""What the engine decided to send to a receiver: one `Notice` for each message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from o9.alerts.pipeline.alert import Alert, Labels


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

"""The tables of alerts: episodes, silences, notifications, suppressions, channels, leases and the state of rules."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text, UniqueConstraint
from sqlmodel import Field

from o9.store.core.base import SERIAL, Record, partial_index, table_of, unbounded_texts

# Conditions of partial indexes. Statements must repeat them verbatim.
FIRING = "is_first = 1 AND resolved_at IS NULL"
ENDING = f"{FIRING} AND ends_at IS NOT NULL"
OPEN = "is_open = 1"
PENDING = "status = 'pending'"
ACTIVE = "ended_at IS NULL"


class AlertRow(Record, table=True):
    """One row for each id under which an alert was received.

    Alerts with equal labels that overlap in time form an episode, whose id is that of its first alert. That row has the
    episode's state in the columns from `is_first` on, which are unused in the others. `latest` is the alert whose texts
    are shown. `began` and `changed` are the changes in the feed with which the episode was first and last written. With
    `expected_end`, the end is a timeout, which a repetition extends. An episode is open until the leader closes it.
    """

    __tablename__ = "alert"
    __table_args__ = (
        Index("ix_alert_newest", "at", "alert_id"),
        Index("ix_alert_optimization", "optimization_id", "at", "alert_id"),
        Index("ix_alert_level", "level", "at", "alert_id"),
        partial_index("ix_alert_firing", "fingerprint", where=FIRING, unique=True),
        partial_index("ix_alert_ending", "ends_at", where=ENDING),
        partial_index("ix_alert_open", "changed", "alert_id", where=OPEN),
    )

    alert_id: str = Field(primary_key=True)
    episode: str
    fingerprint: str
    optimization_id: str
    level: str
    title: str
    message: str
    metadata_json: str = Field("{}", sa_column=Column("metadata", Text, nullable=False))
    at: str
    notified_at: str
    is_first: int = 0
    labels: str = "{}"
    starts_at: str | None = None
    ends_at: str | None = None
    expected_end: int = 0
    latest: str | None = None
    last_notified_at: str | None = None
    notifications: int = 0
    resolved_at: str | None = None
    resolved_by: str | None = None
    acknowledged_at: str | None = None
    acknowledged_by: str | None = None
    began: int = Field(0, sa_column=Column(SERIAL, nullable=False))
    changed: int = Field(0, sa_column=Column(SERIAL, nullable=False))
    is_open: int = 0


class SilenceRow(Record, table=True):
    """A silence, by `matchers` (as text) or by a `pattern`.

    `changed` is the change in the feed with which it was added or ended.
    """

    __tablename__ = "silence"
    __table_args__ = (
        partial_index("ix_silence_active", "ends_at", where=ACTIVE),
        Index("ix_silence_changed", "changed"),
    )

    silence_id: str = Field(primary_key=True)
    matchers: str = ""
    pattern: str = ""
    starts_at: str
    ends_at: str
    author: str = ""
    comment: str = ""
    created_at: str
    ended_at: str | None = None
    ended_by: str | None = None
    changed: int = Field(sa_column=Column(SERIAL, nullable=False))


class AlertCounter(Record, table=True):
    """The lifetime count of an event `what` by level, channel or reason (`name`), including what is pruned."""

    __tablename__ = "alert_counter"

    what: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    count: int = 0


class AlertGroup(Record, table=True):
    """The alert engine's state of a group (JSON), written together with the notices that follow from it."""

    __tablename__ = "alert_group"

    group_key: str = Field(primary_key=True)
    due_at: str
    state: str


class NoticeRow(Record, table=True):
    """A message to a receiver, with the ids of its episodes; once it is sent, only the first of these are kept.

    In `firing`, an empty id separates episodes that are new to the receiver from those that it knew before.
    """

    __tablename__ = "notice"
    __table_args__ = (Index("ix_notice_at", "at"),)

    group_key: str = Field(primary_key=True)
    number: int = Field(sa_column=Column(SERIAL, primary_key=True, autoincrement=False))
    receiver: str
    kind: str
    reason: str
    at: str
    labels: str
    firing: str
    resolved: str
    firing_count: int
    resolved_count: int


class Notification(Record, table=True):
    """The outbox, and the log of what was sent: one row for each notice and channel.

    `due_at` and `claim_expires_at` are in seconds of the database's clock; `tries` counts rows of NotificationTry.
    """

    __tablename__ = "notification"
    __table_args__ = (
        UniqueConstraint("group_key", "number", "channel", name="uq_notification"),
        partial_index("ix_notification_due", "channel", "due_at", "id", where=PENDING),
        partial_index("ix_notification_order", "channel", "group_key", "id", where=PENDING),
    )

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    group_key: str
    number: int = Field(sa_column=Column(SERIAL, nullable=False))
    channel: str
    status: str = "pending"
    created_at: str
    due_at: float
    tries: int = 0
    claimed_by: str | None = None
    claim_expires_at: float | None = None
    ended_at: str | None = None
    error: str | None = None


class NotificationTry(Record, table=True):
    """A try to send a notification, written before it begins. Until it has an outcome, it may or may not be sent."""

    __tablename__ = "notification_try"
    __table_args__ = (Index("ix_notification_try_channel", "channel", "started_at"),)

    notification_id: int = Field(sa_column=Column(SERIAL, primary_key=True, autoincrement=False))
    number: int = Field(primary_key=True)
    channel: str
    node: str
    started_at: str
    ended_at: str | None = None
    outcome: str | None = None
    error: str | None = None


class AlertDecision(Record, table=True):
    """Append-only: why a receiver was not notified of an alert, with a row for each change of the reason."""

    __tablename__ = "alert_decision"
    __table_args__ = (Index("ix_alert_decision_alert", "alert_id", "id"),)

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    alert_id: str
    receiver: str
    reason: str
    by: str
    at: str


class ChannelRow(Record, table=True):
    """A channel's condition: until when it pauses (seconds of the database's clock), and since when it fails."""

    __tablename__ = "alert_channel"

    channel: str = Field(primary_key=True)
    paused_until: float = 0.0
    failing_since: str | None = None
    last_sent_at: str | None = None
    error: str | None = None


class ChannelNode(Record, table=True):
    """Which nodes can send through a channel, until when."""

    __tablename__ = "channel_node"

    channel: str = Field(primary_key=True)
    node: str = Field(primary_key=True)
    expires_at: float


class Lease(Record, table=True):
    """A named lease for work that only one node does. The fence makes writes of a former holder fail.

    `cursor` is the change up to which the holders have processed the feed.
    """

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    node: str | None = None
    fence: int = 0
    expires_at: float = 0.0
    cursor: int = Field(0, sa_column=Column(SERIAL, nullable=False))


class RuleStateRow(Record, table=True):
    """The state of a rule that is pending or fires for a subject, as JSON (`o9.alerts.rules.rules.RuleState`)."""

    __tablename__ = "rule_state"

    rule: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    state: str


class ReadUpTo(Record, table=True):
    """The id up to which the rules have read a table."""

    __tablename__ = "read_up_to"

    name: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(SERIAL, nullable=False))


unbounded_texts()
ALERT = table_of(AlertRow)
SILENCE = table_of(SilenceRow)
ALERT_COUNTER = table_of(AlertCounter)
GROUP = table_of(AlertGroup)
NOTICE = table_of(NoticeRow)
NOTIFICATION = table_of(Notification)
TRY = table_of(NotificationTry)
DECISION = table_of(AlertDecision)
CHANNEL = table_of(ChannelRow)
CHANNEL_NODE = table_of(ChannelNode)
LEASE = table_of(Lease)
RULE_STATE = table_of(RuleStateRow)
POSITION = table_of(ReadUpTo)

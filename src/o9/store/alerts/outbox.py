"""Notifications: written in one transaction with the engine's state, then sent by a node that has the channel.

Contract. A notice is written once for each of its channels, even if the same decision is written again. The
notifications of a group through a channel are sent in order, each after the one before was sent or failed for good. A
try is written before it begins, and claims the notification with a lease that its node renews; a node that finds the
lease expired sends it again. A try without a known end, or which may have arrived all the same, is UNKNOWN; if it is
sent again, it is a POSSIBLE_DOUBLE, which is counted by channel. Claims and due times are measured by the database's
clock. What a notice marks as known before holds only for channels through which the group's last message was sent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, exists, insert, or_, select, update

from o9.store.alerts.episodes import close_episodes, count_events, verbatim
from o9.store.core.column_types import free_text, to_json
from o9.store.core.reading import rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.claims import database_time
from o9.store.queue.leader_election import require_lease
from o9.store.schema.alerts import CHANNEL, CHANNEL_NODE, DECISION, GROUP, LEASE, NOTICE, NOTIFICATION, PENDING, TRY

UNKNOWN, POSSIBLE_DOUBLE = "unknown", "possible_double"
SHOWN = 10  # alerts of a notice that stay in the log once it is sent
KNOWN = ""  # separates new alerts in `firing` from those that the receiver knew before
_REPEAT = "repeat"
_ABOUT_ALL = ("firing", _REPEAT)  # kinds of notices that list all that fires in their group


class NewNotice(NamedTuple):
    """What is sent to a receiver through `channels`; `firing` and `resolved` are ids of episodes, `labels` is JSON.

    known: how many episodes at the end of `firing` the receiver knew before.
    """

    group_key: str
    number: int
    receiver: str
    kind: str
    reason: str
    at: str
    labels: str
    firing: Sequence[str]
    resolved: Sequence[str]
    channels: Sequence[str]
    known: int = 0


class Suppressed(NamedTuple):
    """Why a receiver was not notified of an alert; `by` is the id of a silence or alert, or an interval's name."""

    alert_id: str
    receiver: str
    reason: str
    by: str
    at: str


@dataclass(frozen=True)
class CommitDecisions(Operation[None]):
    """Write the engine's decisions in one transaction. Raises StaleAttemptError if another node holds the lease.

    cursor: the change up to which the engine has read.
    groups: by key, when the group is evaluated next, and its state as JSON; None deletes the group.
    due: by key, when other groups are evaluated next, whose state is unchanged.
    closed: episodes that the engine is done with.
    """

    lease: str
    fence: int
    cursor: int
    groups: Mapping[str, tuple[str, str] | None] = field(default_factory=dict)
    due: Mapping[str, str] = field(default_factory=dict)
    notices: Sequence[NewNotice] = ()
    suppressed: Sequence[Suppressed] = ()
    closed: Sequence[str] = ()

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        require_lease(unit, self.lease, self.fence)
        unit.connection.execute(update(LEASE).where(LEASE.c.name == self.lease).values(cursor=self.cursor))
        self._write_groups(unit)
        self._write_notices(unit)
        record_suppressed(unit, self.suppressed)
        close_episodes(unit, self.closed, self.cursor)

    def _write_groups(self, unit: UnitOfWork) -> None:
        kept = [
            {"group_key": key, "due_at": group[0], "state": group[1]}
            for key, group in self.groups.items()
            if group is not None
        ]
        if kept:
            unit.upsert(GROUP, kept)
        if gone := [{"target": key} for key, group in self.groups.items() if group is None]:
            unit.connection.execute(delete(GROUP).where(GROUP.c.group_key == bindparam("target")), gone)
        if moved := [{"target": key, "due_at": at} for key, at in self.due.items()]:
            unit.connection.execute(update(GROUP).where(GROUP.c.group_key == bindparam("target")), moved)

    def _write_notices(self, unit: UnitOfWork) -> None:
        if not self.notices:
            return
        waiting = self._waiting(unit)
        written = {
            "status": "pending", "created_at": unit.now, "due_at": database_time(unit.connection), "tries": 0,
        }  # fmt: skip
        for notice in self.notices:
            key = notice.group_key
            channels = [each for each in notice.channels if notice.kind != _REPEAT or (each, key) not in waiting]
            if channels:
                unit.insert(NOTICE, new_row(notice), ignore_known=True)
            for channel in channels:
                send = {"group_key": key, "number": notice.number, "channel": channel, **written}
                unit.insert(NOTIFICATION, send, ignore_known=True)

    def _waiting(self, unit: UnitOfWork) -> set[tuple[str, str]]:
        """Return channels and groups with a pending message, together with which a repeat would arrive."""
        groups = {notice.group_key for notice in self.notices if notice.kind == _REPEAT}
        waits = select(NOTIFICATION.c.channel, NOTIFICATION.c.group_key).where(
            verbatim(PENDING, "notification"), NOTIFICATION.c.group_key.in_(groups)
        )
        return {(channel, key) for channel, key in unit.connection.execute(waits)} if groups else set()


@dataclass(frozen=True)
class RecordSuppressed(Operation[None]):
    """Record why alerts were suppressed that are not recorded themselves."""

    suppressed: Sequence[Suppressed]

    def apply(self, unit: UnitOfWork) -> None:
        record_suppressed(unit, self.suppressed)


@dataclass(frozen=True)
class BeginTry(Operation[Row | float | None]):
    """Claim the notification that is to be sent next through `channel`.

    Returns it with its notice and `may_be_double`; None if there is none; or, if the throttle delays it, the number of
    seconds to wait.

    dead_nodes: nodes whose claims are void before they expire.
    throttles: by receiver, the maximum number of tries through this channel, and in how many seconds.
    """

    channel: str
    node: str
    lease_seconds: float
    dead_nodes: Sequence[str] = ()
    throttles: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def apply(self, unit: UnitOfWork) -> Row | float | None:
        unit.flush()
        now = database_time(unit.connection)
        found = unit.connection.execute(_due(self.channel, now, self.dead_nodes)).mappings().first()
        if found is None:
            return None
        row = dict(found)
        notice = select(NOTICE).where(NOTICE.c.group_key == row["group_key"], NOTICE.c.number == row["number"])
        said = dict(unit.connection.execute(notice).mappings().one())
        if (wait := self._throttled(unit, said["receiver"])) > 0:
            return wait
        may_be_double = row["tries"] > 0 and self._may_be_double(unit, row)
        claim = {
            "tries": row["tries"] + 1, "claimed_by": self.node, "claim_expires_at": now + self.lease_seconds,
        }  # fmt: skip
        unit.connection.execute(update(NOTIFICATION).where(NOTIFICATION.c.id == row["id"]).values(**claim))
        begun = {
            "notification_id": row["id"], "number": claim["tries"], "channel": self.channel, "node": self.node,
            "started_at": unit.now,
        }  # fmt: skip
        unit.connection.execute(insert(TRY).values(**begun))
        said = notice_row(said)
        if said["known"] and said["kind"] == "firing" and not _was_notified(unit, row, said["receiver"]):
            said["known"] = 0
        return said | row | claim | {"may_be_double": may_be_double}

    def _may_be_double(self, unit: UnitOfWork, row: Row) -> bool:
        """Whether an earlier try may have arrived. The last one is marked if so."""
        of_it = TRY.c.notification_id == row["id"]
        last = of_it & (TRY.c.number == row["tries"])
        if row["claimed_by"] is not None:  # its node died or hung during that try
            lost = f"node {row['claimed_by']} did not report how it ended"
            unit.connection.execute(update(TRY).where(last).values(outcome=UNKNOWN, error=lost))
        doubt = update(TRY).where(last, TRY.c.outcome == UNKNOWN).values(outcome=POSSIBLE_DOUBLE)
        if unit.connection.execute(doubt).rowcount:
            count_events(unit, {(POSSIBLE_DOUBLE, self.channel): 1})
            return True
        before = select(TRY.c.number).where(of_it, TRY.c.outcome != "failed").limit(1)
        return unit.connection.execute(before).first() is not None

    def _throttled(self, unit: UnitOfWork, receiver: str) -> float:
        """Return the seconds until the throttle allows one more try."""
        if receiver not in self.throttles:
            return 0.0
        messages, every = self.throttles[receiver]
        tries = select(TRY.c.started_at).where(TRY.c.channel == self.channel).order_by(TRY.c.started_at.desc())
        at = unit.connection.execute(tries.offset(messages - 1).limit(1)).scalar()
        if at is None:
            return 0.0
        passed = datetime.fromisoformat(unit.now) - datetime.fromisoformat(at)
        return every - passed.total_seconds()


@dataclass(frozen=True)
class EndTry(Operation[bool]):
    """Record how a try ended. If another node has taken it over, only the try is written, and False is returned.

    error: None if it was sent.
    in_doubt: it may have arrived despite the error.
    retry_in: seconds until the next try; None means that it has failed for good.
    pause: seconds for which nothing is sent through this channel.
    """

    notification_id: int
    number: int
    node: str
    error: str | None = None
    retry_in: float | None = None
    pause: float = 0.0
    in_doubt: bool = False

    def apply(self, unit: UnitOfWork) -> bool:
        unit.flush()
        mine = NOTIFICATION.c.id == self.notification_id
        row = dict(unit.connection.execute(select(NOTIFICATION).where(mine)).mappings().one())
        error = None if self.error is None else free_text(self.error)
        outcome = "sent" if error is None else "failed"
        this = (TRY.c.notification_id == self.notification_id) & (TRY.c.number == self.number)
        ended = {"ended_at": unit.now, "outcome": UNKNOWN if self.in_doubt else outcome, "error": error}
        unit.connection.execute(update(TRY).where(this).values(**ended))
        if row["status"] != "pending" or (row["claimed_by"], row["tries"]) != (self.node, self.number):
            return False
        values: Row = {"claimed_by": None, "claim_expires_at": None, "error": error}
        now = database_time(unit.connection)
        if error is None or self.retry_in is None:
            values |= {"status": outcome, "ended_at": unit.now}
            count_events(unit, {(outcome, row["channel"]): 1})
            _shorten(unit, row)
        else:
            # Later ones of the group cannot be sent before it, so they are not due either.
            behind = (NOTIFICATION.c.channel == row["channel"]) & (NOTIFICATION.c.group_key == row["group_key"])
            due_at = now + self.retry_in
            later = update(NOTIFICATION).where(verbatim(PENDING, "notification"), behind)
            unit.connection.execute(later.where(NOTIFICATION.c.due_at < due_at).values(due_at=due_at))
        unit.connection.execute(update(NOTIFICATION).where(mine).values(**values))
        _note_channel(unit, row["channel"], error, paused_until=now + self.pause if self.pause else None)
        return True


@dataclass(frozen=True)
class FailOldNotifications(Operation[dict[str, int]]):
    """Fail the notifications from before the ISO moment `before` that are not being sent. Returns counts by channel."""

    before: str
    why: str

    def apply(self, unit: UnitOfWork) -> dict[str, int]:
        unit.flush()
        free = or_(
            NOTIFICATION.c.claim_expires_at.is_(None),
            NOTIFICATION.c.claim_expires_at <= database_time(unit.connection),
        )
        old = NOTIFICATION.c.created_at < self.before
        found = rows(unit.connection, select(NOTIFICATION).where(verbatim(PENDING, "notification"), old, free))
        ended = {"status": "failed", "ended_at": unit.now, "error": self.why}
        for row in found:
            unit.connection.execute(update(NOTIFICATION).where(NOTIFICATION.c.id == row["id"]).values(**ended))
            _shorten(unit, row)
        channels = Counter(row["channel"] for row in found)
        count_events(unit, {("failed", channel): count for channel, count in channels.items()})
        return dict(channels)


@dataclass(frozen=True)
class AnnounceChannels(Operation[None]):
    """Announce through which channels a node can send, and renew its claims on what it is sending."""

    node: str
    channels: Sequence[str]
    lease_seconds: float
    sending: Sequence[int] = ()

    def apply(self, unit: UnitOfWork) -> None:
        unit.flush()
        expires_at = database_time(unit.connection) + self.lease_seconds
        mine = CHANNEL_NODE.c.node == self.node
        gone = delete(CHANNEL_NODE).where(mine, CHANNEL_NODE.c.channel.not_in(list(self.channels)))
        unit.connection.execute(gone)
        if self.channels:
            rows = [{"channel": name, "node": self.node, "expires_at": expires_at} for name in self.channels]
            unit.upsert(CHANNEL_NODE, rows)
        if self.sending:
            claimed = NOTIFICATION.c.id.in_(list(self.sending)) & (NOTIFICATION.c.claimed_by == self.node)
            unit.connection.execute(update(NOTIFICATION).where(claimed).values(claim_expires_at=expires_at))


@dataclass(frozen=True)
class WithdrawChannels(Operation[None]):
    """Record that a node no longer sends."""

    node: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.connection.execute(delete(CHANNEL_NODE).where(CHANNEL_NODE.c.node == self.node))


def record_suppressed(unit: UnitOfWork, suppressed: Sequence[Suppressed]) -> None:
    for each in suppressed:
        unit.insert(DECISION, each._asdict())
    count_events(unit, Counter(("suppressed", each.reason) for each in suppressed))


def due_channels(connection: Connection, channels: Iterable[str], dead_nodes: Sequence[str] = ()) -> list[str]:
    """Return those of `channels` that have a notification due which is not being sent."""
    now = database_time(connection)
    return [name for name in channels if connection.execute(_due(name, now, dead_nodes)).first()]


def has_pending_notifications(connection: Connection) -> bool:
    """Whether any notification is still to be sent."""
    waits = select(NOTIFICATION.c.id).where(verbatim(PENDING, "notification")).limit(1)
    return connection.execute(waits).first() is not None


def sending_channels(connection: Connection) -> list[str]:
    """Return the channels through which a living node can send."""
    living = CHANNEL_NODE.c.expires_at > database_time(connection)
    found = select(CHANNEL_NODE.c.channel).distinct().where(living).order_by(CHANNEL_NODE.c.channel)
    return list(connection.execute(found).scalars())


def alert_channels(connection: Connection) -> list[Row]:
    """Return how sending through each channel goes."""
    return rows(connection, select(CHANNEL).order_by(CHANNEL.c.channel))


def alert_groups(connection: Connection) -> dict[str, tuple[str, str]]:
    """Return by key when each group is evaluated next, and its state, as last written by the engine."""
    return {key: (due_at, state) for key, due_at, state in connection.execute(select(GROUP))}


def new_row(notice: NewNotice) -> Row:
    row = notice._asdict() | {
        "firing": _written(notice.firing, notice.known), "resolved": to_json(list(notice.resolved)),
        "firing_count": len(notice.firing), "resolved_count": len(notice.resolved),
    }  # fmt: skip
    del row["channels"], row["known"]
    return row


def notice_row(row: Mapping[Any, Any]) -> Row:
    """Return a row of NOTICE with its JSON decoded; `known` counts those at the end of `firing` that were known."""
    said = dict(row) | {name: json.loads(row[name]) for name in ("labels", "firing", "resolved")}
    firing, known = said["firing"], 0
    if KNOWN in firing:
        begins = firing.index(KNOWN)
        known = len(firing) - begins - 1
        firing = [*firing[:begins], *firing[begins + 1 :]]
    return said | {"firing": firing, "known": known}


def _written(firing: Sequence[str], known: int) -> str:
    begins = len(firing) - known
    return to_json([*firing[:begins], *[KNOWN] * bool(known), *firing[begins:]])


def _was_notified(unit: UnitOfWork, row: Row, receiver: str) -> bool:
    """Whether the group's last notice of all that fires was sent through this channel."""
    before = (NOTIFICATION.c.channel == row["channel"]) & (NOTIFICATION.c.group_key == row["group_key"])
    about_all = (NOTICE.c.receiver == receiver) & NOTICE.c.kind.in_(_ABOUT_ALL)
    same = (NOTICE.c.group_key == NOTIFICATION.c.group_key) & (NOTICE.c.number == NOTIFICATION.c.number)
    wanted = select(NOTIFICATION.c.status).join_from(NOTIFICATION, NOTICE, same).where(before, about_all)
    wanted = wanted.where(NOTIFICATION.c.number < row["number"]).order_by(NOTIFICATION.c.number.desc()).limit(1)
    return unit.connection.execute(wanted).scalar() == "sent"


def _note_channel(unit: UnitOfWork, channel: str, error: str | None, *, paused_until: float | None = None) -> None:
    """Record how a try through a channel ended, and until when nothing is sent through it."""
    mine = CHANNEL.c.channel == channel
    known = unit.connection.execute(select(CHANNEL).where(mine)).mappings().first()
    if error is None:
        values: Row = {"failing_since": None, "last_sent_at": unit.now, "error": None}
    else:
        since = known["failing_since"] if known and known["failing_since"] else unit.now
        values = {"failing_since": since, "error": error}
    if paused_until is not None:
        values["paused_until"] = paused_until
    if known is None:
        unit.connection.execute(insert(CHANNEL).values(channel=channel, **values))
    else:
        unit.connection.execute(update(CHANNEL).where(mine).values(**values))


def _shorten(unit: UnitOfWork, row: Row) -> None:
    """Cut a notice that is sent through all its channels to its first alerts; the counts stay."""
    whole = (NOTICE.c.group_key == row["group_key"]) & (NOTICE.c.number == row["number"])
    long = or_(NOTICE.c.firing_count > SHOWN, NOTICE.c.resolved_count > SHOWN)
    found = unit.connection.execute(select(NOTICE.c.firing, NOTICE.c.resolved).where(whole, long)).first()
    others = (NOTIFICATION.c.group_key == row["group_key"]) & (NOTIFICATION.c.number == row["number"])
    waiting = others & (NOTIFICATION.c.id != row["id"]) & (NOTIFICATION.c.status == "pending")
    if found is None or unit.connection.execute(select(NOTIFICATION.c.id).where(waiting)).first():
        return
    ids = {name: json.loads(text) for name, text in found._mapping.items()}
    firing = ids["firing"][: SHOWN + (KNOWN in ids["firing"][:SHOWN])]
    first = {"firing": to_json(firing), "resolved": to_json(ids["resolved"][:SHOWN])}
    unit.connection.execute(update(NOTICE).where(whole).values(**first))


def _due(channel: str, now: float, dead_nodes: Sequence[str]) -> Select[Any]:
    earlier = NOTIFICATION.alias("earlier")
    waits = exists().where(
        verbatim(PENDING, "earlier"),
        earlier.c.channel == NOTIFICATION.c.channel,
        earlier.c.group_key == NOTIFICATION.c.group_key,
        earlier.c.id < NOTIFICATION.c.id,
    )
    paused = exists().where(CHANNEL.c.channel == NOTIFICATION.c.channel, CHANNEL.c.paused_until > now)
    free: ColumnElement[bool] = or_(
        NOTIFICATION.c.claim_expires_at.is_(None),
        NOTIFICATION.c.claim_expires_at <= now,
        NOTIFICATION.c.claimed_by.in_(list(dead_nodes)),
    )
    mine = (NOTIFICATION.c.channel == channel) & (NOTIFICATION.c.due_at <= now)
    wanted = select(NOTIFICATION).where(verbatim(PENDING, "notification"), mine, free, ~waits, ~paused)
    return wanted.order_by(NOTIFICATION.c.due_at, NOTIFICATION.c.id).limit(1)

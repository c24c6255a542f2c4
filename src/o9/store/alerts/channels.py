"""How each channel does, and through which of them living nodes can send. Measured by the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from o9.store.core.reading import rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.queue.claims import database_time
from o9.store.schema.alerts import CHANNEL, CHANNEL_NODE, NOTIFICATION


@dataclass(frozen=True)
class KeepChannels(Operation[None]):
    """Say through which channels a living node can send, and keep what it is sending just now."""

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
class LeaveChannels(Operation[None]):
    """A node sends nothing any more."""

    node: str

    def apply(self, unit: UnitOfWork) -> None:
        unit.connection.execute(delete(CHANNEL_NODE).where(CHANNEL_NODE.c.node == self.node))


def sending_channels(connection: Connection) -> list[str]:
    """Through which channels some living node can send."""
    living = CHANNEL_NODE.c.expires_at > database_time(connection)
    found = select(CHANNEL_NODE.c.channel).distinct().where(living).order_by(CHANNEL_NODE.c.channel)
    return list(connection.execute(found).scalars())


def alert_channels(connection: Connection) -> list[Row]:
    """How each channel does."""
    return rows(connection, select(CHANNEL).order_by(CHANNEL.c.channel))


def note_of_channel(unit: UnitOfWork, channel: str, error: str | None, *, paused_until: float | None = None) -> None:
    """How a try through it ended. paused_until: nothing is to be sent through it before."""
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

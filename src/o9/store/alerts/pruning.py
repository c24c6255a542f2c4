"""Deleting old alerts, notices and decisions. The counts stay.

Contract. Each operation is one short transaction that stops at the end of the piece with which its time is up; the next
one continues, in any process. Kept are: the first and newest alert of a firing episode, resolved episodes still to be
notified, notices still to be sent, and silences in force. An alert is old if both its own time and the time at which it
was received are, so one dated in the future stays until then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, FromClause, and_, delete, exists, func, literal, or_, select, tuple_

from o9.store.alerts.episodes import STATE_OF, among, verbatim
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.queue.claims import database_time
from o9.store.schema.alerts import ALERT, CHANNEL_NODE, DECISION, NOTICE, NOTIFICATION, PENDING, SILENCE, TRY

SECONDS = 0.05  # of one transaction, during which all writers wait
PIECE = 200  # rows deleted between two checks of the time


@dataclass
class PrunedAlerts:
    """What was deleted, or would be. `cursor` is where the next transaction continues; None means that it is done."""

    alerts: int = 0
    notices: int = 0
    suppressed: int = 0
    silences: int = 0
    cursor: tuple[str, str] | None = ("", "")


@dataclass(frozen=True)
class PruneAlerts(Operation[PrunedAlerts]):
    """Delete what is older than the ISO moment `before`, from `cursor` on, for up to `seconds`."""

    before: str
    cursor: tuple[str, str] = ("", "")
    seconds: float = SECONDS
    piece: int = field(default=PIECE, repr=False)

    def apply(self, unit: UnitOfWork) -> PrunedAlerts:
        unit.flush()
        deadline = time.monotonic() + self.seconds
        done = PrunedAlerts(cursor=self.cursor)
        for step in (self._alerts, self._notices, self._suppressed, self._others):
            while not step(unit, done):
                if time.monotonic() >= deadline:
                    return done
        done.cursor = None
        return done

    def _alerts(self, unit: UnitOfWork, done: PrunedAlerts) -> bool:
        """Delete the next piece, and return whether it was the last."""
        assert done.cursor is not None
        connection, place = unit.connection, (ALERT.c.at, ALERT.c.alert_id)
        looked_at = (
            select(*place, _is_old(self.before).label("old"))
            .join_from(ALERT, STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode, isouter=True)
            .where(ALERT.c.at < self.before, tuple_(*place) > tuple_(*map(literal, done.cursor)))
            .order_by(*place)
            .limit(self.piece)
        )
        found = connection.execute(looked_at).all()
        old = [row.alert_id for row in found if row.old]
        if old:
            these, values = among(ALERT.c.alert_id, old, connection)
            connection.execute(delete(ALERT).where(these), values)
            done.alerts += len(old)
        if found:
            done.cursor = found[-1].at, found[-1].alert_id
        return len(found) < self.piece

    def _notices(self, unit: UnitOfWork, done: PrunedAlerts) -> bool:
        connection = unit.connection
        wanted = select(NOTICE.c.group_key, NOTICE.c.number).where(_is_old_notice(self.before))
        found = [tuple(row) for row in connection.execute(wanted.order_by(NOTICE.c.at).limit(self.piece))]
        if found:
            sends = select(NOTIFICATION.c.id).where(tuple_(NOTIFICATION.c.group_key, NOTIFICATION.c.number).in_(found))
            ids = list(connection.execute(sends).scalars())
            connection.execute(delete(TRY).where(TRY.c.notification_id.in_(ids)))
            connection.execute(delete(NOTIFICATION).where(NOTIFICATION.c.id.in_(ids)))
            connection.execute(delete(NOTICE).where(tuple_(NOTICE.c.group_key, NOTICE.c.number).in_(found)))
            done.notices += len(found)
        return len(found) < self.piece

    def _suppressed(self, unit: UnitOfWork, done: PrunedAlerts) -> bool:
        oldest = select(DECISION.c.id, DECISION.c.at).order_by(DECISION.c.id).limit(self.piece)
        found = [row.id for row in unit.connection.execute(oldest) if row.at < self.before]
        if found:
            unit.connection.execute(delete(DECISION).where(DECISION.c.id.in_(found)))
            done.suppressed += len(found)
        return len(found) < self.piece

    def _others(self, unit: UnitOfWork, done: PrunedAlerts) -> bool:
        done.silences += unit.connection.execute(delete(SILENCE).where(_was_over(self.before))).rowcount
        gone = CHANNEL_NODE.c.expires_at < database_time(unit.connection) - 86_400.0
        unit.connection.execute(delete(CHANNEL_NODE).where(gone))
        return True


def prunable_alerts(connection: Connection, before: str) -> PrunedAlerts:
    """Return what pruning would delete now. The cost grows with what is older than `before`."""

    def count(condition: ColumnElement[bool], table: FromClause) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(condition)).scalar_one())

    given = ALERT.join(STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode, isouter=True)
    return PrunedAlerts(
        alerts=count(and_(ALERT.c.at < before, _is_old(before)), given),
        notices=count(_is_old_notice(before), NOTICE),
        suppressed=count(DECISION.c.at < before, DECISION),
        silences=count(_was_over(before), SILENCE),
        cursor=None,
    )


def _is_old(before: str) -> ColumnElement[bool]:
    """The alert's episode is resolved or was pruned, or the alert is neither its first nor its newest one."""
    state, given = STATE_OF.c, ALERT.c.notified_at < before
    over = and_(state.resolved_at < before, state.last_notified_at < before, state.is_open == 0, given)
    more = and_(ALERT.c.is_first == 0, ALERT.c.alert_id != state.latest, given)
    return or_(state.alert_id.is_(None), over, more)


def _is_old_notice(before: str) -> ColumnElement[bool]:
    """The notice is old, and none of its notifications is pending."""
    name = (NOTIFICATION.c.group_key == NOTICE.c.group_key) & (NOTIFICATION.c.number == NOTICE.c.number)
    return and_(NOTICE.c.at < before, ~exists().where(verbatim(PENDING, "notification"), name))


def _was_over(before: str) -> ColumnElement[bool]:
    return or_(SILENCE.c.ends_at < before, SILENCE.c.ended_at < before)

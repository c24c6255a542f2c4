"""Queries of alerts. Their cost does not grow with history; some grow with what fires, or what was sent since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, literal, or_, select, tuple_

from o9.model.states import AlertLevel
from o9.store.alerts.episodes import CONTENT, STATE_OF, among, verbatim
from o9.store.alerts.outbox import SHOWN, notice_row
from o9.store.core.column_types import to_json
from o9.store.core.reading import page_size, rows
from o9.store.core.unit import Row
from o9.store.schema.alerts import ALERT, ALERT_COUNTER, DECISION, ENDING, FIRING, NOTICE, NOTIFICATION, OPEN, TRY

NOTICES_LIMIT = 1_000
_WORDS = ALERT.alias("words")


class Episode(NamedTuple):
    """The state of an episode with the texts of its newest alert, as stored; `labels` is JSON."""

    alert_id: str
    fingerprint: str
    labels: str
    starts_at: str
    ends_at: str | None
    expected_end: int
    last_notified_at: str
    notifications: int
    resolved_at: str | None
    resolved_by: str | None
    acknowledged_by: str | None
    began: int
    changed: int
    optimization_id: str
    level: str
    title: str
    message: str


def alert(connection: Connection, alert_id: str) -> Row | None:
    """Return one alert as `alerts` does; None if there is none."""
    found = connection.execute(_page().where(ALERT.c.alert_id == alert_id)).mappings().first()
    return _decoded(found) if found else None


def alerts(
    connection: Connection,
    optimization_id: str | None = None,
    level: str | None = None,
    limit: int = 100,
    before: tuple[str, str] | None = None,
) -> list[Row]:
    """Return alerts before (`at`, `alert_id`), newest first, each with the state of its episode."""
    statement = _page().order_by(ALERT.c.at.desc(), ALERT.c.alert_id.desc()).limit(page_size(limit))
    if optimization_id is not None:
        statement = statement.where(ALERT.c.optimization_id == optimization_id)
    if level is not None:
        statement = statement.where(ALERT.c.level == level)
    if before is not None:
        statement = statement.where(tuple_(ALERT.c.at, ALERT.c.alert_id) < tuple_(*map(literal, before)))
    return [_decoded(row) for row in connection.execute(statement).mappings()]


def open_episodes(connection: Connection, after: tuple[int, str] = (0, ""), limit: int = 1000) -> list[Episode]:
    """Return the open episodes after (`changed`, `alert_id`), in that order.

    These fire, or have a resolution that the leader has yet to process.
    """
    statement = (
        _EPISODES.where(verbatim(OPEN), tuple_(ALERT.c.changed, ALERT.c.alert_id) > tuple_(*map(literal, after)))
        .order_by(ALERT.c.changed, ALERT.c.alert_id)
        .limit(limit)
    )
    return list(map(Episode._make, connection.execute(statement).all()))


def episodes(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[Episode, dict[str, Any]]]:
    """Return episodes by id, each with its newest metadata. Pruned ones are left out."""
    wanted, values = among(ALERT.c.alert_id, ids, connection)
    found = connection.execute(_EPISODES.add_columns(_WORDS.c.metadata).where(wanted), values).all()
    return {row[0]: (Episode._make(row[:-1]), json.loads(row[-1])) for row in found}


def alert_titles(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the newest level and title of episodes, by id. Pruned ones are left out."""
    wanted, values = among(ALERT.c.alert_id, ids, connection)
    statement = select(ALERT.c.alert_id, _WORDS.c.level, _WORDS.c.title).join_from(
        ALERT, _WORDS, _WORDS.c.alert_id == ALERT.c.latest
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(statement.where(wanted), values)}


def next_end(connection: Connection) -> str | None:
    """Return when the next episode reaches its end; None if none has one."""
    statement = select(ALERT.c.ends_at).where(verbatim(ENDING)).order_by(ALERT.c.ends_at).limit(1)
    return connection.execute(statement).scalar()


def alert_counts(connection: Connection) -> list[Row]:
    """Return the lifetime counts of events: `what`, `name` (a level, a channel or a reason), `count`."""
    return rows(connection, select(ALERT_COUNTER))


def firing_alerts(connection: Connection) -> dict[str, int]:
    """Return the number of firing episodes by level. The cost grows with what fires."""
    levels = [level.value for level in AlertLevel]
    each = [func.count().filter(ALERT.c.level == level) for level in levels]
    # This uses the index of firing episodes; grouped by level, SQLite would read every alert.
    counted = connection.execute(select(*each).where(verbatim(FIRING), ALERT.c.fingerprint > "")).one()
    return {level: int(count) for level, count in zip(levels, counted, strict=True) if count}


def notifications(connection: Connection, limit: int = 100, before: int | None = None) -> list[Row]:
    """Return notifications before the id `before` with their notice and `tries`, newest first."""
    statement = select(NOTIFICATION).order_by(NOTIFICATION.c.id.desc()).limit(page_size(limit))
    if before is not None:
        statement = statement.where(NOTIFICATION.c.id < before)
    sends = rows(connection, statement)
    named = {(row["group_key"], row["number"]) for row in sends}
    said = select(NOTICE).where(tuple_(NOTICE.c.group_key, NOTICE.c.number).in_(sorted(named)))
    notices = {(row["group_key"], row["number"]): notice_row(row) for row in connection.execute(said).mappings()}
    return [notices[row["group_key"], row["number"]] | row for row in _with_tries(connection, sends)]


def suppressed(connection: Connection, limit: int = 100, alert_id: str | None = None) -> list[Row]:
    """Return the reasons why receivers were not notified, newest first, of one alert or of all."""
    statement = select(DECISION).order_by(DECISION.c.id.desc()).limit(page_size(limit))
    if alert_id is not None:
        statement = statement.where(DECISION.c.alert_id == alert_id)
    return rows(connection, statement)


def notices(connection: Connection, names: Iterable[tuple[str, int]]) -> list[Row]:
    """Return the notices of these names (group and number), newest first, each with its notifications as `sends`."""
    wanted = sorted(set(names))
    found: list[Row] = []
    for start in range(0, len(wanted), NOTICES_LIMIT):
        part = wanted[start : start + NOTICES_LIMIT]
        found += _with_sends(connection, select(NOTICE).where(tuple_(NOTICE.c.group_key, NOTICE.c.number).in_(part)))
    return sorted(found, key=lambda row: str(row["at"]), reverse=True)


def notices_about(
    connection: Connection, alert_id: str, labels: Mapping[str, str], since: str, limit: int = NOTICES_LIMIT
) -> list[Row]:
    """Return the newest `limit` notices about an episode that began at `since`, newest first, with their `sends`.

    The log of a large group names only its first alerts. A notice that does not name the alert, but whose group's
    labels fit it, is returned with `by_name` False.
    """
    name = to_json([alert_id])[1:-1]
    many = or_(NOTICE.c.firing_count > SHOWN, NOTICE.c.resolved_count > SHOWN)
    names = [NOTICE.c[side].contains(name, autoescape=True) for side in ("firing", "resolved")]
    statement = select(NOTICE).where(NOTICE.c.at >= since, or_(many, *names)).order_by(NOTICE.c.at.desc()).limit(limit)
    found = []
    for row in _with_sends(connection, statement):
        row["by_name"] = alert_id in row["firing"] or alert_id in row["resolved"]
        cut = row["firing_count"] > len(row["firing"]) or row["resolved_count"] > len(row["resolved"])
        if row["by_name"] or (cut and row["labels"].items() <= labels.items()):
            found.append(row)
    return found


def suppressed_of(connection: Connection, alert_ids: Sequence[str]) -> dict[str, dict[str, Row]]:
    """Return the newest reason for suppression by alert and receiver."""
    wanted, values = among(DECISION.c.alert_id, alert_ids, connection)
    found: dict[str, dict[str, Row]] = {}
    for row in connection.execute(select(DECISION).where(wanted).order_by(DECISION.c.id), values).mappings():
        found.setdefault(row["alert_id"], {})[row["receiver"]] = dict(row)
    return found


def _with_sends(connection: Connection, statement: Select[Any]) -> list[Row]:
    found = [notice_row(row) | {"sends": []} for row in connection.execute(statement).mappings()]
    by_name = {(row["group_key"], row["number"]): row["sends"] for row in found}
    if not by_name:
        return found
    of_these = tuple_(NOTIFICATION.c.group_key, NOTIFICATION.c.number).in_(sorted(by_name))
    sends = rows(connection, select(NOTIFICATION).where(of_these).order_by(NOTIFICATION.c.id))
    for send in _with_tries(connection, sends):
        by_name[send["group_key"], send["number"]].append(send)
    return found


def _with_tries(connection: Connection, sends: list[Row]) -> list[Row]:
    """Return the notifications, each with its `tries`."""
    by_id = {row["id"]: row | {"tries": []} for row in sends}
    tries = select(TRY).where(TRY.c.notification_id.in_(list(by_id))).order_by(TRY.c.notification_id, TRY.c.number)
    for begun in rows(connection, tries):
        by_id[begun["notification_id"]]["tries"].append(begun)
    return list(by_id.values())


def _page() -> Select[Any]:
    names = ("ends_at", "resolved_at", "resolved_by", "acknowledged_at", "acknowledged_by", "notifications")
    state = [STATE_OF.c[name] for name in names]
    given = [ALERT.c[name] for name in ("alert_id", "episode", "at", "notified_at", *CONTENT)]
    return select(*given, *state).join_from(ALERT, STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode)


def _decoded(found: Mapping[Any, Any]) -> Row:
    row = dict(found)
    return row | {name: json.loads(row[name]) for name in ("metadata", "labels") if name in row}


_OF_WORDS = ("optimization_id", "level", "title", "message")
_EPISODES = select(*[(_WORDS if name in _OF_WORDS else ALERT).c[name] for name in Episode._fields]).join_from(
    ALERT, _WORDS, _WORDS.c.alert_id == ALERT.c.latest
)

"""The notifications of an alert. Reading them costs what was sent since it began, never what was sent before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, or_, select, tuple_

from o9.store.alerts import among
from o9.store.codec import to_json
from o9.store.notices import notice_row
from o9.store.outbox import DECISION, NOTICE, NOTIFICATION, SHOWN, TRY
from o9.store.unit import Row

NOTICES_LIMIT = 1_000


def last_notices(connection: Connection, names: Iterable[tuple[str, int]]) -> list[Row]:
    """Those of these names (group and number) that there are, the newest first, each with its `sends`."""
    wanted = sorted(set(names))
    found: list[Row] = []
    for start in range(0, len(wanted), NOTICES_LIMIT):
        part = wanted[start : start + NOTICES_LIMIT]
        found += _with_sends(connection, select(NOTICE).where(tuple_(NOTICE.c.group_key, NOTICE.c.number).in_(part)))
    return sorted(found, key=lambda row: str(row["at"]), reverse=True)


def notices_about(
    connection: Connection, alert_id: str, labels: Mapping[str, str], since: str, limit: int = NOTICES_LIMIT
) -> list[Row]:
    """The newest `limit` notices about an episode which began at `since`, newest first, with their `sends`.

    Of a large group only the first alerts stay in the log: one in whose group this alert would be is among them, with
    `by_name` False.
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
    """By alert and receiver, the newest reason why it was suppressed."""
    wanted, values = among(DECISION.c.alert_id, alert_ids, connection)
    found: dict[str, dict[str, Row]] = {}
    for row in connection.execute(select(DECISION).where(wanted).order_by(DECISION.c.id), values).mappings():
        found.setdefault(row["alert_id"], {})[row["receiver"]] = dict(row)
    return found


def _with_sends(connection: Connection, statement: Select[Any]) -> list[Row]:
    rows = [notice_row(row) | {"sends": []} for row in connection.execute(statement).mappings()]
    by_name = {(row["group_key"], row["number"]): row["sends"] for row in rows}
    if not by_name:
        return rows
    of_these = tuple_(NOTIFICATION.c.group_key, NOTIFICATION.c.number).in_(sorted(by_name))
    sends = connection.execute(select(NOTIFICATION).where(of_these).order_by(NOTIFICATION.c.id)).mappings()
    by_id: dict[int, list[Row]] = {}
    for send in sends:
        given = dict(send) | {"tries": by_id.setdefault(send["id"], [])}
        by_name[send["group_key"], send["number"]].append(given)
    tries = select(TRY).where(TRY.c.notification_id.in_(list(by_id))).order_by(TRY.c.notification_id, TRY.c.number)
    for begun in connection.execute(tries).mappings():
        by_id[begun["notification_id"]].append(dict(begun))
    return rows

"""Alerts as received, and the episodes that they form.

Contract. An alert is stored once under its id: sent again with the same content it is the same alert; with other
content it is refused. Alerts with equal labels (one fingerprint) that overlap in time form one episode, which fires
until it is resolved under any of its ids, or until its end. Each write that changes episodes adds one change of the
kind `alert` to the feed, and the episodes carry its id, so that the leader reads what is new from an index. Times are
stored as given, including those in the past or future. `notifications`, `notified_at` and `last_notified_at` say how
often and when the store received an alert. A batch of any size takes the same number of statements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Text,
    TextClause,
    any_,
    bindparam,
    func,
    select,
    text,
    update,
)

from o9.model.errors import OptimizationConflictError, OptimizationNotFoundError
from o9.store.core.column_types import free_text, to_json
from o9.store.core.reading import rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.schema.alerts import ALERT, ALERT_COUNTER, ENDING, FIRING

STATE_OF = ALERT.alias("state")
CONTENT = ("optimization_id", "level", "title", "message", "metadata")


class EndedBy(str, Enum):
    """Values of `resolved_by` for an episode that no person resolved."""

    NOT_REPEATED = "o9:not_repeated"
    END_REACHED = "o9:end_reached"
    SOURCE = "o9:source"


_STATE = (
    "starts_at", "ends_at", "expected_end", "latest", "last_notified_at", "notifications", "resolved_at", "resolved_by",
    "changed", "is_open",
)  # fmt: skip


class NewAlert(NamedTuple):
    """An alert as received, with `labels` and `metadata` as JSON.

    ends_at: when it ends, in the past or the future; None means when it is resolved.
    expected_end: 1 if `ends_at` is a timeout, at which it ends unless it is repeated.
    """

    alert_id: str
    fingerprint: str
    labels: str
    optimization_id: str
    level: str
    title: str
    message: str
    metadata: str
    at: str
    ends_at: str | None = None
    expected_end: int = 0


class Recorded(NamedTuple):
    """The episode of a received alert, and whether the alert began or ended it."""

    episode: str
    began: bool
    ended: bool


@dataclass(frozen=True)
class RaiseAlerts(Operation[list[Recorded | OptimizationConflictError]]):
    """Record a batch of alerts in order. Returns for each how it was recorded, or the error if it was refused."""

    new_alerts: Sequence[NewAlert]

    def apply(self, unit: UnitOfWork) -> list[Recorded | OptimizationConflictError]:
        batch = _Batch(unit, self.new_alerts)
        answers = [batch.take(new) for new in self.new_alerts]
        batch.write()
        return answers


@dataclass(frozen=True)
class ResolveAlert(Operation[bool]):
    """Resolve the episode of this alert. Returns whether it was firing. Raises OptimizationNotFoundError."""

    alert_id: str
    by: str
    what: ClassVar[str] = "resolved"

    def apply(self, unit: UnitOfWork) -> bool:
        episode = _episode(unit, self.alert_id)
        if episode["resolved_at"] is not None or episode[f"{self.what}_at"] is not None:
            return False
        values = {f"{self.what}_at": unit.now, f"{self.what}_by": free_text(self.by)}
        changed = update(ALERT).where(ALERT.c.alert_id == episode["alert_id"])
        unit.connection.execute(changed.values(changed=unit.change_now("alert"), is_open=1, **values))
        count_events(unit, {(self.what, episode["level"]): 1})
        return True


@dataclass(frozen=True)
class AcknowledgeAlert(ResolveAlert):
    """Acknowledge the episode of this alert. Returns whether it was firing and not yet acknowledged.

    Raises OptimizationNotFoundError.
    """

    what: ClassVar[str] = "acknowledged"


@dataclass(frozen=True)
class ExpireAlerts(Operation[list[str]]):
    """Resolve the episodes that have reached their end. Returns their ids."""

    def apply(self, unit: UnitOfWork) -> list[str]:
        unit.flush()
        wanted = _STATES.where(verbatim(ENDING), ALERT.c.ends_at <= unit.now)
        over = rows(unit.connection, wanted)
        if over:
            change = unit.change_now("alert")
            for row in over:
                row |= {"resolved_at": row["ends_at"], "resolved_by": _ended_by(row), "changed": change, "is_open": 1}
            _write_states(unit, over)
            count_events(unit, Counter(("resolved", row["level"]) for row in over))
        return [row["alert_id"] for row in over]


class _Batch:
    """One batch of alerts: the rows that it touches are read at once, changed in memory, then written."""

    def __init__(self, unit: UnitOfWork, new_alerts: Sequence[NewAlert]) -> None:
        unit.flush()
        self._unit = unit
        connection = unit.connection
        wanted, values = among(ALERT.c.alert_id, {new.alert_id for new in new_alerts}, connection)
        known = connection.execute(_KNOWN.where(wanted), values).mappings()
        self._known: dict[str, Mapping[Any, Any]] = {row["alert_id"]: row for row in known}
        wanted, values = among(ALERT.c.fingerprint, {new.fingerprint for new in new_alerts}, connection)
        firing = connection.execute(_STATES.where(wanted, verbatim(FIRING)), values).mappings()
        self._firing: dict[str, Row] = {row["fingerprint"]: dict(row) for row in firing}
        self._new: dict[str, Row] = {}
        self._touched: dict[str, Row] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def take(self, given: NewAlert) -> Recorded | OptimizationConflictError:
        known = self._known.get(given.alert_id)
        firing = self._firing.get(given.fingerprint)
        if firing is not None and firing["ends_at"] is not None and firing["ends_at"] <= max(given.at, self._unit.now):
            self._end(firing, firing["ends_at"], _ended_by(firing))
            firing = None
        if known is not None:
            return self._repeat(known, firing, given)
        row = _row(given, self._unit.now)
        if firing is None:
            row |= {
                "episode": given.alert_id, "is_first": 1, "is_open": 1, "starts_at": given.at, "latest": given.alert_id,
                "last_notified_at": given.at, "notifications": 1,
            }  # fmt: skip
            self._firing[given.fingerprint] = firing = row
            self._add("begun", given.level)
        else:
            row |= {"episode": firing["alert_id"], "labels": "{}", "ends_at": None, "expected_end": 0}
            self._extend(firing, given, given.alert_id)
        self._add("received", given.level)
        self._new[given.alert_id] = self._known[given.alert_id] = row
        return Recorded(row["episode"], began=row is firing, ended=self._ended(firing, given))

    def write(self) -> None:
        """Write the batch, with one change in the feed if there is anything to write."""
        if not self._new and not self._touched:
            return
        change = self._unit.change_now("alert")
        for row in self._new.values():
            row["began"] = row["changed"] = change
            self._unit.insert(ALERT, row)
        for row in self._touched.values():
            row["changed"] = change
        _write_states(self._unit, self._touched.values())
        count_events(self._unit, self._counts)

    def _repeat(
        self, known: Mapping[Any, Any], firing: Row | None, given: NewAlert
    ) -> Recorded | OptimizationConflictError:
        """Record an alert whose id is known, or refuse it."""
        for name in CONTENT:
            if known[name] != getattr(given, name):
                return OptimizationConflictError(
                    "alert_id",
                    f"{given.alert_id!r} was sent before with another {name}; give this alert a new id",
                )
        is_over = given.ends_at is not None and given.ends_at <= self._unit.now
        if firing is not None and firing["alert_id"] == known["episode"]:
            is_covered = firing["starts_at"] <= given.at <= firing["last_notified_at"]
            if not is_covered or given.ends_at is not None:
                self._extend(firing, given, firing["latest"])
            return Recorded(firing["alert_id"], began=False, ended=self._ended(firing, given))
        over = self._new.get(known["episode"]) or known
        if firing is None and not is_over and over["resolved_by"] == EndedBy.NOT_REPEATED.value:
            self._revive(known["episode"], given)
        elif not is_over and over["resolved_at"] is not None and given.at > max(over["resolved_at"], known["at"]):
            return OptimizationConflictError(
                "alert_id",
                f"{given.alert_id!r} was resolved at {over['resolved_at']}; give a new alert a new id",
            )
        return Recorded(known["episode"], began=False, ended=False)

    def _revive(self, episode: str, given: NewAlert) -> None:
        """Reopen an episode that was resolved because its alert had not been repeated."""
        found = self._unit.connection.execute(_STATES.where(ALERT.c.alert_id == episode)).mappings().one()
        firing = self._touched.get(episode) or dict(found)
        firing["resolved_at"] = firing["resolved_by"] = None
        self._firing[given.fingerprint] = firing
        self._extend(firing, given, firing["latest"])
        self._add("begun", given.level)

    def _extend(self, firing: Row, given: NewAlert, latest: str) -> None:
        firing["notifications"] += 1
        firing["latest"] = latest
        firing["starts_at"] = min(firing["starts_at"], given.at)
        firing["last_notified_at"] = max(firing["last_notified_at"], given.at)
        firing["ends_at"], firing["expected_end"] = given.ends_at, given.expected_end
        self._touch(firing)

    def _ended(self, firing: Row, given: NewAlert) -> bool:
        """End the episode if the alert says that it is over, and return whether it did."""
        if given.ends_at is None or given.ends_at > self._unit.now or firing["resolved_at"] is not None:
            return False
        self._end(firing, given.ends_at, EndedBy.SOURCE.value)
        return True

    def _end(self, firing: Row, at: str, by: str) -> None:
        firing["resolved_at"], firing["resolved_by"] = at, by
        self._firing.pop(firing["fingerprint"])
        self._touch(firing)
        self._add("resolved", firing["level"])

    def _touch(self, firing: Row) -> None:
        firing["is_open"] = 1
        if firing["alert_id"] not in self._new:
            self._touched[firing["alert_id"]] = firing

    def _add(self, what: str, level: str) -> None:
        key = what, level
        self._counts[key] = self._counts.get(key, 0) + 1


def close_episodes(unit: UnitOfWork, episodes: Sequence[str], cursor: int) -> None:
    """Close resolved episodes that the leader is done with, unless they changed after `cursor`."""
    if not episodes:
        return
    these, values = among(ALERT.c.alert_id, episodes, unit.connection)
    over = these & (ALERT.c.changed <= cursor) & ALERT.c.resolved_at.is_not(None)
    unit.connection.execute(update(ALERT).where(over).values(is_open=0), values)


def count_events(unit: UnitOfWork, counts: Mapping[tuple[str, str], int]) -> None:
    if counts:
        rows = [{"what": what, "name": name, "count": count} for (what, name), count in counts.items()]
        unit.upsert_counts(ALERT_COUNTER, rows)


def verbatim(condition: str, table: str = "alert") -> TextClause:
    """Return the condition of a partial index as SQL text: only a verbatim repetition makes use of the index."""
    return text(" AND ".join(f"{table}.{part}" for part in condition.split(" AND ")))


def among(
    column: ColumnElement[str], values: Iterable[str], connection: Connection
) -> tuple[ColumnElement[bool], dict[str, Any]]:
    """Return the condition that `column` is one of `values`, with a single parameter for any number of values."""
    wanted = list(values)
    if connection.dialect.name == "sqlite":
        listed = select(func.json_each(bindparam("values")).table_valued("value").c.value)
        return column.in_(listed), {"values": to_json(wanted)}
    return column == any_(bindparam("values", type_=ARRAY(Text))), {"values": wanted}


def _row(given: NewAlert, now: str) -> Row:
    """Return the row of an alert that belongs to another's episode. It is spelled out because alert storms are hot."""
    return {
        "alert_id": given.alert_id, "episode": given.alert_id, "fingerprint": given.fingerprint, "labels": given.labels,
        "optimization_id": given.optimization_id, "level": given.level, "title": given.title, "message": given.message,
        "metadata": given.metadata, "at": given.at, "notified_at": now, "is_first": 0, "starts_at": None,
        "ends_at": given.ends_at, "expected_end": given.expected_end, "latest": None, "last_notified_at": None,
        "notifications": 0,
        "resolved_at": None, "resolved_by": None, "acknowledged_at": None, "acknowledged_by": None, "began": 0,
        "changed": 0, "is_open": 0,
    }  # fmt: skip


def _episode(unit: UnitOfWork, alert_id: str) -> Mapping[Any, Any]:
    unit.flush()
    given = ALERT.alias()
    statement = select(ALERT).join_from(ALERT, given, given.c.episode == ALERT.c.alert_id)
    found = unit.connection.execute(statement.where(given.c.alert_id == alert_id)).mappings().first()
    if found is None:
        raise OptimizationNotFoundError(f"there is no alert {alert_id!r}; `o9 alerts list` lists them")
    return found


def _write_states(unit: UnitOfWork, rows: Iterable[Row]) -> None:
    changes = [{"target": row["alert_id"], **{name: row[name] for name in _STATE}} for row in rows]
    if changes:
        unit.update_all(ALERT, changes)


def _ended_by(row: Mapping[Any, Any]) -> str:
    return str((EndedBy.NOT_REPEATED if row["expected_end"] else EndedBy.END_REACHED).value)


_STATES = select(*[ALERT.c[name] for name in ("alert_id", "fingerprint", "level", *_STATE)])
_KNOWN = select(
    *[ALERT.c[name] for name in ("alert_id", "episode", "at", *CONTENT)], STATE_OF.c.resolved_at, STATE_OF.c.resolved_by
).join_from(ALERT, STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode)

"""Alerts as they were received, and the episodes that they make.

Contract. Each id under which an alert was received is kept, with its content, once: the same id with other content
is refused, and sent again it is the same alert. Alerts with equal labels (one fingerprint) that overlap in time are one
episode, which fires until it is resolved, by whichever of its ids, or until its end. Each write that changes episodes
is one change in the feed, of the kind `alert`, and they carry that change's id: the leader reads what is
behind its cursor, by an index. Moments are kept as they were given, also those in the past and in the future. How often
and when the store was notified of an alert are `notifications`, `notified_at` and `last_notified_at`. A batch costs the
same number of statements at any size.
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
    insert,
    select,
    text,
    update,
)

from o9.model.errors import OptimizationConflictError, OptimizationNotFoundError
from o9.store.core.column_types import free_text, to_json
from o9.store.core.reading import rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.schema.alerts import ALERT, ALERT_COUNTER, ENDING, FIRING
from o9.store.schema.optimizations import CHANGE

STATE_OF = ALERT.alias("state")
CONTENT = ("optimization_id", "level", "title", "message", "metadata")


class EndedBy(str, Enum):
    """Who ended an episode where no person did: what `resolved_by` holds then."""

    NOT_REPEATED = "o9:not_repeated"
    END_REACHED = "o9:end_reached"
    SOURCE = "o9:source"


_STATE = (
    "starts_at", "ends_at", "expected_end", "latest", "last_notified_at", "notifications", "resolved_at", "resolved_by",
    "changed", "is_open",
)  # fmt: skip


class NewAlert(NamedTuple):
    """One alert as it is received: texts as they are stored, `labels` and `metadata` as JSON.

    `ends_at`: when it is over, in the past or in the future; None: until it is resolved. `expected_end`: 1 where
    it is over then only if it is not repeated, as of a source that repeats its alerts.
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
    """What became of an alert as it was received: the episode that it belongs to, and whether it began or ended it."""

    episode: str
    began: bool
    ended: bool


@dataclass(frozen=True)
class RaiseAlerts(Operation[list[Recorded | OptimizationConflictError]]):
    """Record a batch, in its order. Answers for each: what became of it, or why it was refused alone."""

    new_alerts: Sequence[NewAlert]

    def apply(self, unit: UnitOfWork) -> list[Recorded | OptimizationConflictError]:
        batch = _Batch(unit, self.new_alerts)
        answers = [batch.take(new) for new in self.new_alerts]
        batch.write()
        return answers


@dataclass(frozen=True)
class ResolveAlert(Operation[bool]):
    """End the episode that this alert belongs to. Answers whether it was still firing.

    Raises OptimizationNotFoundError for an unknown alert.
    """

    alert_id: str
    by: str
    what: ClassVar[str] = "resolved"

    def apply(self, unit: UnitOfWork) -> bool:
        episode = _episode(unit, self.alert_id)
        if episode["resolved_at"] is not None or episode[f"{self.what}_at"] is not None:
            return False
        values = {f"{self.what}_at": unit.now, f"{self.what}_by": free_text(self.by)}
        changed = update(ALERT).where(ALERT.c.alert_id == episode["alert_id"])
        unit.connection.execute(changed.values(changed=write_change(unit, "alert"), is_open=1, **values))
        count_events(unit, {(self.what, episode["level"]): 1})
        return True


@dataclass(frozen=True)
class AcknowledgeAlert(ResolveAlert):
    """Acknowledge the episode that this alert belongs to. Answers whether it was firing and not acknowledged before.

    Raises OptimizationNotFoundError for an unknown alert.
    """

    what: ClassVar[str] = "acknowledged"


@dataclass(frozen=True)
class LapseAlerts(Operation[list[str]]):
    """End the episodes whose end has come. Answers with their ids."""

    def apply(self, unit: UnitOfWork) -> list[str]:
        unit.flush()
        wanted = _STATES.where(literally(ENDING), ALERT.c.ends_at <= unit.now)
        over = rows(unit.connection, wanted)
        if over:
            change = write_change(unit, "alert")
            for row in over:
                row |= {"resolved_at": row["ends_at"], "resolved_by": _ender(row), "changed": change, "is_open": 1}
            _write_states(unit, over)
            count_events(unit, Counter(("resolved", row["level"]) for row in over))
        return [row["alert_id"] for row in over]


class _Batch:
    """The alerts of one batch against what is known: read by three statements, changed in memory, then written."""

    def __init__(self, unit: UnitOfWork, new_alerts: Sequence[NewAlert]) -> None:
        unit.flush()
        self._unit = unit
        connection = unit.connection
        wanted, values = among(ALERT.c.alert_id, {new.alert_id for new in new_alerts}, connection)
        known = connection.execute(_KNOWN.where(wanted), values).mappings()
        self._known: dict[str, Mapping[Any, Any]] = {row["alert_id"]: row for row in known}
        wanted, values = among(ALERT.c.fingerprint, {new.fingerprint for new in new_alerts}, connection)
        firing = connection.execute(_STATES.where(wanted, literally(FIRING)), values).mappings()
        self._firing: dict[str, Row] = {row["fingerprint"]: dict(row) for row in firing}
        self._new: dict[str, Row] = {}
        self._touched: dict[str, Row] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def take(self, given: NewAlert) -> Recorded | OptimizationConflictError:
        known = self._known.get(given.alert_id)
        firing = self._firing.get(given.fingerprint)
        if firing is not None and firing["ends_at"] is not None and firing["ends_at"] <= max(given.at, self._unit.now):
            self._end(firing, firing["ends_at"], _ender(firing))
            firing = None
        if known is not None:
            return self._again(known, firing, given)
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
            self._goes_on(firing, given, given.alert_id)
        self._add("received", given.level)
        self._new[given.alert_id] = self._known[given.alert_id] = row
        return Recorded(row["episode"], began=row is firing, ended=self._ended(firing, given))

    def write(self) -> None:
        """One change in the feed for the whole batch, where it changed anything."""
        if not self._new and not self._touched:
            return
        change = write_change(self._unit, "alert")
        for row in self._new.values():
            row["began"] = row["changed"] = change
            self._unit.insert(ALERT, row)
        for row in self._touched.values():
            row["changed"] = change
        _write_states(self._unit, self._touched.values())
        count_events(self._unit, self._counts)

    def _again(
        self, known: Mapping[Any, Any], firing: Row | None, given: NewAlert
    ) -> Recorded | OptimizationConflictError:
        """Of a known id: the same once more, or refused."""
        for name in CONTENT:
            if known[name] != getattr(given, name):
                return OptimizationConflictError(
                    "alert_id",
                    f"{given.alert_id!r} was sent before with another {name}; give this one an id of its own",
                )
        is_over = given.ends_at is not None and given.ends_at <= self._unit.now
        if firing is not None and firing["alert_id"] == known["episode"]:
            known_so_far = firing["starts_at"] <= given.at <= firing["last_notified_at"]
            if not known_so_far or given.ends_at is not None:
                self._goes_on(firing, given, firing["latest"])
            return Recorded(firing["alert_id"], began=False, ended=self._ended(firing, given))
        over = self._new.get(known["episode"]) or known
        if firing is None and not is_over and over["resolved_by"] == EndedBy.NOT_REPEATED.value:
            self._revive(known["episode"], given)
        elif not is_over and over["resolved_at"] is not None and given.at > max(over["resolved_at"], known["at"]):
            return OptimizationConflictError(
                "alert_id",
                f"{given.alert_id!r} was resolved at {over['resolved_at']}; a new alert needs an id of its own",
            )
        return Recorded(known["episode"], began=False, ended=False)

    def _revive(self, episode: str, given: NewAlert) -> None:
        """It was believed to be over, as it had not been repeated."""
        found = self._unit.connection.execute(_STATES.where(ALERT.c.alert_id == episode)).mappings().one()
        firing = self._touched.get(episode) or dict(found)
        firing["resolved_at"] = firing["resolved_by"] = None
        self._firing[given.fingerprint] = firing
        self._goes_on(firing, given, firing["latest"])
        self._add("begun", given.level)

    def _goes_on(self, firing: Row, given: NewAlert, latest: str) -> None:
        firing["notifications"] += 1
        firing["latest"] = latest
        firing["starts_at"] = min(firing["starts_at"], given.at)
        firing["last_notified_at"] = max(firing["last_notified_at"], given.at)
        firing["ends_at"], firing["expected_end"] = given.ends_at, given.expected_end
        self._touch(firing)

    def _ended(self, firing: Row, given: NewAlert) -> bool:
        """End the episode where the alert says that it is over by now."""
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


def close(unit: UnitOfWork, episodes: Sequence[str], cursor: int) -> None:
    """There is no more to say of these, unless they changed behind `cursor`."""
    if not episodes:
        return
    these, values = among(ALERT.c.alert_id, episodes, unit.connection)
    over = these & (ALERT.c.changed <= cursor) & ALERT.c.resolved_at.is_not(None)
    unit.connection.execute(update(ALERT).where(over).values(is_open=0), values)


def write_change(unit: UnitOfWork, kind: str) -> int:
    """Write a change, and answer with its id: it is larger than all ids that readers have seen."""
    written = insert(CHANGE).values(optimization_id="", kind=kind, at=unit.now)
    key = unit.connection.execute(written).inserted_primary_key
    assert key is not None
    return int(key[0])


def count_events(unit: UnitOfWork, counts: Mapping[tuple[str, str], int]) -> None:
    if counts:
        rows = [{"what": what, "name": name, "count": count} for (what, name), count in counts.items()]
        unit.upsert_counts(ALERT_COUNTER, rows)


def literally(condition: str, table: str = "alert") -> TextClause:
    """What a condition of a partial index says must be there word for word."""
    return text(" AND ".join(f"{table}.{part}" for part in condition.split(" AND ")))


def among(
    column: ColumnElement[str], values: Iterable[str], connection: Connection
) -> tuple[ColumnElement[bool], dict[str, Any]]:
    """A condition and its one parameter, however many values: one statement for batches of all sizes."""
    wanted = list(values)
    if connection.dialect.name == "sqlite":
        listed = select(func.json_each(bindparam("values")).table_valued("value").c.value)
        return column.in_(listed), {"values": to_json(wanted)}
    return column == any_(bindparam("values", type_=ARRAY(Text))), {"values": wanted}


def _row(given: NewAlert, now: str) -> Row:
    """Of one that belongs to an episode; written out, because a storm makes very many."""
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


def _ender(row: Mapping[Any, Any]) -> str:
    return str((EndedBy.NOT_REPEATED if row["expected_end"] else EndedBy.END_REACHED).value)


_STATES = select(*[ALERT.c[name] for name in ("alert_id", "fingerprint", "level", *_STATE)])
_KNOWN = select(
    *[ALERT.c[name] for name in ("alert_id", "episode", "at", *CONTENT)], STATE_OF.c.resolved_at, STATE_OF.c.resolved_by
).join_from(ALERT, STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode)

"""Silences, which mute matching alerts for a time.

Adding or ending one adds a change of the kind `silence` to the feed; the silence carries its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from o9.model.errors import OptimizationError
from o9.store.alerts.episodes import verbatim
from o9.store.core.column_types import free_text, moment, now_text
from o9.store.core.reading import rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.schema.alerts import ACTIVE, SILENCE


@dataclass(frozen=True)
class AddSilence(Operation[None]):
    """Mute alerts that match `matchers` (in Alertmanager's syntax) or `pattern`, from `starts_at` to `ends_at`."""

    silence_id: str
    starts_at: datetime
    ends_at: datetime
    matchers: str = ""
    pattern: str = ""
    author: str = ""
    comment: str = ""

    def apply(self, unit: UnitOfWork) -> None:
        row = {
            "silence_id": self.silence_id, "matchers": self.matchers, "pattern": self.pattern,
            "starts_at": moment(self.starts_at), "ends_at": moment(self.ends_at), "author": free_text(self.author),
            "comment": free_text(self.comment), "created_at": unit.now, "ended_at": None, "ended_by": None,
            "changed": unit.change_now("silence"),
        }  # fmt: skip
        unit.connection.execute(insert(SILENCE).values(**row))


@dataclass(frozen=True)
class EndSilence(Operation[bool]):
    """End a silence early. Returns whether it was in force or still to begin. Raises OptimizationError if unknown."""

    silence_id: str
    by: str

    def apply(self, unit: UnitOfWork) -> bool:
        where = SILENCE.c.silence_id == self.silence_id
        found = unit.connection.execute(select(SILENCE).where(where)).mappings().first()
        if found is None:
            raise OptimizationError(f"there is no silence {self.silence_id!r}; `o9 alerts silence list` lists them")
        if found["ended_at"] is not None or found["ends_at"] <= unit.now:
            return False
        values = {"ended_at": unit.now, "ended_by": free_text(self.by), "changed": unit.change_now("silence")}
        unit.connection.execute(update(SILENCE).where(where).values(**values))
        return True


def silences(connection: Connection) -> list[Row]:
    """Return the silences in force or still to begin, in the order of their ends."""
    statement = (
        select(SILENCE).where(verbatim(ACTIVE, "silence"), SILENCE.c.ends_at > now_text()).order_by(SILENCE.c.ends_at)
    )
    return rows(connection, statement)


def changed_silences(connection: Connection, after: int, limit: int = 1000) -> list[Row]:
    """Return the silences that were added or ended after the change `after`, in order; those ended have `ended_at`."""
    statement = select(SILENCE).where(SILENCE.c.changed > after).order_by(SILENCE.c.changed).limit(limit)
    return rows(connection, statement)

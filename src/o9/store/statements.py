"""Hot statements: compiled by SQLAlchemy once, then executed by the driver alone.

Measured on SQLite: SQLAlchemy's execution costs 60 to 150 µs a statement, the driver's 5 to 20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Engine, Executable, Table, bindparam, insert, select, update

from o9.store import tables
from o9.store.codec import to_json
from o9.store.record import table_of

_PREFECT_STATE = table_of(tables.PrefectState)
_OPTIMIZATION = table_of(tables.Optimization)
# What decisions need; the large texts stay on disk.
_WORKING = [
    _OPTIMIZATION.c[name]
    for name in (
        "optimization_id", "optimization_type", "strategy", "status", "priority", "created_at", "updated_at",
        "started_at", "total_steps", "completed_steps", "performance_improvement", "execution_time", "content_hash",
        "max_attempts", "intent", "running_since", "attempt", "deaths", "fence", "version", "lease_node",
        "lease_expires_at", "unmet", "dependents", "parked_run_id", "prefect_state_at", "queue_key", "waited_seconds",
        "family",
    )
]  # fmt: skip
WORKING_NAMES = tuple(column.name for column in _WORKING)


class Statement(NamedTuple):
    """SQL for the driver; `bind` makes its parameters of a row."""

    sql: str
    bind: Callable[[dict[str, Any]], Any]


class Statements:
    """The hot statements of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        self._inserts: dict[tuple[str, bool, tuple[str, ...]], Statement] = {}
        self._updates: dict[tuple[str, ...], Statement] = {}
        self._others: dict[Executable, Statement] = {}
        working, mine = select(*_WORKING), _OPTIMIZATION.c.optimization_id == bindparam("target")
        self.select_one = self._compile(working.where(mine))
        sqlite = engine.dialect.name == "sqlite"
        # One text or one array, however many ids: one statement for groups of all sizes.
        some = "IN (SELECT value FROM json_each(?))" if sqlite else "= ANY(%s)"
        self.select_some = f"{self._compile(working).sql} WHERE optimization.optimization_id {some}"
        self.as_list: Callable[[list[str]], Any] = to_json if sqlite else list
        self.known_state = self._compile(
            select(_PREFECT_STATE.c.state_id).where(_PREFECT_STATE.c.state_id == bindparam("target"))
        )

    def insert(self, table: Table, columns: tuple[str, ...], ignore_known: bool) -> Statement:
        key = (table.name, ignore_known, columns)
        if key not in self._inserts:
            sql, bind = self._compile(insert(table), columns)
            self._inserts[key] = Statement(sql + " ON CONFLICT DO NOTHING" if ignore_known else sql, bind)
        return self._inserts[key]

    def update(self, columns: tuple[str, ...]) -> Statement:
        """Sets `columns` of the optimization whose id is in `target`, which is among them."""
        if columns not in self._updates:
            statement = update(_OPTIMIZATION).where(_OPTIMIZATION.c.optimization_id == bindparam("target"))
            self._updates[columns] = self._compile(statement, [name for name in columns if name != "target"])
        return self._updates[columns]

    def compiled(self, statement: Executable) -> Statement:
        """One that somebody else made, and keeps."""
        if statement not in self._others:
            self._others[statement] = self._compile(statement)
        return self._others[statement]

    def upsert_counts(self, table: Table, columns: tuple[str, ...]) -> Statement:
        sql, bind = self.insert(table, columns, False)
        key = ", ".join(column.name for column in table.primary_key)
        return Statement(f"{sql} ON CONFLICT ({key}) DO UPDATE SET count = {table.name}.count + excluded.count", bind)

    def upsert(self, table: Table, columns: tuple[str, ...]) -> Statement:
        sql, bind = self.insert(table, columns, False)
        key = [column.name for column in table.primary_key]
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        return Statement(f"{sql} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}", bind)

    def _compile(self, statement: Any, columns: Sequence[str] | None = None) -> Statement:
        compiled = statement.compile(dialect=self._dialect, column_keys=columns)
        names: Sequence[str] | None = compiled.positiontup if compiled.positional else None
        if names is None:
            return Statement(str(compiled), lambda row: row)
        if len(names) == 1:
            return Statement(str(compiled), lambda row: (row[names[0]],))
        return Statement(str(compiled), itemgetter(*names) if names else lambda row: ())

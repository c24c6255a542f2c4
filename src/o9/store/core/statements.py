"""Hot statements: compiled once by SQLAlchemy, then executed by the driver.

Measured on SQLite, SQLAlchemy takes 60 to 150 µs to execute a statement, the driver 5 to 20. Rows are combined into few
statements for SQLite, because its driver releases the interpreter lock for each one: beside a busy Python thread, each
row of `executemany` waits 5 ms to get it back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Engine, Executable, Table, bindparam, insert, select, update

from o9.store.core.column_types import to_json
from o9.store.schema.optimizations import OPTIMIZATION

# The columns that decisions need, without the large texts.
_WORKING = [
    OPTIMIZATION.c[name]
    for name in (
        "optimization_id", "optimization_type", "strategy", "status", "priority", "created_at", "updated_at",
        "started_at", "total_steps", "completed_steps", "performance_improvement", "execution_time", "content_hash",
        "max_attempts", "intent", "running_since", "attempt", "deaths", "fence", "version", "lease_node",
        "lease_expires_at", "unmet", "dependents", "suspended_run_id", "prefect_state_at", "queue_key",
        "waited_seconds", "family", "deployment_id", "rejections",
    )
]  # fmt: skip
WORKING_NAMES = tuple(column.name for column in _WORKING)
ROWS_AT_ONCE = (256, 128, 64, 32, 16, 8, 4, 2)
MANY_SINCE = (3, 33)  # the SQLite release that has UPDATE … FROM and allows 32,766 parameters


@dataclass(slots=True, eq=False)
class Statement:
    """SQL for the driver. `bind` makes parameters from a row; `several` has SQL for several rows, by their number."""

    sql: str
    bind: Callable[[dict[str, Any]], Any]
    several: Sequence[tuple[int, str]] = ()

    def run(self, cursor: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Execute the statement for all rows, in order."""
        if len(rows) == 1:
            cursor.execute(self.sql, self.bind(rows[0]))
            return
        bound, done = list(map(self.bind, rows)), 0
        for size, sql in self.several:
            while len(bound) - done >= size:
                cursor.execute(sql, list(chain.from_iterable(bound[done : done + size])))
                done += size
        if done < len(bound):
            cursor.executemany(self.sql, bound[done:])


class Statements:
    """The hot statements of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        self._kept: dict[tuple[str, str, tuple[str, ...]], Statement] = {}
        self._others: dict[Executable, Statement] = {}
        working, mine = select(*_WORKING), OPTIMIZATION.c.optimization_id == bindparam("target")
        self.select_one = self._compile(working.where(mine))
        sqlite = engine.dialect.name == "sqlite"
        # A single parameter for any number of ids.
        some = "IN (SELECT value FROM json_each(?))" if sqlite else "= ANY(%s)"
        self.select_some = f"{self._compile(working).sql} WHERE optimization.optimization_id {some}"
        self.as_list: Callable[[list[str]], Any] = to_json if sqlite else list

    def insert(self, table: Table, columns: tuple[str, ...], ignore_known: bool) -> Statement:
        return self._insert(table, columns, " ON CONFLICT DO NOTHING" if ignore_known else "")

    def upsert_counts(self, table: Table, columns: tuple[str, ...]) -> Statement:
        key = ", ".join(column.name for column in table.primary_key)
        counted = f"count = {table.name}.count + excluded.count"
        return self._insert(table, columns, f" ON CONFLICT ({key}) DO UPDATE SET {counted}")

    def upsert(self, table: Table, columns: tuple[str, ...]) -> Statement:
        key = [column.name for column in table.primary_key]
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        return self._insert(table, columns, f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}")

    def update(self, table: Table, columns: tuple[str, ...]) -> Statement:
        """Return the statement that sets `columns` of the rows whose keys are `target`, which must be distinct."""
        key = (table.name, "update", columns)
        if key not in self._kept:
            (mine,) = table.primary_key
            changed = [name for name in columns if name != "target"]
            one = self._compile(update(table).where(mine == bindparam("target")), changed)
            # SQLAlchemy sets columns in the order of the table.
            ordered = [column.name for column in table.columns if column.name in changed]
            settings = ", ".join(f"{name} = v.column{number}" for number, name in enumerate(ordered, 1))
            row, target = ", ".join("?" * (len(ordered) + 1)), f"{table.name}.{mine.name} = v.column{len(ordered) + 1}"
            self._kept[key] = self._for_many(
                one, f"UPDATE {table.name} SET {settings} FROM (VALUES ", f"({row})", f") AS v WHERE {target}"
            )
        return self._kept[key]

    def compiled(self, statement: Executable) -> Statement:
        """Return a statement compiled; it is kept under the caller's object, which must be made once."""
        if statement not in self._others:
            self._others[statement] = self._compile(statement)
        return self._others[statement]

    def _insert(self, table: Table, columns: tuple[str, ...], on_conflict: str) -> Statement:
        key = (table.name, on_conflict, columns)
        if key not in self._kept:
            plain = self._compile(insert(table).inline(), columns)  # no one asks for the new row's id
            head, values, row = plain.sql.rpartition("VALUES ")
            self._kept[key] = self._for_many(
                Statement(plain.sql + on_conflict, plain.bind), head + values, row, on_conflict
            )
        return self._kept[key]

    def _for_many(self, one: Statement, before: str, row: str, after: str) -> Statement:
        """Add the SQL for several rows if the database benefits from it."""
        if self._dialect.name != "sqlite" or sqlite3.sqlite_version_info < MANY_SINCE:
            return one
        several = [(size, before + ", ".join([row] * size) + after) for size in ROWS_AT_ONCE]
        return Statement(one.sql, one.bind, several)

    def _compile(self, statement: Any, columns: Sequence[str] | None = None) -> Statement:
        compiled = statement.compile(dialect=self._dialect, column_keys=columns)
        names: Sequence[str] | None = compiled.positiontup if compiled.positional else None
        if names is None:
            return Statement(str(compiled), lambda row: row)
        if len(names) == 1:
            return Statement(str(compiled), lambda row: (row[names[0]],))
        return Statement(str(compiled), itemgetter(*names) if names else lambda row: ())

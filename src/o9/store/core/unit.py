"""The unit of work: rows of one transaction, read once, changed in memory, and written by a few statements at its end.

A write is an `Operation`. Its `apply` decides first and changes afterwards, so that one that raises changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Executable, Table, insert

from o9.model.errors import OptimizationNotFoundError
from o9.store.core.column_types import now_text
from o9.store.core.statements import WORKING_NAMES, Statements
from o9.store.schema.optimizations import CHANGE, OPTIMIZATION

Row = dict[str, Any]
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
# Called before an optimization's columns change, and may add changes; called before COMMIT, and writes a unit's parts.
Hooks = tuple[Callable[["UnitOfWork", Row, Row], None], Callable[["UnitOfWork"], None]]


class Operation(Protocol[R_co]):
    """One write. `targets` are the optimizations whose rows `apply` reads through `unit.row`."""

    @property
    def targets(self) -> tuple[str, ...]:
        return ()

    def apply(self, unit: UnitOfWork) -> R_co:
        """Decide, then change through `unit`. Raise only before the first change."""


class OnOptimization(Operation[R_co], Protocol[R_co]):
    """A write to one optimization."""

    optimization_id: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.optimization_id,)


class UnitOfWork:
    """One transaction. `now` is its time; `connection` runs statements of an operation's own."""

    def __init__(self, connection: Connection, cursor: Any, statements: Statements, hooks: Hooks) -> None:
        """`cursor` is the driver's cursor of `connection`, for hot statements."""
        self._changing, self._finishing = hooks
        self.connection = connection
        self._cursor = cursor
        self.now = now_text()
        self._statements = statements
        self._rows: dict[str, Row | None] = {}
        self._changed: dict[str, Row] = {}
        self._inserts: dict[tuple[str, bool], tuple[Table, list[Row]]] = {}
        self._parts: dict[type, Any] = {}

    def read_ahead(self, optimization_ids: set[str]) -> None:
        """Read the rows that operations will ask for, in one statement."""
        self._cursor.execute(self._statements.select_some, (self._statements.as_list(sorted(optimization_ids)),))
        self._rows = dict.fromkeys(optimization_ids)
        for found in self._cursor.fetchall():
            self._rows[found[0]] = dict(zip(WORKING_NAMES, found, strict=False))

    def row(self, optimization_id: str) -> Row | None:
        """Return an optimization's working columns, with this unit's changes so far; None if there is none."""
        if optimization_id not in self._rows:
            self._statements.select_one.run(self._cursor, [{"target": optimization_id}])
            found = self._cursor.fetchone()
            self._rows[optimization_id] = None if found is None else dict(zip(WORKING_NAMES, found, strict=False))
        return self._rows[optimization_id]

    def existing(self, optimization_id: str) -> Row:
        """Return the same as `row`. Raises OptimizationNotFoundError."""
        row = self.row(optimization_id)
        if row is None:
            raise OptimizationNotFoundError(f"there is no optimization {optimization_id!r}; `o9 list` lists them")
        return row

    def part(self, kind: type[T]) -> T:
        """Return this unit's instance of `kind`, in which an area collects what it writes at the end."""
        if kind not in self._parts:
            self._parts[kind] = kind()
        found: T = self._parts[kind]
        return found

    def update(self, row: Row, **changes: Any) -> None:
        """Change columns of an optimization. Its version rises by one in each unit that changes it."""
        target = row["optimization_id"]
        self._changing(self, row, changes)
        changed = self._changed.get(target)
        if changed is None:
            changes["version"] = row["version"] + 1
            changes["updated_at"] = self.now
            self._changed[target] = {"target": target, **changes}
        else:
            changed.update(changes)
        row.update(changes)

    def insert(self, table: Table, row: Row, ignore_known: bool = False) -> None:
        self._inserts.setdefault((table.name, ignore_known), (table, []))[1].append(row)

    def create(self, row: Row) -> None:
        """Insert an optimization, which later operations of the unit may change."""
        self.insert(OPTIMIZATION, row)
        self._rows[row["optimization_id"]] = {name: row[name] for name in WORKING_NAMES}

    def forget(self, optimization_id: str) -> None:
        """Treat an optimization as deleted for the rest of the unit."""
        self._rows[optimization_id] = None
        self._changed.pop(optimization_id, None)

    def run(self, statement: Executable, parameters: Row) -> Any:
        """Run a statement that is built once for all units, at the driver's speed. Returns the cursor."""
        self._statements.compiled(statement).run(self._cursor, [parameters])
        return self._cursor

    def change(self, optimization_id: str, kind: str) -> None:
        """Add a change to the feed, at the end of the unit."""
        self.insert(CHANGE, {"optimization_id": optimization_id, "kind": kind, "at": self.now})

    def change_now(self, kind: str, optimization_id: str = "", data: str | None = None) -> int:
        """Add a change to the feed at once. Returns its id, which is larger than every id that readers have seen."""
        row: Row = {"optimization_id": optimization_id, "kind": kind, "at": self.now, "data": data}
        key = self.connection.execute(insert(CHANGE).values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def finish(self) -> None:
        """Write all that is pending, before COMMIT."""
        self.flush()
        self._finishing(self)

    def flush(self) -> None:
        """Write pending rows; needed before an operation's own statement reads the tables."""
        self._write_inserts()
        by_columns: dict[tuple[str, ...], list[Row]] = {}
        for changes in self._changed.values():
            by_columns.setdefault(tuple(changes), []).append(changes)
        self._changed = {}
        for columns, rows in by_columns.items():
            self._statements.update(OPTIMIZATION, columns).run(self._cursor, rows)

    def upsert_counts(self, table: Table, rows: list[Row]) -> None:
        """Insert rows, or add their `count` to the rows of the same key."""
        self._statements.upsert_counts(table, tuple(rows[0])).run(self._cursor, rows)

    def upsert(self, table: Table, rows: list[Row]) -> None:
        """Insert rows, or update the rows of the same key, at once."""
        self._statements.upsert(table, tuple(rows[0])).run(self._cursor, rows)

    def update_all(self, table: Table, rows: list[Row]) -> None:
        """Change columns of the rows whose key is `target`; no two rows may have the same one."""
        self._statements.update(table, tuple(rows[0])).run(self._cursor, rows)

    def _write_inserts(self) -> None:
        pending, self._inserts = self._inserts, {}
        # New optimizations first: other rows refer to them.
        for (_, ignore_known), (table, rows) in sorted(
            pending.items(), key=lambda each: each[1][0] is not OPTIMIZATION
        ):
            self._statements.insert(table, tuple(rows[0]), ignore_known).run(self._cursor, rows)

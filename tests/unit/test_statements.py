"""Hot statements for many rows have the same effect as for each row alone, for any number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine, select, text

from o9.store.core.statements import ROWS_AT_ONCE, Statement, Statements

ITEM = Table(
    "item", MetaData(), Column("name", String, primary_key=True), Column("note", String), Column("count", Integer)
)
LINE = Table("line", ITEM.metadata, Column("id", Integer, primary_key=True), Column("text", String))
NUMBERS = sorted({1, 3, 1_100, *(size + more for size in ROWS_AT_ONCE for more in (-1, 0, 1))} - {0})
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    ITEM.metadata.create_all(made)
    yield made
    made.dispose()


def run(
    engine: Engine, statement: Statement, rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] = ()
) -> Rows:
    """Run the statement, and return the rows of both tables."""
    with engine.connect() as connection:
        for table in (ITEM, LINE):
            connection.execute(table.delete())
        if before:
            connection.execute(ITEM.insert(), list(before))
        driver = connection.connection.driver_connection
        assert driver is not None
        statement.run(driver.cursor(), rows)
        tables = (ITEM, LINE)
        return [
            dict(row)
            for table in tables
            for row in connection.execute(select(table).order_by(text("rowid"))).mappings()
        ]


def items(number: int) -> Rows:
    return [{"name": f"项 {n}", "note": None if n % 7 == 0 else f"n{n}", "count": n} for n in range(number)]


@pytest.mark.parametrize("number", NUMBERS)
def test_rows_are_inserted_in_order(engine: Engine, number: int) -> None:
    statement = Statements(engine).insert(LINE, ("text",), ignore_known=False)
    assert [row["text"] for row in run(engine, statement, [{"text": f"t{n}"} for n in range(number)])] == [
        f"t{n}" for n in range(number)
    ]


@pytest.mark.parametrize("number", NUMBERS)
def test_known_rows_are_not_changed(engine: Engine, number: int) -> None:
    statement = Statements(engine).insert(ITEM, ("name", "note", "count"), ignore_known=True)
    known = [row | {"note": "old", "count": -1} for row in items(number)[::3]]
    expected = {row["name"]: row for row in [*items(number), *known]}
    found = run(engine, statement, items(number), known)
    assert {row["name"]: row for row in found} == expected
    assert len(found) == number


@pytest.mark.parametrize("number", NUMBERS)
def test_each_row_is_updated_with_its_own_values(engine: Engine, number: int) -> None:
    statement = Statements(engine).update(ITEM, ("count", "target", "note"))  # in any order
    changes = [
        {"count": 2 * row["count"], "target": row["name"], "note": f"new {row['name']}"} for row in items(number)
    ]
    found = run(engine, statement, changes, [*items(number), {"name": "other", "note": "kept", "count": 1}])
    assert found == [
        *({"name": each["target"], "note": each["note"], "count": each["count"]} for each in changes),
        {"name": "other", "note": "kept", "count": 1},
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=700))
def test_upserts_of_many_rows_equal_those_of_single_rows(engine: Engine, pairs: list[tuple[int, int]]) -> None:
    """Also if a key occurs several times."""
    statements, columns = Statements(engine), ("name", "note", "count")
    rows = [{"name": f"k{key}", "note": str(place), "count": count} for place, (key, count) in enumerate(pairs)]
    for statement in (statements.upsert(ITEM, columns), statements.upsert_counts(ITEM, columns)):
        alone = Statement(statement.sql, statement.bind)
        assert run(engine, statement, rows) == run(engine, alone, rows)

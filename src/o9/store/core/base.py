"""What all tables of the record have in common."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.orm import registry
from sqlmodel import AutoString, SQLModel

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
SERIAL = BigInteger().with_variant(Integer, "sqlite")


class Record(SQLModel, registry=registry()):
    """The base of all tables; a registry of our own, because users have SQLModel tables called `trial` too."""


metadata: MetaData = Record.metadata


def table_of(model: type[SQLModel]) -> Table:
    """The SQLAlchemy table behind `model`."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows for which `where` holds, used by statements that have `where` word for word."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def unbounded_texts() -> None:
    """Give the texts of all tables declared so far no limit, unlike SQLModel's VARCHAR."""
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, AutoString):
                column.type = Text()

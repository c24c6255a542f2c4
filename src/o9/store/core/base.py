"""What all tables of the record have in common."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.orm import registry
from sqlmodel import AutoString, SQLModel

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
SERIAL = BigInteger().with_variant(Integer, "sqlite")
WHERE = "where"  # in the info of a partial index: its condition


class Record(SQLModel, registry=registry()):
    """The base of all tables; a registry of our own, because users have SQLModel tables called `trial` too."""

    model_config = {"defer_build": True}  # rows are written by statements: nothing validates with them


metadata: MetaData = Record.metadata


def table_of(model: type[SQLModel]) -> Table:
    """The SQLAlchemy table behind `model`."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows for which `where` holds, used by statements that have `where` word for word."""
    return Index(name, *columns, unique=unique, info={WHERE: where})


def apply_conditions(dialect: str) -> None:
    """Give the partial indexes their conditions. Only where tables are made: it loads all of this dialect."""
    for table in metadata.tables.values():
        for index in table.indexes:
            if WHERE in index.info:
                index.dialect_options[dialect]["where"] = text(index.info[WHERE])


def unbounded_texts() -> None:
    """Give the texts of all tables declared so far no limit, unlike SQLModel's VARCHAR."""
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, AutoString):
                column.type = Text()

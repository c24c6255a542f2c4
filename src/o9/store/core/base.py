"""The base class, types and indexes of all tables."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.orm import registry
from sqlmodel import AutoString, SQLModel

# SQLite numbers rows only in a column whose type is exactly INTEGER.
SERIAL = BigInteger().with_variant(Integer, "sqlite")
WHERE = "where"  # key of a partial index's condition in its info


class Record(SQLModel, registry=registry()):
    """The base of all tables. It has its own registry, because users may have SQLModel tables called `trial` too."""

    model_config = {"defer_build": True}  # rows are written by statements, so nothing is validated


metadata: MetaData = Record.metadata


def table_of(model: type[SQLModel]) -> Table:
    """Return the SQLAlchemy table of `model`."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index of the rows that match `where`. Only statements that repeat `where` verbatim use it."""
    return Index(name, *columns, unique=unique, info={WHERE: where})


def apply_conditions(dialect: str) -> None:
    """Set the conditions of the partial indexes, before tables are created. This imports the whole dialect."""
    for table in metadata.tables.values():
        for index in table.indexes:
            if WHERE in index.info:
                index.dialect_options[dialect]["where"] = text(index.info[WHERE])


def unbounded_texts() -> None:
    """Make the text columns of all tables declared so far TEXT instead of SQLModel's VARCHAR."""
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, AutoString):
                column.type = Text()

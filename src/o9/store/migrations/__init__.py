"""Alembic migrations of the store. The newest revision is last; a store at any other is upgraded when opened."""

VERSION_TABLE = "o9_schema"
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
HEAD = REVISIONS[-1]

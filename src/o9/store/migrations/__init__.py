"""The schema's revisions. A new store is created from the tables; Alembic upgrades one at an earlier revision."""

VERSION_TABLE = "o9_schema"
REVISIONS = ("0001",)  # oldest first
HEAD = REVISIONS[-1]

"""The schema's revisions. A new store is made from the tables; one at an earlier revision is upgraded by Alembic."""

VERSION_TABLE = "o9_schema"
REVISIONS = ("0001",)  # oldest first
HEAD = REVISIONS[-1]

"""The first schema, which `o9.store.schema` made: where upgrades begin."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Never run: a new store is made from the tables."""

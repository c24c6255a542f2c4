"""The first schema, from which upgrades begin."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Do nothing: a new store is created from the tables."""

"""Alert rules: how they stand to what they look at, and how far they have read."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "rule_standing",
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("rule", "subject", "standing")],
        sa.PrimaryKeyConstraint("rule", "subject"),
    )
    op.create_table(
        "read_up_to",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", _SERIAL, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )

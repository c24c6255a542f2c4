"""By what a writer on PostgreSQL tells whether a COMMIT that got no answer has happened."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "writer",
        sa.Column("id", sa.Text(), nullable=False, primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )

"""What nodes tell each other, how far each has read it, and nodes that are registered by hand."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("change", sa.Column("data", sa.Text(), nullable=True))
    op.create_table(
        "expected_node",
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("node_id", "info", "at")],
        sa.PrimaryKeyConstraint("node_id"),
    )
    if op.get_bind().dialect.name != "sqlite":  # whose integers have 64 bits
        op.alter_column("node", "cursor", type_=sa.BigInteger(), existing_nullable=False)

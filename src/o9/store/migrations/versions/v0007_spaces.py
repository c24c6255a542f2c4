"""What each attempt searched; of the attempts before this it is not known."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("provenance", sa.Column("search_space", sa.Text(), nullable=False, server_default=""))

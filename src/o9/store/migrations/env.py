"""Alembic's entry: the connection was configured by `run.run_migrations`, which also owns the transaction."""

from alembic import context

context.run_migrations()

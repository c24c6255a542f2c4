"""Alembic's entry point. `run.run_migrations` configures the connection and owns the transaction."""

from alembic import context

context.run_migrations()

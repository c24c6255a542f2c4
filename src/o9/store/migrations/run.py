"""Run the migrations on a connection that is already inside a transaction."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from o9.store.migrations import HEAD, VERSION_TABLE


def run_migrations(connection: Connection) -> None:
    """Bring the schema to the newest revision; the caller commits or rolls back the whole."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: object, _context: object) -> list[object]:
        return list(scripts._upgrade_revs(HEAD, revision))  # type: ignore[arg-type]

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()

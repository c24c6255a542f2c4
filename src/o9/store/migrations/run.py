"""Upgrading a store to the newest revision, and creating the tables of a new one."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert

from o9.store.core.base import apply_conditions, metadata
from o9.store.migrations import HEAD, VERSION_TABLE
from o9.store.schema import alerts, optimizations, statistics  # noqa: F401  (they declare the tables)

VERSIONS = Path(__file__).parent / "versions"
_VERSION = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))  # as Alembic has it


def create_tables(connection: Connection) -> None:
    """Create a new store in the caller's transaction."""
    apply_conditions(connection.dialect.name)
    metadata.create_all(connection, checkfirst=False)
    _VERSION.create(connection, checkfirst=False)
    connection.execute(insert(_VERSION).values(version_num=HEAD))


def run_migrations(connection: Connection) -> None:
    """Run the migrations from the store's revision to the newest one, in the caller's transaction."""
    from alembic.config import Config  # here, because importing Alembic takes 0.2 s
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_locations", str(VERSIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: object, _context: object) -> list[object]:
        return list(scripts._upgrade_revs(HEAD, revision))  # type: ignore[arg-type]

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()

"""`db upgrade`, `db check`, `db backup`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from o9.cli.console import say, write_json
from o9.cli.failures import DONE, ERROR
from o9.cli.open_store import existing_store, existing_url
from o9.store.core.engine import parse_url, schema_revision


def upgrade_store(url: str | None, *, as_json: bool) -> int:
    before = _revision(url)
    with existing_store(url) as store:  # opening brings it up to date
        after, name = store.schema(), store.name
    if as_json:
        write_json({"store": name, "before": before, "after": after})
    elif before == after:
        print(f"{name} is at schema {after} already")
    else:
        print(f"{name} was brought from schema {before or 'none'} to {after}")
    return DONE


def check_store(url: str | None, *, as_json: bool) -> int:
    with existing_store(url) as store:
        findings, name = store.check(), store.name
    if as_json:
        write_json({"store": name, "findings": findings})
    elif not findings:
        print(f"{name}: ok")
    else:
        print("\n".join([f"{name}: damaged", *(f"  {finding}" for finding in findings)]))
        say("restore a backup, or copy what can be read: sqlite3 STORE .recover")
    return ERROR if findings else DONE


def backup_store(url: str | None, path: Path, *, as_json: bool) -> int:
    with existing_store(url) as store:
        store.backup(str(path))
        name = store.name
    size = path.stat().st_size
    if as_json:
        write_json({"store": name, "backup": str(path), "bytes": size})
    else:
        print(f"{name} was copied to {path} ({size:,} bytes)")
    return DONE


def _revision(url: str | None) -> str | None:
    """The schema before it is opened; None where that cannot be told, which opening will explain."""
    engine = create_engine(parse_url(existing_url(url)))
    try:
        with engine.connect() as connection:
            return schema_revision(connection)
    except DBAPIError:
        return None
    finally:
        engine.dispose()

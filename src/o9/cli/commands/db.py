"""`db upgrade`, `db check`, `db backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from o9.cli.console import say, write_json
from o9.cli.failures import DONE, ERROR
from o9.cli.open_store import existing_store, existing_url, revision_of
from o9.cli.options import Json, StoreUrl


def upgrade(store: StoreUrl = None, json: Json = False) -> int:
    try:
        before = revision_of(existing_url(store))
    except DBAPIError:  # opening it explains that
        before = None
    with existing_store(store) as opened:  # opening brings it up to date
        after, name = opened.schema(), opened.name
    if json:
        write_json({"store": name, "before": before, "after": after})
    elif before == after:
        print(f"{name} is at schema {after} already")
    else:
        print(f"{name} was brought from schema {before or 'none'} to {after}")
    return DONE


def check(store: StoreUrl = None, json: Json = False) -> int:
    with existing_store(store) as opened:
        findings, name = opened.check(), opened.name
    if json:
        write_json({"store": name, "findings": findings})
    elif not findings:
        print(f"{name}: ok")
    else:
        print("\n".join([f"{name}: damaged", *(f"  {finding}" for finding in findings)]))
        say("restore a backup, or copy what can be read: sqlite3 STORE .recover")
    return ERROR if findings else DONE


def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The new file.")],
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    with existing_store(store) as opened:
        opened.backup(str(path))
        name = opened.name
    size = path.stat().st_size
    if json:
        write_json({"store": name, "backup": str(path), "bytes": size})
    else:
        print(f"{name} was copied to {path} ({size:,} bytes)")
    return DONE

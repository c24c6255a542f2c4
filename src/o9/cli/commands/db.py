"""`db upgrade`, `db check`, `db backup` and `db prune`. Nothing here imports Prefect.

Contract of `prune`. It says what it will delete, and deletes it only after a yes: `--yes`, or an answer on a terminal.
It may be interrupted at any moment; the next one deletes the rest.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.failures import DONE, ERROR, Interrupted, help_only
from o9.cli.options import Json, StoreUrl, days_above_zero
from o9.model.errors import OptimizationError

if not help_only:
    from sqlalchemy.exc import DBAPIError

    from o9.cli.console import answer, messages, say, write_json
    from o9.cli.open_store import existing_store, existing_url, revision_of, size_of, sqlite_path, store_url
    from o9.lifecycle import retention
    from o9.lifecycle.retention import Removed, horizon
    from o9.model.optimization import utc_now
    from o9.model.settings import settings
    from o9.store import queries
    from o9.store.alerts.pruning import PrunedAlerts
    from o9.store.optimizations.pruning import PrunePreview
    from o9.store.store import Store
    from o9.text.format import count, local_moment, percent


def upgrade(store: StoreUrl = None, json: Json = False) -> None:
    try:
        before = revision_of(existing_url(store))
    except DBAPIError:  # opening it below reports the error
        before = None
    with existing_store(store) as opened:  # opening upgrades it
        after, name = opened.schema(), opened.name
    already = f"{name} is already at schema {after}"
    text = already if before == after else f"{name} was upgraded from schema {before or 'none'} to {after}"
    answer({"store": name, "before": before, "after": after}, text, as_json=json)


def check(store: StoreUrl = None, json: Json = False) -> int:
    with existing_store(store) as opened:
        findings, name = opened.check(), opened.name
    lines = [f"{name}: {'damaged' if findings else 'ok'}", *(f"  {finding}" for finding in findings)]
    answer({"store": name, "findings": findings}, "\n".join(lines), as_json=json)
    if findings:
        say("restore a backup, or copy what can be read: sqlite3 STORE .recover")
    return ERROR if findings else DONE


def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Path of the new file.")],
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    with existing_store(store) as opened:
        opened.backup(str(path))
        name, size = opened.name, path.stat().st_size
    document = {"store": name, "backup": str(path), "bytes": size}
    answer(document, f"{name} was copied to {path} ({size:,} bytes)", as_json=json)


def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS",
            callback=days_above_zero,
            help="Delete what ended at least DAYS days ago.  [env: O9_RETENTION_DAYS]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Return free space to the disk (SQLite only); locks the store meanwhile.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Deletes ended optimizations with all their data, and resolved alerts. Counts, statistics and the number of
    trials in a family are kept. Prints what will be deleted and asks for confirmation. Other programs may use the store
    meanwhile.
    """
    days = settings().retention_days if older_than is None else older_than
    if not days:
        raise OptimizationError("no age given: use --older-than DAYS, or set O9_RETENTION_DAYS")
    if dry_run and vacuum:
        raise typer.BadParameter("--dry-run deletes nothing: omit --vacuum")
    path = sqlite_path(store_url(store))
    if vacuum and path is None:
        raise typer.BadParameter("--vacuum is for SQLite; PostgreSQL frees space by itself (autovacuum)")
    before = horizon(days, utc_now(), "--older-than" if older_than is not None else "O9_RETENTION_DAYS")
    with existing_store(store) as opened:
        outlook, alerts = opened.read(queries.prunable, before), opened.read(queries.prunable_alerts, before)
        size = size_of(path)
        if not json:
            print("\n".join(_plan(outlook, alerts, before)), file=sys.stdout if dry_run else sys.stderr)
        if (outlook.optimizations or _counts_of(alerts)) and not (yes or dry_run):
            if not sys.stdin.isatty():
                raise typer.BadParameter("no terminal to confirm on: use --yes to delete, or --dry-run for a preview")
            if not typer.confirm("Delete them permanently?", err=True):
                say("nothing was deleted")
                return
        removed = None if dry_run else _pruned(opened, before)
        if vacuum:
            opened.vacuum()
    size_now = size_of(path)
    if json:
        write_json({
            "store": opened.name, "older_than_days": days, "before": before,
            "optimizations": outlook.optimizations, "by_status": outlook.by_status,
            "first_ended": outlook.first_ended, "last_ended": outlook.last_ended,
            "kept": {why.name.lower(): count for why, count in outlook.kept.items()},
            **{name: getattr(alerts, name) for name in _ALERTS},
            "deleted": removed.figures() if removed else None, "bytes_before": size, "bytes": size_now,
        })  # fmt: skip
    elif removed is not None:
        print(
            f"deleted: {removed.optimizations:,} optimizations with {removed.rows:,} rows of data, "
            f"{_counts_of(removed) or 'no alerts'}, and {removed.changes:,} entries of the change feed"
        )
        if vacuum:
            say(f"the file went from {size:,} to {size_now:,} bytes")


_ALERTS = {
    "alerts": "alert", "notices": "message", "suppressed": "suppressed notification", "silences": "silence",
}  # fmt: skip


def _plan(outlook: PrunePreview, alerts: PrunedAlerts, before: str) -> Iterator[str]:
    """What would be deleted, what is kept, and why."""
    when = f"ended before {local_moment(before)}"
    if outlook.optimizations:
        statuses = ", ".join(f"{count:,} {status}" for status, count in outlook.by_status.items())
        ends = f"from {local_moment(outlook.first_ended)} to {local_moment(outlook.last_ended)}"
        yield f"{outlook.optimizations:,} optimizations that {when}: {statuses}; they ended {ends}"
        yield "all their data is deleted permanently; `o9 db backup PATH` makes a copy first"
    else:
        yield f"nothing to delete: no optimization {when}"
    if counts := _counts_of(alerts):
        yield f"of alerts resolved by then: {counts}"
    for why, number in outlook.kept.items():
        yield f"kept: {number:,}: {why.value}"


def _counts_of(alerts: PrunedAlerts | Removed) -> str:
    """Empty if there are none."""
    return ", ".join(count(number, one) for name, one in _ALERTS.items() if (number := getattr(alerts, name)))


def _pruned(store: Store, before: str) -> Removed:
    from o9.health.statistics.pruned import sharpe_ratios_of

    with messages().status("deleting") as status:

        async def progress(share: float) -> None:
            status.update(f"deleting: {percent(share)}")

        try:
            return asyncio.run(retention.prune(store, before, sharpe_ratios_of, progress))
        except KeyboardInterrupt:
            raise Interrupted("stopped; the next `o9 db prune` deletes the rest") from None

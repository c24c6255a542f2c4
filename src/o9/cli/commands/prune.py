"""`db prune`: what would go, the question, and what went.

Contract. Nothing is deleted before it was said what, nor without a yes: `--yes`, or an answer on a terminal. Stopped at
any moment, what was deleted is gone and the rest goes on with the next one. Nothing here imports Prefect.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from o9.cli.console import messages, say, write_json
from o9.cli.failures import DONE, Interrupted
from o9.cli.open_store import existing_store, option_for, size_of, sqlite_path, store_url
from o9.cli.options import Json, StoreUrl, days_above_zero
from o9.lifecycle import retention
from o9.lifecycle.retention import Removed, horizon
from o9.model.errors import OptimizationError
from o9.model.optimization import utc_now
from o9.model.settings import settings
from o9.store import queries
from o9.store.alerts.pruning import PrunedAlerts
from o9.store.optimizations.pruning import Outlook
from o9.store.store import Store
from o9.text.format import local_moment


def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            callback=days_above_zero,
            help="Delete what ended at least this number of days ago.  [env: O9_RETENTION_DAYS]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Give the space back to the disk; SQLite, and everybody waits meanwhile.")
    ] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> int:
    """Optimizations with everything of theirs; counts, statistics and the number of trials in a family stay. Says what
    that is before it asks, on a terminal. Others may write meanwhile.
    """
    days = settings().retention_days if older_than is None else older_than
    if not days:
        raise OptimizationError("nothing says what is old: give --older-than DAYS, or set O9_RETENTION_DAYS")
    if dry_run and vacuum:
        raise typer.BadParameter("--dry-run deletes nothing, so there is nothing for --vacuum to give back")
    path = sqlite_path(store_url(store))
    if vacuum and path is None:
        raise typer.BadParameter("--vacuum is for SQLite; PostgreSQL gives free space back by itself (autovacuum)")
    before = horizon(days, utc_now(), "--older-than" if older_than is not None else "O9_RETENTION_DAYS")
    with existing_store(store) as opened:
        outlook, alerts, size = (
            opened.read(queries.prunable, before),
            opened.read(queries.prunable_alerts, before),
            size_of(path),
        )
        if not json:
            print("\n".join(plan(outlook, alerts, before)), file=sys.stdout if dry_run else sys.stderr)
        if (outlook.optimizations or _counts_of(alerts)) and not (yes or dry_run):
            if not sys.stdin.isatty():
                raise typer.BadParameter("nobody can be asked here: give --yes to delete, or --dry-run to look")
            if not typer.confirm("Delete them for good?", err=True):
                say("nothing was deleted")
                return DONE
        removed = None if dry_run else _pruned(opened, before)
        if vacuum:
            opened.vacuum()
    document = {
        "store": opened.name, "older_than_days": days, **document_of(outlook, alerts, before),
        "deleted": removed.figures() if removed else None, "bytes_before": size, "bytes": size_of(path),
    }  # fmt: skip
    if json:
        write_json(document)
    elif removed is not None:
        print(outcome(removed))
        again = f"o9 db prune --older-than {days:g} --vacuum{option_for(store)}"
        say(_space(document, vacuum=vacuum, again=again))
    return DONE


def plan(outlook: Outlook, alerts: PrunedAlerts, before: str) -> list[str]:
    """What would be deleted and what is kept, and why."""
    when = f"ended before {_at(before)}"
    lines = []
    if outlook.optimizations:
        statuses = ", ".join(f"{count:,} {status}" for status, count in outlook.by_status.items())
        ends = f"from {_at(outlook.first_ended)} to {_at(outlook.last_ended)}"
        lines += [
            f"{outlook.optimizations:,} optimizations that {when}: {statuses}; they ended {ends}",
            "everything of theirs goes with them, for good: trials, returns, checkpoints, reports. Rates, trends, "
            "durations and the number of trials in a family stay; counts by status are of what is left. "
            "`o9 db backup PATH` makes a copy first",
        ]
    else:
        lines += [f"there is nothing to delete that {when}"]
    if counts := _counts_of(alerts):
        lines += [f"of alerts that were over before then: {counts}. How many there were of each level stays counted"]
    lines += [f"kept: {count:,}: {why.value}" for why, count in outlook.kept.items()]
    return lines


def outcome(removed: Removed) -> str:
    return (
        f"deleted: {removed.optimizations:,} optimizations with {removed.rows:,} rows of theirs, "
        f"{_counts_of(removed) or 'no alerts'}, and {removed.changes:,} old changes of the feed"
    )


def _counts_of(alerts: PrunedAlerts | Removed) -> str:
    """Empty where there are none."""
    counts = [
        f"{count:,} {what}{'' if count == 1 else 's'}{more}"
        for count, what, more in (
            (alerts.alerts, "alert", ""), (alerts.notices, "message", ""),
            (alerts.suppressed, "suppressed notification", ""), (alerts.silences, "silence", ""),
        )
        if count
    ]  # fmt: skip
    return ", ".join(counts)


def document_of(outlook: Outlook, alerts: PrunedAlerts, before: str) -> dict[str, Any]:
    """The plan for a program."""
    return {
        "before": before,
        "optimizations": outlook.optimizations,
        "by_status": outlook.by_status,
        "first_ended": outlook.first_ended,
        "last_ended": outlook.last_ended,
        "kept": {why.name.lower(): count for why, count in outlook.kept.items()},
        **{name: getattr(alerts, name) for name in ("alerts", "notices", "suppressed", "silences")},
    }


def _pruned(store: Store, before: str) -> Removed:
    from o9.health.statistics.pruned import sharpe_ratios_of

    console = messages()
    columns = (TextColumn("deleting"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=1.0)

        async def progress(share: float) -> None:
            shown.update(task, completed=share)

        try:
            return asyncio.run(retention.prune(store, before, sharpe_ratios_of, progress))
        except KeyboardInterrupt:
            raise Interrupted("stopped; what was deleted is gone, and the next `o9 db prune` goes on") from None


def _space(document: Mapping[str, Any], *, vacuum: bool, again: str) -> str:
    """What became of the space; nothing is known of it where it is no file."""
    if document["bytes"] is None:
        return "PostgreSQL uses what became free again by itself (autovacuum)"
    if vacuum:
        return f"the file had {document['bytes_before']:,} bytes, and has {document['bytes']:,}"
    return (
        f"the file keeps its {document['bytes']:,} bytes: what became free in it is used again; `{again}` gives it back"
    )


def _at(text: str | None) -> str:
    return local_moment(text)

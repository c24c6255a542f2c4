"""The store: one durable record of every optimization, in SQLite or PostgreSQL.

Contract, tested by `tests/store_contract` on every database:

- Thread-safe. One `Store` for a process and URL; any thread may read and write. Writing blocks until durable
  (`write`), or does so without blocking the event loop (`write_async`).
- What was acknowledged survives `kill -9` of any process at any instant. A power cut may take the last moments
  from SQLite unless it was opened with durability "power".
- A status changes only through `move` in `o9.store.optimizations.transitions`, which every operation that moves one
  goes through.
- An operation that raises has changed nothing, and does not disturb those it shared a transaction with.
- Readers never wait for writers. What is read is plain data; changing it changes nothing here.
- `get`, a page and the global counts cost the same at a thousand and at a million optimizations.

The operations are those of `o9.store.optimizations.transitions`, `intents`, `ledger`, `leases`, `runs`, `policies`,
`retry`, `reports`, `synchronization` and `pruning`; about alerts, those of `alerts`, `silences`, `outbox`,
`rule_standings` and `leadership`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from o9.model.errors import OptimizationStoreError, OptimizationValidationError
from o9.model.files import private
from o9.model.optimization import OptimizationState
from o9.model.provenance import Ran
from o9.model.settings import settings
from o9.model.states import OptimizationStatus, OptimizationType
from o9.model.trial import Trial
from o9.store.alerts.record import AlertRecord
from o9.store.core.engine import Durability, busy, describe, open_engine, schema_revision, store_error
from o9.store.core.group_commit import GroupCommit
from o9.store.core.unit import Operation, Row
from o9.store.optimizations import health_reports as reports
from o9.store.optimizations import hold_outs, intents, outputs, placebos, provenance, pruning, queries
from o9.store.optimizations.hold_outs import Look
from o9.store.optimizations.placebos import PlaceboRuns
from o9.store.optimizations.provenance import Baseline, Repetition
from o9.store.optimizations.pruning import Outlook
from o9.store.optimizations.queries import Filter, Holding, Page
from o9.store.queue.claims import Leases, read_leases
from o9.store.queue.policies import read_policies
from o9.store.statistics import families
from o9.store.statistics import queries as figures
from o9.store.statistics.families import FamilyTrials
from o9.store.statistics.rollups import Difference, Key, Sums, write_rollups
from o9.store.synchronization import Gathering, Published, gathering, published

P = ParamSpec("P")
R = TypeVar("R")
# Inside the class, `list` is the method.
Rows = list[Row]
Trials = list[Trial]
Texts = list[str]
Attempts = list[Ran]
Totals = list[tuple[Key, Sums]]
Differences = list[Difference]
Resting = list[intents.Suspended]


class Store:
    """See the module's contract. Opening creates or upgrades the schema; raises OptimizationStoreError."""

    def __init__(self, url: str | None = None, *, durability: Durability | None = None) -> None:
        """`url` is a path, sqlite:///… or postgresql://…; None takes both from the settings."""
        self._engine = open_engine(url or settings().store_url, durability or settings().store_durability)
        self._commits = GroupCommit(self._engine, write_rollups)
        self.alerts = AlertRecord(self._read)  # all questions about alerts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    @property
    def name(self) -> str:
        """The path or URL, without a password."""
        return describe(self._engine.url)

    @property
    def url(self) -> str:
        """What opens this store again in another process; holds the password, if there is one."""
        if self._engine.dialect.name == "sqlite":
            return str(Path(str(self._engine.url.database)).absolute())
        return self._engine.url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Commit what waits and let go of the database. A second call does nothing."""
        self._commits.close()
        self._engine.dispose()

    def write(self, operation: Operation[R]) -> R:
        return self._commits.write(operation)

    def write_async(self, operation: Operation[R]) -> asyncio.Future[R]:
        """To be awaited in the event loop that runs."""
        return self._commits.write_async(operation)

    async def read_async(self, query: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one of the reading methods below without blocking the event loop."""
        return await asyncio.to_thread(query, *args, **kwargs)

    def get(self, optimization_id: str) -> OptimizationState | None:
        return self._read(queries.get, optimization_id)

    def holding(self, optimization_id: str) -> Holding | None:
        return self._read(queries.holding, optimization_id)

    def list(
        self,
        *,
        status: OptimizationStatus | None = None,
        optimization_type: OptimizationType | None = None,
        wanted: Filter | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """One page, newest first. `wanted` takes the place of the two; `cursor` is the page's before `next_cursor`."""
        return self._read(queries.page, wanted or Filter(status, optimization_type), limit, cursor)

    def counts(self) -> Rows:
        return self._read(queries.counts)

    def endings(self, since_day: str = "") -> Rows:
        return self._read(queries.endings, since_day)

    def totals(self) -> Totals:
        """What has ended over all time, by type, strategy, priority and status."""
        return self._read(figures.totals)

    def windows(self, span: str, since: str, before: str) -> Rows:
        """Counts and sums of what ended, by window ("hour", "day", "month") and status."""
        return self._read(figures.windows, span, since, before)

    def first_window(self, span: str) -> str | None:
        return self._read(figures.first_window, span)

    def first_ended(self) -> str | None:
        return self._read(figures.first_ended)

    def priorities(self) -> Rows:
        return self._read(figures.priorities)

    def standing(self, status: str, *, limit: int) -> Rows:
        return self._read(figures.standing, status, limit)

    def queue(self, *, limit: int) -> tuple[int, float | None]:
        """How many wait for a slot, counted to `limit`, and when the first of these was queued, in seconds."""
        return self._read(figures.queue, limit)

    def ended_since(self, hour: str) -> Rows:
        """Counts of what ended in this hour (YYYY-MM-DDTHH) or later, by hour, type, strategy and status."""
        return self._read(figures.ended_since, hour)

    def queueing(self, optimization_id: str) -> Row | None:
        return self._read(figures.queueing, optimization_id)

    def named(self, status: str, *, limit: int) -> Texts:
        return self._read(figures.named, status, limit)

    def ranked(self, metric: str, direction: str, limit: int, *, largest_first: bool) -> Rows:
        return self._read(figures.ranked, metric, direction, limit, largest_first=largest_first)

    def tied(self, metric: str, direction: str, value: float, limit: int) -> int:
        return self._read(figures.tied, metric, direction, value, limit)

    def ranked_metrics(self) -> Texts:
        return self._read(figures.ranked_metrics)

    def recordings(self, optimization_id: str, *, limit: int | None = None) -> Rows:
        return self._read(figures.recordings, optimization_id, limit)

    def differences(self, span: str, starts: str, *, recount: bool = False) -> Differences:
        """What must be added to the rollups of one window for them to be true; give it to `rollups.Correct`."""
        return self._read(figures.differences, span, starts, recount=recount)

    def hours_ended_in(self, day: str) -> Texts:
        return self._read(figures.hours_ended_in, day)

    def trials(self, optimization_id: str, *, after: int = -1, limit: int | None = None) -> Trials:
        """The ledger in the order of numbers, from the one behind `after`; without returns."""
        return self._read(queries.trials, optimization_id, after, limit)

    def best_trials(self, optimization_id: str, direction: str, *, limit: int) -> Trials:
        """The best first."""
        return self._read(queries.best_trials, optimization_id, direction, limit)

    def failed_trials(self, optimization_id: str, *, limit: int) -> Trials:
        """The first ones that failed."""
        return self._read(queries.failed_trials, optimization_id, limit)

    def trial(self, optimization_id: str, number: int) -> Trial | None:
        """One trial with its returns."""
        return self._read(queries.trial_with_returns, optimization_id, number)

    def outputs(
        self, optimization_id: str, *, number: int | None = None, after: tuple[int, int] = (-1, -1), limit: int = 1000
    ) -> Rows:
        """What users' code printed, by step and trial; see `o9.store.optimizations.outputs`."""
        return self._read(outputs.outputs, optimization_id, number, after, limit)

    def trial_counts(self, optimization_id: str) -> dict[str, int]:
        return self._read(queries.trial_counts, optimization_id)

    def fruitless_steps(self, optimization_id: str) -> set[int]:
        return self._read(queries.fruitless_steps, optimization_id)

    def family_trials(self, family: str, optimization_id: str) -> FamilyTrials:
        """Counts by state over all optimizations, and the returns up to a bound; costs the same at any size."""
        return self._read(families.family_trials, family, optimization_id)

    def look(self, optimization_id: str, number: int) -> Look | None:
        """The look at this trial's hold-out, and how many there are at periods that overlap; None before the first."""
        return self._read(hold_outs.look, optimization_id, number)

    def placebos(self, optimization_id: str) -> PlaceboRuns:
        """The same search as its own, on data whose edge was destroyed."""
        return self._read(placebos.placebos, optimization_id)

    def baseline(self, optimization_id: str) -> Baseline | None:
        """What its trials are measured over."""
        return self._read(provenance.baseline, optimization_id)

    def provenance(self, optimization_id: str) -> Attempts:
        """What each of its attempts ran."""
        return self._read(provenance.provenance, optimization_id)

    def repetition(self, optimization_id: str) -> Repetition | None:
        """What came of evaluating its best trial once more, the last time that somebody did."""
        return self._read(provenance.repetition, optimization_id)

    def health_report(self, optimization_id: str) -> Row | None:
        """The newest report of one, with its checks."""
        return self._read(reports.latest_report, optimization_id)

    def health_verdicts(self, optimization_ids: Sequence[str]) -> dict[str, Row]:
        """`verdict` and `status` of the newest report of each that has one."""
        return self._read(reports.latest_verdicts, optimization_ids)

    def health_history(self, optimization_id: str, *, limit: int = 100, before: int | None = None) -> Rows:
        """What was said of one, newest first; `before` is the id of the last report seen."""
        return self._read(reports.report_history, optimization_id, limit, before)

    def health_reports(self, *, limit: int = 100, before: tuple[str, str] | None = None) -> Rows:
        """The newest report of each, newest first; `before` is `last_at` and `optimization_id` of the last one seen."""
        return self._read(reports.newest_reports, limit, before)

    def health_reports_since(self, after: int, *, limit: int = 1000) -> Rows:
        return self._read(reports.reports_since, after, limit)

    def health_report_before(self, optimization_id: str, report: int) -> Row | None:
        """What was said of one before the report with this id."""
        return self._read(reports.report_before, optimization_id, report)

    def last_health_report(self) -> int:
        return self._read(reports.last_report)

    def health_due(self, *, limit: int = 100) -> Texts:
        return self._read(reports.due, limit)

    def health_under_way(self, *, limit: int = 100) -> Texts:
        return self._read(reports.under_way, limit)

    def prunable(self, before: str) -> Outlook:
        """What `pruning.Prune` would delete; `before` is an ISO moment."""
        return self._read(pruning.outlook, before)

    def transitions(self, optimization_id: str, *, after: int = 0, limit: int | None = None) -> Rows:
        """In their order, those behind the id `after`."""
        return self._read(queries.transitions, optimization_id, after, limit)

    def awaiting(self, optimization_id: str) -> Texts:
        return self._read(queries.awaiting, optimization_id)

    def has_open_alert(self, optimization_id: str) -> bool:
        return self._read(queries.has_open_alert, optimization_id)

    def transitions_since(self, after: int, *, limit: int = 1000) -> Rows:
        return self._read(queries.transitions_since, after, limit)

    def last_transition(self) -> int:
        return self._read(queries.last_transition)

    def intents(self, optimization_id: str) -> Rows:
        return self._read(queries.intents, optimization_id)

    def suspended(self) -> Resting:
        """All but those that somebody wants to stay where they are."""
        return self._read(intents.suspended)

    def policies(self) -> dict[str, dict[str, Any]]:
        return self._read(read_policies)

    def prefect_run(self, run_id: str) -> Row | None:
        return self._read(queries.prefect_run, run_id)

    def pruned_runs(self, *, limit: int = 500) -> Texts:
        return self._read(queries.pruned_runs, limit)

    def open_runs(self, *, after: str = "", limit: int = 500) -> Rows:
        return self._read(queries.open_runs, after, limit)

    def known_states(self, optimization_id: str, among: Collection[str] | None = None) -> set[str]:
        return self._read(queries.known_states, optimization_id, among)

    def last_state_at(self, optimization_id: str, run_id: str) -> str | None:
        return self._read(queries.last_state_at, optimization_id, run_id)

    def prefect_states(self, optimization_id: str) -> Rows:
        return self._read(queries.prefect_states, optimization_id)

    def metrics(self, optimization_id: str, *, limit: int | None = None) -> Rows:
        return self._read(queries.metrics, optimization_id, limit)

    def checkpoint(self, optimization_id: str, step: int | None = None) -> dict[str, Any] | None:
        return self._read(queries.checkpoint, optimization_id, step)

    def nodes(self) -> Rows:
        return self._read(queries.nodes)

    def leases(self) -> Leases:
        return self._read(read_leases)

    def changes(self, after: int, *, limit: int = 1000) -> Rows:
        return self._read(queries.changes, after, limit)

    def last_change(self) -> int:
        return self._read(queries.last_change)

    def published(self, after: int) -> Published:
        """What nodes have published for each other behind the change `after`; a page."""
        return self._read(published, after)

    def gathering(self) -> Gathering:
        """All nodes, also those that somebody registered by hand, and how far each has read."""
        return self._read(gathering)

    def schema(self) -> str | None:
        return self._read(schema_revision)

    def check(self) -> Texts:
        """What is wrong with the database; empty where all is well."""
        return self._read(_check)

    def backup(self, path: str) -> None:
        """Copy a SQLite store, while it is in use, into a new file at `path`."""
        if self._engine.dialect.name != "sqlite":
            raise OptimizationStoreError("back up PostgreSQL with pg_dump; `o9 db backup` copies SQLite files")
        if Path(path).exists():
            raise OptimizationStoreError(f"{path} exists already; name a new file")
        if not Path(path).absolute().parent.is_dir():
            raise OptimizationStoreError(f"{path}: its folder does not exist; create it first")
        open(path, "xb", opener=private).close()
        with self._engine.connect() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            target = sqlite3.connect(path)
            try:
                source.backup(target)
            finally:
                target.close()

    def vacuum(self) -> None:
        """Write a SQLite store anew without what is free in it. Writers wait as long as that takes."""
        if self._engine.dialect.name != "sqlite":
            raise OptimizationStoreError("PostgreSQL gives free space back by itself (autovacuum); SQLite does not")
        self._read(_vacuum)

    def _read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with self._engine.connect() as connection:
                try:
                    return query(connection, *args, **kwargs)
                except Exception:
                    if connection.dialect.name == "sqlite":
                        connection.invalidate()  # as long as rows are left unread, it shows the past
                    raise
        except DBAPIError as error:
            raise store_error(error.orig, self._engine.url) from error
        except PoolTimeoutError as error:
            raise busy(self._engine.url, error) from error
        except UnicodeEncodeError as error:
            raise OptimizationValidationError("text", f"{error.object!r:.80} holds a character that is none") from error


def _vacuum(connection: Connection) -> None:
    connection.exec_driver_sql("VACUUM")
    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _check(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [str(row) for row in rows if row != "ok"]

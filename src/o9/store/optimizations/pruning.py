"""Deleting optimizations that ended long ago, with all their rows. They stay in the counts.

Contract. Each operation is one short transaction, however much there is to delete: it stops at the end of the piece
with which its time is up, and the next operation continues, in any process. If it is killed, what it committed is
deleted and counted, and the rest is intact. An optimization that is too large for one transaction loses its checkpoints
first and its row last; meanwhile `warnings` says so, and it cannot be retried from a step. Concurrent operations delete
each row once.

No id is ever reused, and no reader's cursor is ever ahead of the next id: the newest change and the newest transition
stay, the latter with the optimization id PRUNED. Pruned trials stay counted in their family
(`families.count_pruned_trials`), and pruned optimizations in the rollups (`rollups.count_pruned`). The ids of their
Prefect flow runs are kept until those are deleted too (`prefect_runs.DeletePrunedRuns`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Select,
    Table,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
    tuple_,
    update,
)

from o9.store.core.base import metadata
from o9.store.core.column_types import to_json
from o9.store.core.unit import OnOptimization, Operation, UnitOfWork
from o9.store.optimizations.placebos import release_placebos
from o9.store.optimizations.prefect_runs import ATTEMPT, PRUNED
from o9.store.schema.alerts import ALERT, DECISION
from o9.store.schema.optimizations import (
    CHANGE,
    CHECKPOINT,
    DEPENDENCY,
    OPTIMIZATION,
    PREFECT_RUN,
    RETURNS,
    TRANSITION,
    TRIAL,
)
from o9.store.statistics.families import SharpeRatios, count_pruned_trials
from o9.store.statistics.rankings import COUNTED
from o9.store.statistics.rollups import ENDED_STATUSES, count_pruned, write_rollups

SECONDS = 0.05  # of one transaction, during which all writers wait
PIECE = 100  # rows deleted between two checks of the time
CANDIDATES = 50
CHANGES = 5_000
BEING_PRUNED = "it is being pruned: its record is incomplete, and the next prune deletes the rest"


class PruneReason(str, Enum):
    """Why an optimization is pruned or kept."""

    LONG_AGO = "it ended long enough ago"
    NOT_ENDED = "it has not ended"
    TOO_YOUNG = "it ended too recently"
    AWAITED = "an optimization that has not ended depends on it"
    OPEN_RUN = "its flow run may still change in Prefect; the flow reconcile_states checks it"
    OPEN_ALERT = "it has an alert that fires or whose resolution was not notified; `o9 alerts resolve` resolves it"


@dataclass(frozen=True)
class PrunePreview:
    """What pruning would delete, by status, with the first and last end of these; and what it would keep, by reason."""

    by_status: dict[str, int]
    kept: dict[PruneReason, int]
    first_ended: str | None
    last_ended: str | None

    @property
    def optimizations(self) -> int:
        return sum(self.by_status.values())


@dataclass
class Pruned:
    """What one transaction deleted. `cursor` is where the next one continues; None means that nothing is left."""

    optimizations: int = 0
    rows: int = 0
    kept: Counter[PruneReason] = field(default_factory=Counter)
    cursor: tuple[str, str] | None = None


def decide(row: Mapping[Any, Any], before: str) -> PruneReason:
    """Decide on a row of `_candidates`: what ended before the ISO moment `before` is pruned."""
    if row["status"] not in ENDED_STATUSES or row["completed_at"] is None:
        return PruneReason.NOT_ENDED
    if row["completed_at"] >= before:
        return PruneReason.TOO_YOUNG
    if row["awaited"]:
        return PruneReason.AWAITED
    if row["open_run"]:
        return PruneReason.OPEN_RUN
    return PruneReason.OPEN_ALERT if row["open_alert"] else PruneReason.LONG_AGO


@dataclass(frozen=True)
class Prune(Operation[Pruned]):
    """Delete what ended before the ISO moment `before`, from `cursor` on, for up to `seconds`.

    sharpe_ratios: computes the figures of the trials' returns that stay in the counts.
    """

    before: str
    sharpe_ratios: SharpeRatios
    cursor: tuple[str, str] = ("", "")
    seconds: float = SECONDS

    def apply(self, unit: UnitOfWork) -> Pruned:
        deadline = time.monotonic() + self.seconds
        unit.flush()
        done, gone = Pruned(cursor=self.cursor), []
        found = unit.connection.execute(_candidates(self.before, self.cursor).limit(CANDIDATES)).mappings().all()
        late = False
        for row in found:
            why = decide(row, self.before)
            if why is PruneReason.LONG_AGO:
                if not self.empty(unit, row["optimization_id"], done, deadline):
                    late = True
                    break
                _delete(unit, row)
                gone.append(row)
            else:
                done.kept[why] += 1
            done.cursor = (row["completed_at"], row["optimization_id"])
            if time.monotonic() >= deadline:
                late = True
                break
        if not late and len(found) < CANDIDATES:
            done.cursor = None
        count_pruned(unit, gone)
        done.optimizations = len(gone)
        return done

    def empty(self, unit: UnitOfWork, name: str, done: Pruned, deadline: float) -> bool:
        """Delete all that belongs to an optimization, piece by piece, until the deadline.

        Return whether all of it is deleted; if not, a warning is added to the optimization.
        """
        dialect = unit.connection.dialect.name
        unit.run(_DECISIONS, {"target": name})
        release_placebos(unit, name)
        unit.run(_KEEP_NEWEST_MOVE, {"target": name, "pruned": PRUNED})
        unit.run(_FORGET_OLD_MOVE, {"pruned": PRUNED})
        for table in owned():
            while True:
                if table is TRIAL:
                    count = self._trials(unit, name)
                else:
                    count = unit.run(_delete_piece(table, dialect), {"target": name}).rowcount
                done.rows += count
                if count < PIECE:
                    break
                if time.monotonic() >= deadline:
                    _mark(unit, name)
                    return False
        unit.run(_AWAITING_IT, {"target": name})
        unit.run(_KEEP_ATTEMPTS, {"target": name, "ours": ATTEMPT, "pruned": PRUNED})
        unit.run(_OTHER_RUNS, {"target": name})
        return True

    def _trials(self, unit: UnitOfWork, name: str) -> int:
        """Delete the first piece of trials with their returns, and count them as pruned. Return how many."""
        found = unit.run(_FIRST_TRIALS, {"target": name}).fetchall()
        if found:
            count_pruned_trials(unit, name, [row[1:] for row in found], self.sharpe_ratios)
            below = {"target": name, "last": found[-1][0]}
            unit.run(_DELETE_RETURNS, below)
            unit.run(_DELETE_TRIALS, below)
        return len(found)


@dataclass(frozen=True)
class PruneOne(OnOptimization[PruneReason | None]):
    """Delete one ended optimization, whenever it ended, for up to `seconds`.

    Returns LONG_AGO once it is deleted, None if the next operation must continue, else the reason why it is kept.
    """

    optimization_id: str
    sharpe_ratios: SharpeRatios
    seconds: float = SECONDS

    def apply(self, unit: UnitOfWork) -> PruneReason | None:
        deadline = time.monotonic() + self.seconds
        unit.existing(self.optimization_id)
        write_rollups(unit)
        unit.flush()
        mine = OPTIMIZATION.c.optimization_id == self.optimization_id
        row = unit.connection.execute(_candidates(_NEVER).where(mine)).mappings().first()
        if row is None:
            return PruneReason.NOT_ENDED
        why = decide(row, _NEVER)
        if why is not PruneReason.LONG_AGO:
            return why
        if not Prune(_NEVER, self.sharpe_ratios).empty(unit, self.optimization_id, Pruned(), deadline):
            return None
        _delete(unit, row)
        count_pruned(unit, [row])
        return why


@dataclass(frozen=True)
class PruneChanges(Operation[int]):
    """Delete the oldest changes of the feed that are older than `before`, but never the newest. Returns how many.

    A node that was away for longer than that reads the record itself.
    """

    before: str
    limit: int = CHANGES

    def apply(self, unit: UnitOfWork) -> int:
        unit.flush()
        oldest = select(CHANGE.c.id, CHANGE.c.at).order_by(CHANGE.c.id).limit(self.limit).subquery()
        newest = select(func.max(CHANGE.c.id)).scalar_subquery()
        last = select(func.max(oldest.c.id)).where(oldest.c.at < self.before, oldest.c.id < newest)
        bound = unit.connection.execute(last).scalar()
        if bound is None:
            return 0
        old = delete(CHANGE).where(CHANGE.c.id <= bound, CHANGE.c.at < self.before)
        return int(unit.connection.execute(old).rowcount)


def prunable(connection: Connection, before: str) -> PrunePreview:
    """Return what pruning would do now; this reads every optimization that ended before `before`."""
    each = _candidates(before).order_by(None).subquery()
    by = [each.c[name] for name in ("status", "awaited", "open_run", "open_alert")]
    ends = (func.min(each.c.completed_at).label("first"), func.max(each.c.completed_at).label("last"))
    counted = func.count().label("count")
    groups = connection.execute(select(*by, counted, *ends).group_by(*by).order_by(*by)).mappings().all()
    by_status: Counter[str] = Counter()
    kept: Counter[PruneReason] = Counter()
    ended: list[str] = []
    for group in groups:
        why = decide(dict(group) | {"completed_at": group["first"]}, before)
        if why is PruneReason.LONG_AGO:
            by_status[group["status"]] += group["count"]
            ended += [group["first"], group["last"]]
        else:
            kept[why] += group["count"]
    return PrunePreview(dict(by_status), dict(kept), min(ended, default=None), max(ended, default=None))


@cache
def owned() -> tuple[Table, ...]:
    """Return the tables whose rows are deleted with their optimization, in that order."""
    apart = {OPTIMIZATION, CHANGE, CHECKPOINT, TRIAL, PREFECT_RUN}
    others = [table for table in metadata.sorted_tables if "optimization_id" in table.c and table not in apart]
    return (CHECKPOINT, TRIAL, *others)


def _candidates(before: str, cursor: tuple[str, str] = ("", "")) -> Select[Any]:
    own = OPTIMIZATION.c.optimization_id
    dependent = OPTIMIZATION.alias("dependent")
    awaited = (
        select(literal_column("1"))
        .select_from(DEPENDENCY.join(dependent, dependent.c.optimization_id == DEPENDENCY.c.optimization_id))
        .where(DEPENDENCY.c.after_id == own, dependent.c.status.not_in(ENDED_STATUSES))
        .exists()
    )
    is_open = PREFECT_RUN.c.is_open == literal_column("1")
    open_run = select(literal_column("1")).where(PREFECT_RUN.c.optimization_id == own, is_open).exists()
    first = ALERT.alias("first")
    open_alert = (
        select(literal_column("1"))
        .select_from(ALERT.join(first, first.c.alert_id == ALERT.c.episode))
        .where(ALERT.c.optimization_id == own, first.c.is_open == literal_column("1"))
        .exists()
    )
    at = OPTIMIZATION.c.completed_at
    behind: ColumnElement[bool] = tuple_(at, own) > tuple_(*map(literal, cursor)) if cursor != ("", "") else true()
    return (
        select(*COUNTED, awaited.label("awaited"), open_run.label("open_run"), open_alert.label("open_alert"))
        .where(at.is_not(None), at >= cursor[0], at < before, behind)
        .order_by(at, own)
    )


@cache
def _delete_piece(table: Table, dialect: str) -> Executable:
    """Make the statement that deletes a piece of a table by row id, whatever the table's key is."""
    place = "rowid" if dialect == "sqlite" else "ctid"
    some = f"SELECT {place} FROM {table.name} WHERE optimization_id = :target LIMIT {PIECE}"
    which = f"IN ({some})" if dialect == "sqlite" else f"= ANY (ARRAY ({some}))"
    return text(f"DELETE FROM {table.name} WHERE {place} {which}")


def _mark(unit: UnitOfWork, name: str) -> None:
    where = OPTIMIZATION.c.optimization_id == name
    warnings = json.loads(unit.connection.execute(select(OPTIMIZATION.c.warnings).where(where)).scalar_one())
    if BEING_PRUNED not in warnings:
        marked = update(OPTIMIZATION).where(where).values(warnings=to_json([*warnings, BEING_PRUNED]), health_due=0)
        unit.connection.execute(marked)


def _delete(unit: UnitOfWork, row: Mapping[Any, Any]) -> None:
    name = row["optimization_id"]
    unit.run(_DELETE_ROW, {"target": name})
    unit.forget(name)
    unit.change(name, "pruned")


_NEVER = "9999"  # later than any end


def _of(table: Table) -> ColumnElement[bool]:
    return table.c.optimization_id == bindparam("target")


_FIRST_TRIALS = (
    select(TRIAL.c.number, TRIAL.c.family, TRIAL.c.state, TRIAL.c.attempt, RETURNS.c.data)
    .outerjoin(RETURNS, (RETURNS.c.optimization_id == TRIAL.c.optimization_id) & (RETURNS.c.number == TRIAL.c.number))
    .where(_of(TRIAL))
    .order_by(TRIAL.c.number)
    .suffix_with(f"LIMIT {PIECE}")  # SQLAlchemy's `limit` adds a parameter for the offset on SQLite
)
_DELETE_TRIALS = delete(TRIAL).where(_of(TRIAL), TRIAL.c.number <= bindparam("last"))
_DELETE_RETURNS = delete(RETURNS).where(_of(RETURNS), RETURNS.c.number <= bindparam("last"))
_DELETE_ROW = delete(OPTIMIZATION).where(_of(OPTIMIZATION))
_DECISIONS = delete(DECISION).where(DECISION.c.alert_id.in_(select(ALERT.c.alert_id).where(_of(ALERT))))
_AWAITING_IT = delete(DEPENDENCY).where(DEPENDENCY.c.after_id == bindparam("target"))
_KEEP_ATTEMPTS = (
    update(PREFECT_RUN)
    .where(_of(PREFECT_RUN), PREFECT_RUN.c.kind == bindparam("ours"))
    .values(optimization_id=bindparam("pruned"))
)
_NEWEST_MOVE = select(func.max(TRANSITION.c.id)).scalar_subquery()
_KEEP_NEWEST_MOVE = (
    update(TRANSITION)
    .where(_of(TRANSITION), TRANSITION.c.id == _NEWEST_MOVE)
    .values(optimization_id=bindparam("pruned"))
)
_FORGET_OLD_MOVE = delete(TRANSITION).where(
    TRANSITION.c.optimization_id == bindparam("pruned"), TRANSITION.c.id < _NEWEST_MOVE
)
_OTHER_RUNS = delete(PREFECT_RUN).where(_of(PREFECT_RUN))  # mirrored ones, which O9 did not create

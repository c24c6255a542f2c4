"""Deleting optimizations that ended long ago, with all rows of theirs; counts keep them.

Contract. Each operation here is one short transaction, however much there is to delete: it stops behind the piece with
which its time is over, and the next one goes on, in whichever process. Killed at any instant, what it had committed is
deleted and counted, and the rest is there. An optimization that is too large for one transaction loses its checkpoints
first and its row last; until then `warnings` say so, and nothing can be run again from a step of it. Two at once delete
everything once.

Ids are never given twice, and no reader's cursor is ever ahead of what comes: the newest change stays, and the newest
transition too, as one of no optimization. What was pruned stays counted, in a family (`families.count_pruned_trials`)
and in the rollups (`rollups.count_pruned`). Which flow runs in Prefect were attempts at what is gone is kept until they
are gone there, too (`prefect_runs.ForgetRuns`).
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

SECONDS = 0.05  # of one transaction; writers of all processes wait for it
PIECE = 100  # rows deleted between two looks at the clock
CANDIDATES = 50
CHANGES = 5_000
BEING_PRUNED = "it is being pruned: its record is not whole any more, and the next prune deletes the rest"


class Because(str, Enum):
    """Why an optimization is pruned, or kept."""

    LONG_AGO = "it ended long enough ago"
    NOT_ENDED = "it has not ended"
    TOO_YOUNG = "it ended too short a time ago"
    AWAITED = "one that has not ended was to run after it"
    OPEN_RUN = "Prefect may have more to say of its flow run; the flow reconcile_states asks it"
    OPEN_ALERT = "an alert of it fires, or its end was not notified yet; `o9 alerts resolve` ends it"


@dataclass(frozen=True)
class Outlook:
    """What pruning would delete: how many by status, the first and the last end of them; and how many it keeps."""

    by_status: dict[str, int]
    kept: dict[Because, int]
    first_ended: str | None
    last_ended: str | None

    @property
    def optimizations(self) -> int:
        return sum(self.by_status.values())


@dataclass
class Pruned:
    """What one transaction deleted. `cursor` is where the next one goes on; None: it has come to the end."""

    optimizations: int = 0
    rows: int = 0
    kept: Counter[Because] = field(default_factory=Counter)
    cursor: tuple[str, str] | None = None


def decide(row: Mapping[Any, Any], before: str) -> Because:
    """`row`: of `_candidates`. `before`: an ISO moment; what ended earlier is pruned."""
    if row["status"] not in ENDED_STATUSES or row["completed_at"] is None:
        return Because.NOT_ENDED
    if row["completed_at"] >= before:
        return Because.TOO_YOUNG
    if row["awaited"]:
        return Because.AWAITED
    if row["open_run"]:
        return Because.OPEN_RUN
    return Because.OPEN_ALERT if row["open_alert"] else Because.LONG_AGO


@dataclass(frozen=True)
class Prune(Operation[Pruned]):
    """Delete of what ended before the ISO moment `before`, behind `cursor`, as much as `seconds` allow.

    `sharpe_ratios` computes what is left behind of the trials' returns.
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
            if why is Because.LONG_AGO:
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
        """Delete what belongs to it, a piece at a time; whether all of it is gone. Marks it where something is left."""
        dialect = unit.connection.dialect.name
        unit.run(_DECISIONS, {"target": name})
        release_placebos(unit, name)
        unit.run(_KEEP_NEWEST_MOVE, {"target": name, "pruned": PRUNED})
        unit.run(_FORGET_OLD_MOVE, {"pruned": PRUNED})
        for table in owned():
            while True:
                count = self._trials(unit, name) if table is TRIAL else _rows(unit, table, name, dialect)
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
        """Delete its first trials with their returns, and count them as pruned. How many."""
        found = unit.run(_FIRST_TRIALS, {"target": name}).fetchall()
        if found:
            count_pruned_trials(unit, name, [row[1:] for row in found], self.sharpe_ratios)
            below = {"target": name, "last": found[-1][0]}
            unit.run(_DELETE_RETURNS, below)
            unit.run(_DELETE_TRIALS, below)
        return len(found)


@dataclass(frozen=True)
class PruneOne(OnOptimization[Because | None]):
    """Delete of one that has ended, whenever that was, as much as `seconds` allow.

    Answers with LONG_AGO once it is gone, with None where something is left for the next such operation, else with why
    it has to stay.
    """

    optimization_id: str
    sharpe_ratios: SharpeRatios
    seconds: float = SECONDS

    def apply(self, unit: UnitOfWork) -> Because | None:
        deadline = time.monotonic() + self.seconds
        unit.existing(self.optimization_id)
        write_rollups(unit)
        unit.flush()
        mine = OPTIMIZATION.c.optimization_id == self.optimization_id
        row = unit.connection.execute(_candidates(_NEVER).where(mine)).mappings().first()
        if row is None:
            return Because.NOT_ENDED
        why = decide(row, _NEVER)
        if why is not Because.LONG_AGO:
            return why
        if not Prune(_NEVER, self.sharpe_ratios).empty(unit, self.optimization_id, Pruned(), deadline):
            return None
        _delete(unit, row)
        count_pruned(unit, [row])
        return why


@dataclass(frozen=True)
class ForgetChanges(Operation[int]):
    """Delete the oldest changes of the feed, if older than `before`; never the newest. Answers how many.

    Readers of the feed have long read them; one that was away for longer reads the record itself.
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


def prunable(connection: Connection, before: str) -> Outlook:
    """What pruning would do now; looks at each that ended before."""
    each = _candidates(before).order_by(None).subquery()
    by = [each.c[name] for name in ("status", "awaited", "open_run", "open_alert")]
    ends = (func.min(each.c.completed_at).label("first"), func.max(each.c.completed_at).label("last"))
    counted = func.count().label("count")
    groups = connection.execute(select(*by, counted, *ends).group_by(*by).order_by(*by)).mappings().all()
    by_status: Counter[str] = Counter()
    kept: Counter[Because] = Counter()
    ended: list[str] = []
    for group in groups:
        why = decide(dict(group) | {"completed_at": group["first"]}, before)
        if why is Because.LONG_AGO:
            by_status[group["status"]] += group["count"]
            ended += [group["first"], group["last"]]
        else:
            kept[why] += group["count"]
    return Outlook(dict(by_status), dict(kept), min(ended, default=None), max(ended, default=None))


@cache
def owned() -> tuple[Table, ...]:
    """The tables of what is deleted with an optimization, in that order."""
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


def _rows(unit: UnitOfWork, table: Table, name: str, dialect: str) -> int:
    return int(unit.run(_delete_piece(table, dialect), {"target": name}).rowcount)


@cache
def _delete_piece(table: Table, dialect: str) -> Executable:
    """By the place of the rows in the file, whatever the table's key is."""
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


_NEVER = "9999"  # every end was before that


def _of(table: Table) -> ColumnElement[bool]:
    return table.c.optimization_id == bindparam("target")


_FIRST_TRIALS = (
    select(TRIAL.c.number, TRIAL.c.family, TRIAL.c.state, TRIAL.c.attempt, RETURNS.c.data)
    .outerjoin(RETURNS, (RETURNS.c.optimization_id == TRIAL.c.optimization_id) & (RETURNS.c.number == TRIAL.c.number))
    .where(_of(TRIAL))
    .order_by(TRIAL.c.number)
    .suffix_with(f"LIMIT {PIECE}")  # SQLAlchemy's own has a parameter in SQLite, for no offset
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

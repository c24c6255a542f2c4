"""Queries of optimizations and what belongs to them.

Each costs the same however many optimizations there are, except a page filtered by what has no index (priority,
strategy, family, text), which reads on until it is full.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, bindparam, case, func, literal, literal_column, or_, select, tuple_

from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.store.alerts.episodes import STATE_OF
from o9.store.core.column_types import STATE_FIELDS, row_to_state, row_to_trial
from o9.store.core.reading import page_size, read_cursor, rows, write_cursor
from o9.store.core.unit import Row
from o9.store.optimizations.placebos import is_placebo
from o9.store.optimizations.prefect_runs import PRUNED
from o9.store.optimizations.provenance import calendar
from o9.store.schema.alerts import ALERT
from o9.store.schema.optimizations import (
    CHANGE,
    CHECKPOINT,
    DEPENDENCY,
    INTENT,
    METRIC,
    NODE,
    OPTIMIZATION,
    PREFECT_RUN,
    PREFECT_STATE,
    RETURNS,
    TRANSITION,
    TRIAL,
)
from o9.store.schema.statistics import STATUS_COUNTER
from o9.store.statistics.rollups import ENDED_STATUSES

MOST_AMONG = 1000  # ids in one statement


@dataclass(frozen=True)
class StatePage:
    """A page of optimizations, newest first; `next_cursor` is None on the last one."""

    items: list[OptimizationState]
    next_cursor: str | None


@dataclass(frozen=True)
class Filter:
    """Conditions on optimizations, all of which must hold.

    family: that in which an optimization's trials count, which is known from its first trial on.
    text: part of a name or id, in any case.
    created_after: an ISO moment.
    placebos: include placebo runs.
    series: the series of a recurring optimization.
    """

    status: OptimizationStatus | None = None
    optimization_type: OptimizationType | None = None
    priority: OptimizationPriority | None = None
    strategy: str | None = None
    family: str | None = None
    text: str | None = None
    created_after: str | None = None
    placebos: bool = False
    series: str | None = None


EVERYTHING = Filter()


@dataclass(frozen=True)
class Holding:
    """What the record has of an optimization besides its state: its intent, attempt, lease and place in a schedule.

    unmet: how many optimizations in its `metadata.after` have not completed yet.
    waited_seconds: in the queue, over all attempts; None before the first.
    series, scheduled_at (ISO 8601, UTC): of a recurring optimization, from the metadata.
    """

    status: str
    intent: str
    intent_by: str
    intent_at: str | None
    unmet: int
    attempt: int
    deaths: int
    fence: int
    version: int
    max_attempts: int
    lease_node: str | None
    prefect_run_id: str | None
    suspended_run_id: str | None
    waited_seconds: float | None = None
    series: str | None = None
    scheduled_at: str | None = None
    deployment_id: str | None = None


_STATE_COLUMNS = [OPTIMIZATION.c[name] for name in (*STATE_FIELDS, "running_since")]
_GET = select(*_STATE_COLUMNS).where(OPTIMIZATION.c.optimization_id == bindparam("target"))


def get(connection: Connection, optimization_id: str) -> OptimizationState | None:
    row = connection.execute(_GET, {"target": optimization_id}).mappings().first()
    return row_to_state(dict(row)) if row else None


def holding(connection: Connection, optimization_id: str) -> Holding | None:
    columns = [OPTIMIZATION.c[name] for name in Holding.__dataclass_fields__]
    row = connection.execute(select(*columns).where(OPTIMIZATION.c.optimization_id == optimization_id)).first()
    return Holding(**row._mapping) if row else None


def page(connection: Connection, wanted: Filter = EVERYTHING, limit: int = 100, cursor: str | None = None) -> StatePage:
    """Return a page; `cursor` is the `next_cursor` of the page before."""
    created, name = OPTIMIZATION.c.created_at, OPTIMIZATION.c.optimization_id
    statement = select(*_STATE_COLUMNS).order_by(created.desc(), name.desc()).limit(page_size(limit) + 1)
    for column in ("status", "optimization_type", "priority", "strategy", "family", "series"):
        value = getattr(wanted, column)
        if value is not None:
            statement = statement.where(OPTIMIZATION.c[column] == getattr(value, "value", value))
    if wanted.text is not None:
        fits = [column.icontains(wanted.text, autoescape=True) for column in (OPTIMIZATION.c.name, name)]
        statement = statement.where(or_(*fits))
    if not wanted.placebos:
        statement = statement.where(~is_placebo())
    if wanted.created_after is not None:
        statement = statement.where(created > wanted.created_after)
    if cursor is not None:
        place = read_cursor(cursor, str, 2)
        statement = statement.where(tuple_(created, name) < tuple_(*map(literal, place)))
    found = rows(connection, statement)
    last = found[limit - 1] if len(found) > limit else None
    following = write_cursor(last["created_at"], last["optimization_id"]) if last else None
    return StatePage([row_to_state(row) for row in found[:limit]], following)


def last_best(connection: Connection, series: str) -> Row | None:
    """Return `optimization_id`, `family` and `optimized_parameters` of a series' newest completed run with a best."""
    columns = OPTIMIZATION.c.optimization_id, OPTIMIZATION.c.family, OPTIMIZATION.c.optimized_parameters
    statement = select(*columns).where(
        OPTIMIZATION.c.series == series, OPTIMIZATION.c.status == OptimizationStatus.COMPLETED.value,
        OPTIMIZATION.c.optimized_parameters != "{}", ~is_placebo(),
    )  # fmt: skip
    newest = OPTIMIZATION.c.created_at.desc(), OPTIMIZATION.c.optimization_id.desc()
    found = rows(connection, statement.order_by(*newest).limit(1))
    return found[0] | {"optimized_parameters": json.loads(found[0]["optimized_parameters"])} if found else None


def counts(connection: Connection) -> list[Row]:
    """Return the number of optimizations by type, strategy and status."""
    return rows(connection, select(STATUS_COUNTER).where(STATUS_COUNTER.c.count != 0))


def trials(
    connection: Connection,
    optimization_id: str,
    after: int = -1,
    limit: int | None = None,
    state: TrialState | None = None,
) -> list[Trial]:
    """Return the ledger after the trial number `after`, by number, without returns; `state` filters it."""
    statement = select(TRIAL).where(TRIAL.c.optimization_id == optimization_id, TRIAL.c.number > after)
    if state is not None:
        statement = statement.where(TRIAL.c.state == state.value)
    return [row_to_trial(row) for row in rows(connection, statement.order_by(TRIAL.c.number).limit(limit))]


def best_trials(connection: Connection, optimization_id: str, direction: str, limit: int) -> list[Trial]:
    """Return the best completed trials without returns, best first; of equal ones the earlier comes first."""
    mine = TRIAL.c.optimization_id == optimization_id, TRIAL.c.state == TrialState.COMPLETED.value
    value = TRIAL.c.value.asc() if direction == "minimize" else TRIAL.c.value.desc()
    statement = select(TRIAL).where(*mine, TRIAL.c.value.is_not(None)).order_by(value, TRIAL.c.number).limit(limit)
    return [row_to_trial(row) for row in rows(connection, statement)]


def trial(connection: Connection, optimization_id: str, number: int) -> Trial | None:
    """Return one trial with its returns."""

    def one(table: Table) -> Mapping[Any, Any] | None:
        key = (table.c.optimization_id == optimization_id) & (table.c.number == number)
        found = connection.execute(select(table).where(key)).mappings().first()
        return dict(found) if found else None

    row, returns = one(TRIAL), one(RETURNS)
    if row is None or returns is None:
        return row_to_trial(row) if row else None
    calendars = [calendar(connection, optimization_id, returns[name]) for name in ("calendar", "hold_out_calendar")]
    return row_to_trial(row, returns, (calendars[0], calendars[1]))


def trial_counts(connection: Connection, optimization_id: str) -> dict[str, int]:
    """Return the number of an optimization's trials by state."""
    statement = (
        select(TRIAL.c.state, func.count()).where(TRIAL.c.optimization_id == optimization_id).group_by(TRIAL.c.state)
    )
    return {str(state): int(count) for state, count in connection.execute(statement)}


def failed_steps(connection: Connection, optimization_id: str) -> set[int]:
    """Return the steps of an optimization in which every trial failed."""
    others = func.sum(case((TRIAL.c.state == TrialState.FAILED.value, 0), else_=1))
    mine = select(TRIAL.c.step).where(TRIAL.c.optimization_id == optimization_id)
    return set(connection.scalars(mine.group_by(TRIAL.c.step).having(others == 0)))


def transitions(connection: Connection, optimization_id: str, after: int = 0, limit: int | None = None) -> list[Row]:
    """Return an optimization's transitions after the id `after`, in order."""
    where = (TRANSITION.c.optimization_id == optimization_id, TRANSITION.c.id > after)
    return rows(connection, select(TRANSITION).where(*where).order_by(TRANSITION.c.id).limit(limit))


def transitions_since(connection: Connection, after: int, limit: int = 1000) -> list[Row]:
    """Return the transitions of all optimizations after the id `after`, in commit order."""
    where = (TRANSITION.c.id > after, TRANSITION.c.optimization_id != PRUNED)
    return rows(connection, select(TRANSITION).where(*where).order_by(TRANSITION.c.id).limit(limit))


def last_transition(connection: Connection, before: str = "9999") -> int:
    """Return the id of the last transition before the ISO moment `before`; 0 if there is none."""
    statement = select(TRANSITION.c.id).where(TRANSITION.c.at < before).order_by(TRANSITION.c.id.desc()).limit(1)
    return int(connection.execute(statement).scalar() or 0)


def awaiting(connection: Connection, optimization_id: str) -> list[str]:
    """Return the ids of the optimizations that wait for this one to complete."""
    statement = (
        select(DEPENDENCY.c.optimization_id)
        .join(OPTIMIZATION, OPTIMIZATION.c.optimization_id == DEPENDENCY.c.optimization_id)
        .where(DEPENDENCY.c.after_id == optimization_id, OPTIMIZATION.c.status.not_in(ENDED_STATUSES))
        .order_by(DEPENDENCY.c.optimization_id)
    )
    return list(connection.execute(statement).scalars())


def has_open_alert(connection: Connection, optimization_id: str) -> bool:
    """Whether an alert of this optimization fires, or still has its resolution to be notified."""
    mine = (ALERT.c.optimization_id == optimization_id, STATE_OF.c.is_open == literal_column("1"))
    found = select(ALERT.c.alert_id).join(STATE_OF, STATE_OF.c.alert_id == ALERT.c.episode).where(*mine).limit(1)
    return connection.execute(found).first() is not None


def intents(connection: Connection, optimization_id: str) -> list[Row]:
    """Return the intents of an optimization with author and time, oldest first."""
    where = INTENT.c.optimization_id == optimization_id
    return rows(connection, select(INTENT).where(where).order_by(INTENT.c.id))


def prefect_run(connection: Connection, run_id: str) -> Row | None:
    known = (PREFECT_RUN.c.run_id == run_id, PREFECT_RUN.c.optimization_id != PRUNED)
    found = rows(connection, select(PREFECT_RUN).where(*known))
    return found[0] if found else None


def known_runs(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Return those of `run_ids` that are recorded, including runs of pruned optimizations."""
    return set(connection.execute(select(PREFECT_RUN.c.run_id).where(PREFECT_RUN.c.run_id.in_(run_ids))).scalars())


def pruned_runs(connection: Connection, limit: int = 500) -> list[str]:
    """Return ids of flow runs whose optimization was pruned and that Prefect may still have."""
    statement = select(PREFECT_RUN.c.run_id).where(PREFECT_RUN.c.optimization_id == PRUNED).limit(limit)
    return list(connection.execute(statement).scalars())


def open_runs(connection: Connection, after: str = "", limit: int = 500) -> list[Row]:
    """Return runs of which Prefect may report more states, by id after `after`, with their optimization's status."""
    run, optimization = PREFECT_RUN.c, OPTIMIZATION.c
    statement = (
        select(
            run.run_id, run.kind, run.attempt, run.optimization_id, optimization.status, optimization.intent,
            optimization.attempt.label("current_attempt"), optimization.lease_node, optimization.suspended_run_id,
        )
        .join(OPTIMIZATION, optimization.optimization_id == run.optimization_id)
        .where(run.is_open == literal_column("1"), run.run_id > after)
        .order_by(run.run_id)
        .limit(limit)
    )  # fmt: skip
    return rows(connection, statement)


def known_states(connection: Connection, optimization_id: str, among: Collection[str] | None = None) -> set[str]:
    """Return the ids of the recorded Prefect states of an optimization's runs, limited to those in `among`."""
    query = select(PREFECT_STATE.c.state_id).where(PREFECT_STATE.c.optimization_id == optimization_id)
    if among is None or len(among) > MOST_AMONG:
        found = set(connection.execute(query).scalars())
        return found if among is None else found.intersection(among)
    return set(connection.execute(query.where(PREFECT_STATE.c.state_id.in_(among))).scalars())


def last_state_at(connection: Connection, optimization_id: str, run_id: str) -> str | None:
    """Return when the newest recorded state of this Prefect run was set."""
    mine = (PREFECT_STATE.c.optimization_id == optimization_id) & (PREFECT_STATE.c.run_id == run_id)
    found: str | None = connection.execute(select(func.max(PREFECT_STATE.c.at)).where(mine)).scalar()
    return found


def prefect_states(connection: Connection, optimization_id: str) -> list[Row]:
    where = PREFECT_STATE.c.optimization_id == optimization_id
    return rows(connection, select(PREFECT_STATE).where(where).order_by(PREFECT_STATE.c.at))


def metrics(connection: Connection, optimization_id: str, limit: int | None = None) -> list[Row]:
    """Return the newest `limit` metric values, oldest first."""
    where = METRIC.c.optimization_id == optimization_id
    statement = select(METRIC).where(where).order_by(METRIC.c.step.desc(), METRIC.c.name).limit(limit)
    return rows(connection, statement)[::-1]


def checkpoint(connection: Connection, optimization_id: str, step: int | None = None) -> dict[str, Any] | None:
    """Return the checkpoint of `step`, by default the last one; None if there is none."""
    statement = select(CHECKPOINT.c.data).where(CHECKPOINT.c.optimization_id == optimization_id)
    if step is not None:
        statement = statement.where(CHECKPOINT.c.step == step)
    data = connection.execute(statement.order_by(CHECKPOINT.c.step.desc()).limit(1)).scalar()
    return json.loads(data) if data is not None else None


def nodes(connection: Connection) -> list[Row]:
    found = rows(connection, select(NODE).order_by(NODE.c.node_id))
    for row in found:
        row["info"] = json.loads(row["info"])
    return found


def changes(connection: Connection, after: int, limit: int = 1000) -> list[Row]:
    columns = [CHANGE.c[name] for name in ("id", "optimization_id", "kind", "at")]
    return rows(connection, select(*columns).where(CHANGE.c.id > after).order_by(CHANGE.c.id).limit(limit))


def last_change(connection: Connection) -> int:
    return int(connection.execute(select(func.max(CHANGE.c.id))).scalar() or 0)

"""Health reports over time.

Contract. A report with the same content as the newest one adds no row but updates that row's time and checks. An ended
optimization is due for a check until a report of its present state is recorded. Reads cost the same at any size, except
`health_under_way`, which reads all that are running, paused or suspended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, literal, literal_column, or_, select, tuple_, update

from o9.model.optimization import OptimizationHealthReport, OptimizationState
from o9.model.states import ENDED, OptimizationStatus
from o9.store.core.column_types import free_text, moment, to_json
from o9.store.core.reading import PAGE_LIMIT, page_size, rows
from o9.store.core.unit import Operation, Row, UnitOfWork
from o9.store.optimizations.placebos import is_placebo
from o9.store.schema.optimizations import OPTIMIZATION, REPORT

VERDICT_CHECK = "validity.verdict"  # the check whose evidence is the verdict, written by `o9.health.grades`
_RUNNING = OptimizationStatus.RUNNING.value
_UNDER_WAY = (_RUNNING, OptimizationStatus.PAUSED.value, OptimizationStatus.SUSPENDED.value)
_NEWEST_FIRST = (REPORT.c.last_at.desc(), REPORT.c.optimization_id.desc())
# A partial index is used only by a statement that repeats its condition verbatim.
_IS_LATEST = REPORT.c.is_latest == literal_column("1")
_IS_DUE = OPTIMIZATION.c.health_due == literal_column("1")


@dataclass(frozen=True)
class RecordHealthReport(Operation[None]):
    """Record a report on the state `of`, with its checks. Raises OptimizationNotFoundError.

    judged_by: a digest of the thresholds and rules that were applied.
    """

    report: OptimizationHealthReport
    checks: Sequence[Mapping[str, Any]]
    of: OptimizationState
    judged_by: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.report.optimization_id,)

    def apply(self, unit: UnitOfWork) -> None:
        name = self.report.optimization_id
        row = unit.existing(name)
        fields = self.report.to_dict()
        at = moment(self.report.timestamp)
        del fields["timestamp"]
        content, as_of = free_text(to_json(fields)), moment(self.of.updated_at)
        values: Row = {
            "last_at": at, "status": self.of.status.value, "as_of": as_of, "judged_by": self.judged_by,
            "checks": free_text(to_json(list(self.checks))),
        }  # fmt: skip
        unit.flush()
        mine = select(REPORT.c.id, REPORT.c.report).where(REPORT.c.optimization_id == name)
        latest = unit.connection.execute(mine.order_by(REPORT.c.id.desc()).limit(1)).first()
        if latest is not None and latest.report == content:
            again = update(REPORT).where(REPORT.c.id == latest.id).values(**values, times=REPORT.c.times + 1)
            unit.connection.execute(again)
        else:
            if latest is not None:
                unit.connection.execute(update(REPORT).where(REPORT.c.id == latest.id).values(is_latest=0))
            new = values | {"optimization_id": name, "first_at": at, "times": 1, "is_latest": 1, "report": content}
            unit.connection.execute(insert(REPORT).values(**new))
        if OptimizationStatus(row["status"]) in ENDED:
            # Not through the unit, which would raise the optimization's version and mark it as changed.
            due = int(row["updated_at"] != as_of)
            where = OPTIMIZATION.c.optimization_id == name
            unit.connection.execute(update(OPTIMIZATION).where(where).values(health_due=due))


def health_report(connection: Connection, optimization_id: str) -> Row | None:
    """Return the newest report of an optimization with its checks; None if there is none."""
    found = health_history(connection, optimization_id, limit=1)
    return found[0] if found else None


def health_history(
    connection: Connection, optimization_id: str, limit: int = 100, before: int | None = None
) -> list[Row]:
    """Return the reports of an optimization before the id `before`, newest first, decoded and with `verdict`."""
    mine = REPORT.c.optimization_id == optimization_id
    statement = select(REPORT).where(mine).order_by(REPORT.c.id.desc()).limit(page_size(limit))
    return _rows(connection, statement if before is None else statement.where(REPORT.c.id < before))


def health_reports(connection: Connection, limit: int = 100, before: tuple[str, str] | None = None) -> list[Row]:
    """Return the newest report of each optimization before (`last_at`, `optimization_id`), newest first."""
    statement = select(REPORT).where(_IS_LATEST).order_by(*_NEWEST_FIRST).limit(page_size(limit))
    if before is not None:
        statement = statement.where(tuple_(REPORT.c.last_at, REPORT.c.optimization_id) < tuple_(*map(literal, before)))
    return _rows(connection, statement)


def health_reports_since(connection: Connection, after: int, limit: int = 1000) -> list[Row]:
    """Return the reports of all optimizations after the id `after`, by id."""
    wanted = select(REPORT).where(REPORT.c.id > after).order_by(REPORT.c.id).limit(page_size(limit))
    return _rows(connection, wanted)


def health_verdicts(connection: Connection, optimization_ids: Sequence[str]) -> dict[str, Row]:
    """Return, by id, the `verdict` in the newest report (None if it has none) and the `status` that was judged.

    Optimizations without a report are left out. It takes one query for each PAGE_LIMIT ids.
    """
    found: dict[str, Row] = {}
    columns = (REPORT.c.optimization_id, REPORT.c.status, REPORT.c.checks)
    for start in range(0, len(optimization_ids), PAGE_LIMIT):
        page = list(optimization_ids[start : start + PAGE_LIMIT])
        statement = select(*columns).where(_IS_LATEST, REPORT.c.optimization_id.in_(page))
        for row in connection.execute(statement):
            found[row.optimization_id] = {"status": row.status, "verdict": verdict_in(json.loads(row.checks))}
    return found


def verdict_in(checks: Sequence[Mapping[str, Any]]) -> Any:
    """Return the verdict among the checks of a report; None if there is none."""
    return next((check["evidence"].get("verdict") for check in checks if check["name"] == VERDICT_CHECK), None)


def last_health_report(connection: Connection, before: str = "9999") -> int:
    """Return the id of the last report before the ISO moment `before`; 0 if there is none."""
    statement = select(REPORT.c.id).where(REPORT.c.last_at < before).order_by(REPORT.c.id.desc()).limit(1)
    return int(connection.execute(statement).scalar() or 0)


def health_due(connection: Connection, limit: int = 100) -> list[str]:
    """Return the ended optimizations that are due for a check, in the order in which they ended."""
    order = (OPTIMIZATION.c.completed_at, OPTIMIZATION.c.optimization_id)
    found = (
        select(OPTIMIZATION.c.optimization_id).where(_IS_DUE, ~is_placebo()).order_by(*order).limit(page_size(limit))
    )
    return list(connection.execute(found).scalars())


def health_under_way(connection: Connection, limit: int = 100) -> list[str]:
    """Return those that are running, or are paused or suspended and have changed since their report; oldest first."""
    mine = REPORT.c.optimization_id == OPTIMIZATION.c.optimization_id
    newest = select(func.max(REPORT.c.id)).where(mine).correlate(OPTIMIZATION).scalar_subquery()
    joined = OPTIMIZATION.outerjoin(REPORT, REPORT.c.id == newest)
    changed = or_(OPTIMIZATION.c.status == _RUNNING, REPORT.c.id.is_(None), REPORT.c.as_of != OPTIMIZATION.c.updated_at)
    found = (
        select(OPTIMIZATION.c.optimization_id)
        .select_from(joined)
        .where(OPTIMIZATION.c.status.in_(_UNDER_WAY), changed, ~is_placebo())
        .order_by(func.coalesce(REPORT.c.last_at, ""), OPTIMIZATION.c.optimization_id)
        .limit(page_size(limit))
    )
    return list(connection.execute(found).scalars())


def _rows(connection: Connection, statement: Select[Any]) -> list[Row]:
    """Return the rows with their JSON decoded; `report` is what OptimizationHealthReport.from_dict takes."""
    found = rows(connection, statement)
    for row in found:
        row["report"] = json.loads(row["report"]) | {"timestamp": row["last_at"]}
        row["checks"] = json.loads(row["checks"])
        row["verdict"] = verdict_in(row["checks"])
    return found

"""What a result is checked against: the baseline, the dates, what each attempt ran, and the best's second evaluation.

Contract. A baseline is written once for an optimization, and a provenance once for an attempt. A repetition is replaced
by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select

from o9.model.trial import Ran, Trial
from o9.store.core.column_types import free_text, pack_returns
from o9.store.core.unit import OnOptimization, Row, UnitOfWork
from o9.store.schema.optimizations import BASELINE, CALENDAR, PROVENANCE, REPETITION


@dataclass(frozen=True)
class Baseline:
    """Packed returns of the baseline (`unpack_returns`), over the trials' periods and over those of their hold-outs."""

    returns: bytes
    hold_out: bytes | None


@dataclass(frozen=True)
class Repetition:
    """A second evaluation of trial `number`: the resulting `checks` as JSON, and the fingerprint of the `code`."""

    number: int
    code: str
    at: str
    checks: str


@dataclass(frozen=True)
class RecordProvenance(OnOptimization[None]):
    """Record what an attempt runs; a second record of the same attempt changes nothing."""

    optimization_id: str
    ran: Ran

    def apply(self, unit: UnitOfWork) -> None:
        ran = self.ran
        row = asdict(ran) | {"optimization_id": self.optimization_id, "objective": free_text(ran.objective)}
        unit.insert(PROVENANCE, row, ignore_known=True)


@dataclass(frozen=True)
class RecordRepetition(OnOptimization[None]):
    """Record a second evaluation in place of the last one."""

    optimization_id: str
    number: int
    code: str
    checks: str

    def apply(self, unit: UnitOfWork) -> None:
        row = {"optimization_id": self.optimization_id, "number": self.number, "code": self.code}
        unit.upsert(REPETITION, [row | {"at": unit.now, "checks": self.checks}])


def write_baseline(unit: UnitOfWork, optimization_id: str, trials: Sequence[Trial]) -> None:
    """Write the baseline of the first trial that has one, unless one is already recorded."""
    first = next((trial for trial in trials if trial.baseline_returns is not None), None)
    if first is not None and first.baseline_returns is not None:
        hold_out = first.baseline_hold_out_returns
        row: Row = {
            "optimization_id": optimization_id,
            "data": pack_returns(first.baseline_returns),
            "hold_out": None if hold_out is None else pack_returns(hold_out),
        }
        unit.insert(BASELINE, row, ignore_known=True)


def baseline(connection: Connection, optimization_id: str) -> Baseline | None:
    columns = select(BASELINE.c.data, BASELINE.c.hold_out).where(BASELINE.c.optimization_id == optimization_id)
    row = connection.execute(columns).first()
    return None if row is None else Baseline(row.data, row.hold_out)


def provenance(connection: Connection, optimization_id: str) -> list[Ran]:
    """Return what each attempt ran, by attempt."""
    columns = [PROVENANCE.c[name] for name in Ran.__dataclass_fields__]
    where = PROVENANCE.c.optimization_id == optimization_id
    return [Ran(**row._mapping) for row in connection.execute(select(*columns).where(where).order_by(columns[0]))]


def repetition(connection: Connection, optimization_id: str) -> Repetition | None:
    columns = [REPETITION.c[name] for name in Repetition.__dataclass_fields__]
    row = connection.execute(select(*columns).where(REPETITION.c.optimization_id == optimization_id)).first()
    return None if row is None else Repetition(**row._mapping)


def write_calendar(unit: UnitOfWork, optimization_id: str, dates: Sequence[float] | None) -> str | None:
    """Write `dates` once for each optimization, and return their digest; None if there are none."""
    if dates is None:
        return None
    data = pack_returns(dates)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    row = {"optimization_id": optimization_id, "digest": digest, "data": data}
    unit.insert(CALENDAR, row, ignore_known=True)
    return digest


def calendar(connection: Connection, optimization_id: str, digest: str | None) -> bytes | None:
    """Return the dates of a digest, packed (`unpack_returns`)."""
    if digest is None:
        return None
    mine = (CALENDAR.c.optimization_id == optimization_id, CALENDAR.c.digest == digest)
    return connection.execute(select(CALENDAR.c.data).where(*mine)).scalar()

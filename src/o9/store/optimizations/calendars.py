"""The dates of returns: equal ones are stored once for each optimization, however many of its trials have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, select

from o9.store.core.column_types import pack_returns
from o9.store.core.unit import UnitOfWork
from o9.store.schema.optimizations import CALENDAR


def keep_calendar(unit: UnitOfWork, optimization_id: str, dates: Sequence[float] | None) -> str | None:
    """The digest under which `dates` are kept; None where there are none."""
    if dates is None:
        return None
    data = pack_returns(dates)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    row = {"optimization_id": optimization_id, "digest": digest, "data": data}
    unit.insert(CALENDAR, row, ignore_known=True)
    return digest


def calendar(connection: Connection, optimization_id: str, digest: str | None) -> bytes | None:
    """Packed, as `unpack_returns` reads it."""
    if digest is None:
        return None
    mine = (CALENDAR.c.optimization_id == optimization_id, CALENDAR.c.digest == digest)
    return connection.execute(select(CALENDAR.c.data).where(*mine)).scalar()

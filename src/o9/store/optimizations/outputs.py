"""What users' code printed and logged, by trial, or by step if it belongs to no trial.

Contract. Output is written in the transaction of its step. The first TOTAL_BYTES of an optimization are kept; bytes
beyond that are counted in `cut`. A retry does not inherit output.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, literal, select, tuple_

from o9.model.trial import Output, Trial
from o9.store.core.column_types import free_text
from o9.store.core.unit import Row, UnitOfWork
from o9.store.schema.optimizations import OUTPUT

TOTAL_BYTES = 16 << 20
OF_NO_TRIAL = -1


def write_output(
    unit: UnitOfWork, optimization_id: str, step: int, trials: Sequence[Trial], own: Output | None = None
) -> None:
    """Write the output of `trials`, and `own`, which was printed in the step outside its trials."""
    printed = [(OF_NO_TRIAL, own), *((trial.number, trial.output) for trial in trials)]
    if all(output is None for _, output in printed):
        return
    unit.flush()
    newest = (OUTPUT.c.step.desc(), OUTPUT.c.number.desc())
    totals = select(OUTPUT.c.total).where(OUTPUT.c.optimization_id == optimization_id).order_by(*newest)
    total = int(unit.connection.execute(totals.limit(1)).scalar() or 0)
    for number, output in printed:
        if output is not None:
            kept, cut = _bounded(free_text(output.text), TOTAL_BYTES - total)
            total += len(kept.encode())
            row = {"optimization_id": optimization_id, "step": step, "number": number, "text": kept}
            unit.insert(OUTPUT, row | {"cut": output.cut + cut, "total": total}, ignore_known=True)


def outputs(
    connection: Connection,
    optimization_id: str,
    number: int | None = None,
    after: tuple[int, int] = (-1, -1),
    limit: int = 1000,
) -> list[Row]:
    """Return output after (step, number), in that order, optionally of one trial.

    `trial` is None for a text that belongs to no trial.
    """
    columns = [OUTPUT.c[name] for name in ("step", "number", "text", "cut")]
    place = (OUTPUT.c.step, OUTPUT.c.number)
    statement = select(*columns).where(
        OUTPUT.c.optimization_id == optimization_id, tuple_(*place) > tuple_(*map(literal, after))
    )
    if number is not None:
        statement = statement.where(OUTPUT.c.number == number)
    rows = connection.execute(statement.order_by(*place).limit(limit)).mappings()
    return [dict(row) | {"trial": None if row["number"] == OF_NO_TRIAL else row["number"]} for row in rows]


def _bounded(text: str, room: int) -> tuple[str, int]:
    data = text.encode()
    if len(data) <= room:
        return text, 0
    kept = data[: max(0, room)].decode(errors="ignore")
    return kept, len(data) - len(kept.encode())

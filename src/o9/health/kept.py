"""The verdict in the newest report of an optimization, read back from the store. Blocks; no numpy.

Contract. A report of another status than the present one says nothing of how it is now: it has no verdict here.
"""

from __future__ import annotations

from collections.abc import Sequence

from o9.health.grades import Verdict
from o9.model.optimization import OptimizationState
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.store import Store


def kept_verdict(store: Store, state: OptimizationState) -> Verdict | None:
    return kept_verdicts(store, [state]).get(state.optimization_id)


def kept_verdicts(store: Store, states: Sequence[OptimizationState]) -> dict[str, Verdict]:
    """By id, of those that have one; one query for a page of them."""
    rows = store.read(queries.health_verdicts, [state.optimization_id for state in states])
    found = {state.optimization_id: _of(rows.get(state.optimization_id), state) for state in states}
    return {name: verdict for name, verdict in found.items() if verdict is not None}


def _of(row: Row | None, state: OptimizationState) -> Verdict | None:
    if row is None or row["verdict"] is None or row["status"] != state.status.value:
        return None
    return Verdict.from_dict(row["verdict"])

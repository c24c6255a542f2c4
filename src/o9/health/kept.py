"""The verdict in the newest report of an optimization, read back from the store. Blocks; no numpy.

Contract. A report of another status than the present one says nothing of how it is now: it has no verdict here.
"""

from __future__ import annotations

from collections.abc import Sequence

from o9.health.grades import Verdict
from o9.model.optimization import OptimizationState
from o9.store import queries
from o9.store.store import Store


def kept_verdict(store: Store, state: OptimizationState) -> Verdict | None:
    return kept_verdicts(store, [state]).get(state.optimization_id)


def kept_verdicts(store: Store, states: Sequence[OptimizationState]) -> dict[str, Verdict]:
    """By id, of those that have one; one query for a page of them."""
    rows = store.read(queries.health_verdicts, [state.optimization_id for state in states])
    return {
        state.optimization_id: Verdict.from_dict(row["verdict"])
        for state in states
        if (row := rows.get(state.optimization_id)) and row["verdict"] and row["status"] == state.status.value
    }

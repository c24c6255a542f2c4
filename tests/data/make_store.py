"""Makes `store-REVISION.db` at the present schema; run once for each released schema, and never again.

python tests/data/make_store.py
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from o9.model.provenance import Ran
from o9.model.states import OptimizationPriority, OptimizationType, TrialState
from o9.model.states import OptimizationStatus as S
from o9.store.contract_steps import at_work, put, trial
from o9.store.leases import Claim
from o9.store.ledger import CommitStep
from o9.store.migrations import HEAD
from o9.store.provenance import RecordProvenance
from o9.store.store import Store
from o9.store.transitions import Cause, RecordPrefectState, Transition


def fill(store: Store) -> None:
    metadata = {"strategy": "optuna", "seed": 7}
    put(store, "done", name="Crossover", total_steps=2, metadata=metadata, priority=OptimizationPriority.HIGH)
    claimed = store.write(Claim("node-1", 1, 600.0, "done"))
    assert claimed is not None
    for number, (status, kind) in enumerate([(S.INITIALIZING, "PENDING"), (S.RUNNING, "RUNNING")]):
        store.write(
            RecordPrefectState(
                "done", 1, "flow", "11111111-1111-4111-8111-111111111111", "fast-fox", f"state-{number}", kind,
                kind.title(), "", datetime(2026, 1, 1, tzinfo=UTC), Cause.HOOK, status,
            )
        )  # fmt: skip
    first = trial(
        0, parameters={"fast": 5, "slow": 50.5}, value=1.5, metrics={"turnover": 3.1}, duration_seconds=0.25,
        returns=(0.01, -0.02, 5e-324), periods_per_year=252.0, family="prices-2022", hold_out_returns=(0.03, -0.01),
        baseline_returns=(0.0, 0.0, 0.01),
    )  # fmt: skip
    store.write(RecordProvenance("done", Ran(1, "crossover", "c1", "prices-2022")))
    second = trial(1, step=1, state=TrialState.FAILED, value=None, error="ZeroDivisionError: division by zero")
    for step, each in enumerate((first, second)):
        checkpoint = {"step": step, "rng": [0.1, 1e308]}
        best = {"fast": 5, "slow": 50.5}
        commit = CommitStep(
            "done", claimed.fence, step, [each], checkpoint, {"best": 1.5}, f"{step + 1}/2", 1.5, 0.5, best
        )
        store.write(commit)
    store.write(Transition("done", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    at_work(store, "broken", optimization_type=OptimizationType.RISK_OPTIMIZATION)
    store.write(Transition("broken", S.FAILED, Cause.HOOK, issue="no trial succeeded"))
    at_work(store, "名字-🚀", name="双均线")
    store.write(Transition("名字-🚀", S.PAUSED, Cause.PERSON, "by ann"))
    put(store, "waiting")


if __name__ == "__main__":
    path = Path(__file__).parent / f"store-{HEAD}.db"
    path.unlink(missing_ok=True)
    with Store(str(path)) as new_store:
        fill(new_store)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")  # one file
    connection.execute("VACUUM")
    connection.close()

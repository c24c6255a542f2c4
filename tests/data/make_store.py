"""Make `store-REVISION.db` at the present schema. Run it for each new revision, but never again after its release.

python tests/data/make_store.py
"""

from __future__ import annotations

import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

from o9.model.states import OptimizationPriority, OptimizationType, TrialState
from o9.model.states import OptimizationStatus as S
from o9.model.trial import Output, Ran
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, NewAlert, RaiseAlerts
from o9.store.alerts.outbox import BeginTry, CommitDecisions, EndTry, NewNotice, Suppressed
from o9.store.alerts.rule_state import SaveRuleStates
from o9.store.alerts.silences import AddSilence
from o9.store.migrations import HEAD
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.hold_outs import CountLook
from o9.store.optimizations.provenance import RecordProvenance
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.queue.claims import Claim
from o9.store.queue.leader_election import AcquireLeadership, ReleaseLeadership
from o9.store.store import Store
from o9.store.synchronization import Publish, RegisterNode

sys.path.insert(0, str(Path(__file__).parents[1] / "store_contract"))

from contract_steps import at_work, put, trial


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
        baseline_returns=(0.0, 0.0, 0.01), dates=(0.0, 86_400.0, 172_800.0), output=Output("慢\n", 3),
    )  # fmt: skip
    store.write(RecordProvenance("done", Ran(1, "crossover", "c1", "prices-2022", '{"fast":{}}')))
    second = trial(1, step=1, state=TrialState.FAILED, value=None, error="ZeroDivisionError: division by zero")
    for step, each in enumerate((first, second)):
        checkpoint = {"step": step, "rng": [0.1, 1e308]}
        best = {"fast": 5, "slow": 50.5}
        commit = CommitStep(
            "done", claimed.fence, step, [each], checkpoint, {"best": 1.5}, f"{step + 1}/2", 1.5, 0.5, best
        )
        store.write(commit)
    store.write(Transition("done", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    store.write(CountLook("done", 0))
    at_work(store, "broken", optimization_type=OptimizationType.RISK_OPTIMIZATION)
    store.write(Transition("broken", S.FAILED, Cause.HOOK, issue="no trial succeeded"))
    at_work(store, "名字-🚀", name="双均线")
    store.write(Transition("名字-🚀", S.PAUSED, Cause.PERSON, "by ann"))
    put(store, "waiting", metadata={"series": "nightly", "scheduled_at": "2026-01-02T03:04:05Z"})
    tell(store)
    store.write(RegisterNode("node-2", {"host": "東京"}))
    store.write(Publish("done", "node-1", {"regime": "慢"}))


def tell(store: Store) -> None:
    """Write a firing alert, a resolved one, a notification that was sent and one that is pending."""
    at, end = "2026-01-01T00:00:00.000000+00:00", "2026-01-01T01:00:00.000000+00:00"
    labels, metadata = '{"title":"慢"}', '{"evidence":{"seconds":1.5}}'
    fires = NewAlert("fires", "f1", labels, "done", "warning", "慢", "it is slow", metadata, at)
    over = NewAlert("over", "f2", labels, "", "error", "gone", "a disk", "{}", at, end)
    store.write(RaiseAlerts([fires, over]))
    store.write(AcknowledgeAlert("fires", "ann"))
    store.write(AddSilence("s1", datetime(2026, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC), pattern="x"))
    fence = store.write(AcquireLeadership("alerts", "node-1", 600.0))
    assert fence is not None
    told = [NewNotice("g", number, "default", "firing", "new", at, labels, ["fires"], [], ["log"]) for number in (1, 2)]
    suppressed = [Suppressed("over", "default", "silenced", "s1", at)]
    store.write(
        CommitDecisions("alerts", fence, store.read(queries.last_change), {"g": (at, '{"n":2}')}, {}, told, suppressed)
    )
    store.write(BeginTry("log", "node-1", 600.0))
    store.write(EndTry(1, 1, "node-1"))
    store.write(ReleaseLeadership("alerts", fence))
    judges = store.write(AcquireLeadership("alert rules", "node-1", 600.0))
    assert judges is not None
    state = '{"phase":"pending"}'
    store.write(SaveRuleStates("alert rules", judges, {("slow", "done"): state}, {"transition": 7}))


if __name__ == "__main__":
    path = Path(__file__).parent / f"store-{HEAD}.db"
    path.unlink(missing_ok=True)
    with Store(str(path)) as new_store:
        fill(new_store)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")  # one file
    connection.execute("VACUUM")
    connection.close()

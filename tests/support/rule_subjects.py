"""What happens to optimizations in a store, for alert rules to judge, and which alerts came of it."""

from __future__ import annotations

from typing import Any

from contract_steps import at_work, trial

from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus as S
from o9.model.states import TrialState
from o9.store import queries
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.health_reports import RecordHealthReport
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claimed
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationHealthReport


def told(store: Store) -> list[tuple[str, str, bool]]:
    """Each episode: its rule, of what, whether it is over; in the order of these."""
    rows = [row for row in store.read(queries.alerts, limit=1000) if row["episode"] == row["alert_id"]]
    return sorted(
        (row["metadata"]["rule"], row["optimization_id"] or _subject(row), row["resolved_at"] is not None)
        for row in rows
    )


def _subject(row: dict[str, Any]) -> str:
    labels = row["metadata"].get("labels", {})
    return next((labels[name] for name in ("node", "channel", "schedule", "type", "strategy") if name in labels), "")


def fail(store: Store, name: str, /, why: str = "ValueError: no data", **fields: Any) -> None:
    claimed = at_work(store, name, **fields)
    store.write(Transition(name, S.FAILED, Cause.HOOK, fence=claimed.fence, issue=why))


def complete(store: Store, name: str, /, value: float = 1.0, failed: int = 0, **fields: Any) -> None:
    claimed = at_work(store, name, **fields)
    commit(store, name, claimed, value, failed)
    store.write(Transition(name, S.COMPLETED, Cause.HOOK, fence=claimed.fence))


def commit(store: Store, name: str, claimed: Claimed, value: float = 1.0, failed: int = 0) -> None:
    bad = [trial(1 + n, state=TrialState.FAILED, value=None, error="x") for n in range(failed)]
    improvement = 0.0
    state = store.read(queries.get, name)
    if state is not None and state.baseline_performance:
        improvement = (value - state.baseline_performance) / state.baseline_performance
    best = {"x": 1}
    step = CommitStep(name, claimed.fence, 0, [trial(0), *bad], {}, {"best": value}, "1/1", value, improvement, best)
    store.write(step)


def report(store: Store, name: str, checks: list[dict[str, Any]], validity: str = "healthy") -> None:
    state = store.read(queries.get, name)
    assert state is not None
    fields = {f"{part}_{what}": value for part in ("validity", "completeness", "security", "performance")
              for what, value in (("status", "healthy"), ("score", 1.0))}  # fmt: skip
    said = fields | {"validity_status": validity, "overall_status": validity, "timestamp": utc_now()}
    made = OptimizationHealthReport.from_dict({"optimization_id": name, **said, "issues": [str(checks)]})
    store.write(RecordHealthReport(made, checks, state))

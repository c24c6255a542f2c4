"""The contract of pruning: what is deleted, what is kept, and what stays counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import Any

from contract_alerts import new_alert
from contract_reports import healthy, record_report
from contract_steps import (
    OpenStore,
    assert_counts_are_true,
    at_work,
    new,
    put,
    record_of,
    refused,
    together,
    trial,
)

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.states import Intent, TrialState
from o9.model.states import OptimizationStatus as S
from o9.model.trial import Trial
from o9.store import queries
from o9.store.alerts.episodes import RaiseAlerts, ResolveAlert
from o9.store.alerts.outbox import CommitDecisions, Suppressed
from o9.store.core.column_types import pack_returns, unpack_returns
from o9.store.optimizations.commit_step import Amend, CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.prefect_runs import Adopt, CloseRun, DeletePrunedRuns, RegisterRun
from o9.store.optimizations.pruning import BEING_PRUNED, Prune, PruneChanges, Pruned, PrunePreview, PruneReason
from o9.store.optimizations.retry import Retry
from o9.store.optimizations.transitions import Cause, Create, RecordPrefectState, Transition
from o9.store.queue.claims import MIRRORED
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.statistics.rankings import RecordMetrics
from o9.store.store import Store

ALL = "9999"  # later than any end


class PruningContract:
    """Deleting ended optimizations while others read and write."""

    def test_ended_optimizations_are_deleted_and_the_rest_is_unchanged(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for name in ("a", "b", "runs"):
            live(store, name)
        for name, status in (("a", S.COMPLETED), ("b", S.FAILED)):
            store.write(Transition(name, status, Cause.HOOK))
        put(store, "waits")
        before = {name: whole(store, name) for name in ("runs", "waits")}
        last = store.read(queries.last_change), store.read(queries.last_transition)
        preview = store.read(queries.prunable, ALL)
        assert preview == PrunePreview({"completed": 1, "failed": 1}, {}, preview.first_ended, preview.last_ended)
        assert preview.first_ended is not None
        assert preview.last_ended is not None
        assert preview.first_ended < preview.last_ended
        assert prune_all(store)[0] == 2
        for name in ("a", "b"):
            assert other.read(queries.get, name) is None
            assert other.read(queries.holding, name) is None
            assert whole(other, name) == whole(other, "there never was one")
            with refused(OptimizationError, name, "o9 list"):
                other.write(Amend(name, {"progress": 0.5}))
        assert {name: whole(other, name) for name in ("runs", "waits")} == before
        assert [state.optimization_id for state in other.read(queries.page).items] == ["waits", "runs"]
        assert (other.read(queries.prunable, ALL).optimizations, prune_all(other)[0]) == (0, 0)
        assert other.read(queries.last_change) > last[0]
        assert other.read(queries.last_transition) == last[1]
        # The id is free again, and a new optimization inherits nothing.
        put(other, "a")
        assert whole(store, "a")["trials"] == []
        assert store.read(queries.transitions, "a")[0]["id"] > last[1]

    def test_reasons_to_keep(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("first", "awaited", "awaited before", "open run", "young", "free"):
            at_work(store, name)
        at_work(store, "runs")
        store.write(Transition("awaited before", S.COMPLETED, Cause.HOOK))
        put(store, "waits", metadata={"after": ["awaited", "awaited before", "runs"]})
        store.write(Transition("awaited", S.COMPLETED, Cause.HOOK))
        store.write(RegisterRun("run-1", "open run", 1))
        for name in ("first", "open run", "free"):
            store.write(Transition(name, S.CANCELLED, Cause.HOOK))
        store.write(Transition("young", S.FAILED, Cause.HOOK))
        young = store.read(queries.get, "young")
        assert young is not None
        assert young.completed_at is not None
        before = young.completed_at.isoformat(timespec="microseconds")
        kept = {PruneReason.AWAITED: 2, PruneReason.OPEN_RUN: 1}
        preview = store.read(queries.prunable, before)
        assert (preview.by_status, preview.kept) == ({"cancelled": 2}, kept)
        done, why = prune_all(store, before)
        assert (done, why) == (2, kept)
        last = store.read(queries.last_transition)
        assert prune_all(store) == (1, kept)  # the end of "young" is the newest transition
        assert (store.read(queries.last_transition), store.read(queries.transitions_since, last - 1)) == (last, [])
        assert {state.optimization_id for state in store.read(queries.page).items} == {
            "awaited", "awaited before", "open run", "runs", "waits",
        }  # fmt: skip
        store.write(CloseRun("run-1"))
        store.write(SetIntent("waits", Intent.CANCEL, "ann"))
        assert prune_all(store) == (4, {})
        # An optimization whose dependents were pruned can end.
        store.write(Transition("runs", S.COMPLETED, Cause.HOOK))
        assert prune_all(store) == (1, {})
        assert store.read(queries.page).items == []
        assert_counts_of_what_is_there(store)

    def test_a_firing_alert_keeps_its_optimization_until_it_is_closed(self, open_store: OpenStore) -> None:
        store = open_store()
        for name in ("a", "b"):
            at_work(store, name)
            store.write(Transition(name, S.FAILED, Cause.HOOK))
        at_work(store, "runs")
        store.write(RaiseAlerts([new_alert("mine", optimization_id="a")]))
        # An alert of the same episode keeps another optimization too.
        store.write(RaiseAlerts([new_alert("theirs", optimization_id="b")]))
        assert prune_all(store) == (0, {PruneReason.OPEN_ALERT: 2})
        store.write(ResolveAlert("mine", "ann"))
        assert prune_all(store) == (0, {PruneReason.OPEN_ALERT: 2})  # its resolution was not notified yet
        store.write(AcquireLeadership("alerts", "node-1", 600.0))
        suppressed = [Suppressed("mine", "default", "silenced", "s1", "2026-01-01T00:00:00.000000+00:00")]
        store.write(
            CommitDecisions("alerts", 1, store.read(queries.last_change), suppressed=suppressed, closed=["mine"])
        )
        assert store.read(queries.prunable, ALL).optimizations == 2
        assert prune_all(store) == (2, {})
        assert (store.read(queries.alerts), store.read(queries.suppressed, alert_id="mine")) == ([], [])

    def test_ids_of_pruned_flow_runs_are_kept_until_those_are_deleted(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        adopted = new("watched", metadata={"strategy": MIRRORED})
        store.write(Adopt(adopted, "run of somebody", "node-1", 60.0))
        store.write(Transition("watched", S.FAILED, Cause.HOOK))
        store.write(CloseRun("run of somebody"))
        for name in ("a", "b"):
            live(store, name)
            store.write(RegisterRun(f"second run of {name}", name, 2))
            store.write(CloseRun(f"second run of {name}"))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        assert store.read(queries.pruned_runs) == []
        at_work(store, "runs")
        assert prune_all(store)[0] == 2
        mine = {"run of a", "second run of a"}
        assert set(other.read(queries.pruned_runs)) == mine  # without existing optimizations and mirrored runs
        assert len(other.read(queries.pruned_runs, limit=1)) == 1
        put(other, "a")  # a new optimization with the same id does not own the runs
        assert set(other.read(queries.pruned_runs)) == mine
        assert [other.read(queries.prefect_run, run) for run in mine] == [None, None]
        store.write(DeletePrunedRuns(("run of a", "run of b", "no such run")))
        assert other.read(queries.pruned_runs) == ["second run of a"]
        run = other.read(queries.prefect_run, "run of b")
        assert run is not None
        assert run["optimization_id"] == "b"

    def test_pruned_trials_stay_counted_with_their_sharpe_ratios(self, open_store: OpenStore) -> None:
        store = open_store()
        rising, falling, flat = (0.02, 0.0, 0.01, 0.03), (-0.01, 0.01, -0.02, 0.0), (0.01, 0.01, 0.01)
        fence = at_work(store, "a", total_steps=3).fence
        store.write(CommitStep("a", fence, 0, [_failed(0), trial(1, family="f", returns=rising)], {}))
        steps = [
            trial(2, step=1, family="f", returns=flat), trial(3, step=1, family="f", returns=(math.nan, 1.0)),
            trial(4, step=1, family="f"), trial(5, step=1, family="g", returns=falling), trial(6, step=1),
        ]  # fmt: skip
        store.write(CommitStep("a", fence, 1, steps, {}))
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        store.write(Retry(Create(new("again")), "a", 2))
        store.write(Transition("again", S.CANCELLED, Cause.PERSON))
        at_work(store, "b")
        before = {name: store.read(queries.family_trials, name, "").counts for name in ("f", "g")}
        assert before == {"f": {"completed": 4, "failed": 1}, "g": {"completed": 1}}
        assert prune_all(store)[0] == 2
        tried = store.read(queries.family_trials, "f", "")
        assert {name: store.read(queries.family_trials, name, "").counts for name in ("f", "g")} == before
        assert tried.returns == {}
        # Trials without a Sharpe ratio count, too.
        assert (tried.pruned.count, tried.pruned.sharpes) == (5, 1)
        rose, fell = plain_sharpe_ratios([pack_returns(rising), pack_returns(falling)])
        assert math.isclose(tried.pruned.sharpe_sum, rose)
        assert math.isclose(tried.pruned.sharpe_square_sum, rose**2)
        assert math.isclose(store.read(queries.family_trials, "g", "").pruned.sharpe_sum, fell)

    def test_a_large_optimization_is_deleted_in_pieces(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        fence = at_work(store, "large").fence
        for step in range(3):
            trials = [trial(200 * step + n, step=step, family="f", returns=(0.01, 0.02 * n, -0.01)) for n in range(200)]
            store.write(CommitStep("large", fence, step, trials, {"step": step}))
        store.write(Transition("large", S.COMPLETED, Cause.HOOK))
        at_work(store, "runs")
        tried = store.read(queries.family_trials, "f", "")
        seen: list[int] = []
        cursor: tuple[str, str] | None = ("", "")
        while cursor is not None:
            done = store.write(Prune(ALL, plain_sharpe_ratios, cursor, seconds=0.0))
            cursor = done.cursor
            left = other.read(queries.trials, "large")
            now = other.read(queries.family_trials, "f", "")
            seen.append(len(left))
            assert now.counts == tried.counts == {"completed": 600}
            assert (now.pruned.count, now.pruned.sharpes) == (600 - len(left), 600 - len(left))
            assert_counts_are_true(store) if left else assert_counts_of_what_is_there(store)
            if left and len(left) < 600:
                state = other.read(queries.get, "large")
                assert state is not None
                assert state.warnings == [BEING_PRUNED]
                assert other.read(queries.health_due) == []
                assert other.read(queries.checkpoint, "large") is None
                with refused(OptimizationValidationError, "metadata.retry_from_step"):
                    store.write(Retry(Create(new("again")), "large", 1))
        assert seen[:3] == [500, 400, 300]
        assert store.read(queries.get, "large") is None

    def test_concurrent_prunes_delete_everything_once(self, open_store: OpenStore) -> None:
        stores = open_store(), open_store()
        for number in range(9):
            fence = at_work(stores[0], f"a{number}").fence
            stores[0].write(CommitStep(f"a{number}", fence, 0, [trial(0, family="f"), _failed(1)], {}))
            stores[0].write(Transition(f"a{number}", S.COMPLETED, Cause.HOOK))
        at_work(stores[0], "runs")
        cursors: dict[int, tuple[str, str] | None] = {0: ("", ""), 1: ("", "")}
        deleted = 0
        while any(cursors.values()):
            for number, cursor in cursors.items():
                if cursor is not None:
                    done = stores[number].write(Prune(ALL, plain_sharpe_ratios, cursor, seconds=0.0))
                    cursors[number] = done.cursor
                    deleted += done.optimizations
        assert deleted == 9
        assert stores[0].read(queries.family_trials, "f", "").counts == {"completed": 9, "failed": 9}
        assert_counts_of_what_is_there(stores[1])

    def test_a_later_write_in_the_same_transaction_finds_it_deleted(self, open_store: OpenStore) -> None:
        store = open_store()
        at_work(store, "a")
        store.write(Transition("a", S.COMPLETED, Cause.HOOK))
        at_work(store, "b")
        prune = Prune(ALL, plain_sharpe_ratios)
        late, too_late = (Amend("a", {"warnings": [word]}) for word in ("late", "too late"))
        amended, done, refused_ = together(store, [late, prune, too_late])
        assert isinstance(done, Pruned)
        assert (amended.completed_steps, done.optimizations) == (0, 1)
        assert isinstance(refused_, OptimizationError)
        put(store, "a")
        store.write(Transition("a", S.CANCELLED, Cause.PERSON))
        at_work(store, "c")
        amended, done, (_, is_new) = together(store, [late, prune, Create(new("a"))])
        assert is_new
        state = store.read(queries.get, "a")
        assert state is not None
        assert (state.status, state.warnings) == (S.CREATED, [])
        assert [row["to_status"] for row in store.read(queries.transitions, "a")] == ["created"]
        assert_counts_of_what_is_there(store)

    def test_old_changes_are_deleted_but_the_newest_stays(self, open_store: OpenStore) -> None:
        store = open_store()
        for number in range(4):
            put(store, f"a{number}")
        changes = store.read(queries.changes, 0)
        assert len(changes) == 4
        assert store.write(PruneChanges(changes[1]["at"])) == 1
        assert store.write(PruneChanges(ALL, limit=1)) == 1
        assert [row["id"] for row in store.read(queries.changes, 0)] == [row["id"] for row in changes[2:]]
        assert [store.write(PruneChanges(ALL)) for _ in range(2)] == [1, 0]
        assert store.read(queries.last_change) == changes[-1]["id"]
        put(store, "b")
        assert [row["optimization_id"] for row in store.read(queries.changes, changes[-1]["id"])] == ["b"]


def live(store: Store, name: str) -> None:
    """Create a running optimization with a row in every table that belongs to one."""
    fence = at_work(store, name, total_steps=2).fence
    store.write(RegisterRun(f"run of {name}", name, 1))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    store.write(
        RecordPrefectState(
            name, 1, "flow", f"run of {name}", "fast-fox", f"state of {name}", "RUNNING", "Running", "", at, Cause.HOOK
        )
    )
    first = trial(0, family="f", returns=(0.01, 0.02, 0.03), periods_per_year=252.0)
    store.write(CommitStep(name, fence, 0, [first, _failed(1)], {"rng": 1}, {"best_value": 1.0}))
    store.write(RecordMetrics(name, {"sharpe": 1.0}, "2026-01-01T00:00:00.000000+00:00"))
    for intent in (Intent.PAUSE, Intent.RUN):
        store.write(SetIntent(name, intent, "ann"))
    record_report(store, healthy(name))
    store.write(CloseRun(f"run of {name}"))


def whole(store: Store, name: str) -> dict[str, Any]:
    """Return all that a store has of an optimization."""
    return {
        **vars(record_of(store, name)),
        "last_change": None,
        "reports": store.read(queries.health_history, name),
        "intents": store.read(queries.intents, name),
        "recordings": store.read(queries.recordings, name),
        "run": store.read(queries.prefect_run, f"run of {name}"),
        "returns": store.read(queries.trial, name, 0),
    }


def prune_all(store: Store, before: str = ALL) -> tuple[int, dict[PruneReason, int]]:
    """Prune all, and return how many were deleted, and how many were kept by reason."""
    deleted, kept = 0, Counter[PruneReason]()
    cursor: tuple[str, str] | None = ("", "")
    while cursor is not None:
        done = store.write(Prune(before, plain_sharpe_ratios, cursor))
        deleted, kept, cursor = deleted + done.optimizations, kept + done.kept, done.cursor
    return deleted, dict(kept)


def assert_counts_of_what_is_there(store: Store) -> None:
    """The present counts equal a recount."""
    states = store.read(queries.page, limit=1000).items
    there = Counter(state.status.value for state in states)
    counted: Counter[str] = Counter()
    for row in store.read(queries.counts):
        counted[row["status"]] += row["count"]
    assert counted == there
    assert {row["priority"]: row["count"] for row in store.read(queries.priorities)} == Counter(
        int(s.priority) for s in states
    )


def _failed(number: int) -> Trial:
    return trial(number, state=TrialState.FAILED, value=None, error="no data")


def plain_sharpe_ratios(packed: Sequence[bytes], baseline: bytes | None = None) -> list[float]:
    """Return the Sharpe ratios of finite series that vary."""
    series = [unpack_returns(each) for each in packed]
    return [fmean(each) / stdev(each) for each in series if len(set(each)) > 1 and all(map(math.isfinite, each))]

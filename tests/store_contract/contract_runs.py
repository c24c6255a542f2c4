"""The contract of retries, repeated commits and Prefect flow runs. See `contract` for its use."""

from __future__ import annotations

import dataclasses
import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from contract_steps import OpenStore, at_work, new, put, record_of, refused, status_of, sweep, trial

from o9.model.errors import (
    OptimizationConflictError,
    OptimizationCoordinationError,
    OptimizationError,
    OptimizationStateError,
    OptimizationValidationError,
    StaleAttemptError,
)
from o9.model.states import Intent, OptimizationStatus, TransitionReason, TrialState
from o9.model.trial import Trial
from o9.store import queries
from o9.store.core.column_types import moment, pack_returns
from o9.store.optimizations.commit_step import CommitStep, RecordCutOff
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.prefect_runs import (
    MAX_REJECTIONS,
    Admission,
    Adopt,
    BeginRun,
    CloseRun,
    HandOver,
    RecordLostRun,
    RegisterRun,
    RejectRun,
    SetSuspendedRun,
)
from o9.store.optimizations.retry import Retry
from o9.store.optimizations.transitions import Cause, Create, RecordPrefectState, Transition
from o9.store.queue.claims import MIRRORED, AbandonClaim, Claim, Claimed, Heartbeat
from o9.store.statistics.families import INHERITED
from o9.store.store import Store

S = OptimizationStatus
AWKWARD = (5e-324, -1.7976931348623157e308, 0.1 + 0.2, 1 / 3)
RETURNS = (*AWKWARD, -0.0, math.inf, math.nan, struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0])


class RetryContract:
    """Running an ended optimization again from a checkpoint."""

    def test_a_retry_can_begin_after_any_step(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        finished(store, "origin", steps=4)
        before = record_of(store, "origin")
        for steps in range(5):
            name = f"again-{steps}"
            recorded, is_new = store.write(Retry(Create(new(name, total_steps=8)), "origin", steps))
            assert (is_new, recorded.status, recorded.completed_steps) == (True, S.CREATED, steps)
            assert recorded.progress == steps / 8
            assert other.read(queries.checkpoint, name) == ({"rng": [steps - 1, *AWKWARD]} if steps else None)
            assert [row["step"] for row in other.read(queries.metrics, name)] == list(range(steps))
            inherited = other.read(queries.trials, name)
            assert [(t.number, t.attempt) for t in inherited] == [(n, INHERITED) for n in range(2 * steps)]
            for mine in inherited:
                theirs = other.read(queries.trial, "origin", mine.number)
                assert bits(other.read(queries.trial, name, mine.number)) == bits(theirs)
            for mine, theirs in zip(inherited, other.read(queries.trials, "origin"), strict=False):
                assert repr(dataclasses.replace(mine, attempt=theirs.attempt)) == repr(theirs)
            assert len(store.read(queries.transitions, name)) == 1
        assert record_of(store, "origin").trials == before.trials
        assert record_of(store, "origin").state == before.state

    def test_steps_in_which_every_trial_failed(self, open_store: OpenStore) -> None:
        store = open_store()
        claimed = at_work(store, "a")
        ok, bad = TrialState.COMPLETED, TrialState.FAILED
        number = 0
        for step, states in enumerate([(ok, ok), (bad, bad), (bad, ok), (), (TrialState.CANCELLED, bad), (bad,)]):
            trials = [trial(number + n, step=step, state=state) for n, state in enumerate(states)]
            number += len(trials)
            store.write(CommitStep("a", claimed.fence, step, trials, {}))
        at_work(store, "b")
        assert (store.read(queries.failed_steps, "a"), store.read(queries.failed_steps, "b")) == ({1, 5}, set())

    def test_a_retry_continues_its_own_ledger(self, open_store: OpenStore) -> None:
        store = open_store()
        finished(store, "origin", steps=2)
        store.write(Retry(Create(new("again")), "origin", 2))
        claimed = store.write(Claim("node", 9, 60.0, "again"))
        assert claimed is not None
        for status in (S.INITIALIZING, S.RUNNING):
            store.write(Transition("again", status, Cause.HOOK, fence=claimed.fence))
        before = record_of(store, "again")
        with refused(OptimizationStateError, "step 1", " 2"):  # the retry has not committed the inherited step
            store.write(
                CommitStep(
                    "again", claimed.fence, 1, store.read(queries.trials, "again", after=1), {"rng": [1, *AWKWARD]}
                )
            )
        assert record_of(store, "again") == before
        store.write(CommitStep("again", claimed.fence, 2, [trial(4, step=2)], {}))
        assert [t.attempt for t in store.read(queries.trials, "again")] == [INHERITED] * 4 + [1]
        assert len(store.read(queries.trials, "origin")) == 5

    def test_a_retry_is_refused_without_a_checkpoint_or_an_end(self, open_store: OpenStore) -> None:
        store = open_store()
        finished(store, "origin", steps=2)
        at_work(store, "busy")
        put(store, "waits")
        before = store.read(queries.last_change)
        for steps in (3, 99, -1):
            with refused(OptimizationValidationError, "metadata.retry_from_step", f"step {steps}", "committed 2"):
                store.write(Retry(Create(new("again")), "origin", steps))
        for name, status in [("busy", "running"), ("waits", "created")]:
            with refused(OptimizationStateError, repr(name), status, "ended"):
                store.write(Retry(Create(new("again")), name, 0))
        with refused(OptimizationError, "'ghost'"):
            store.write(Retry(Create(new("again")), "ghost", 0))
        assert (store.read(queries.get, "again"), store.read(queries.last_change)) == (None, before)

    def test_the_same_retry_twice_is_once(self, open_store: OpenStore) -> None:
        store = open_store()
        finished(store, "origin", steps=2)
        store.write(Retry(Create(new("again")), "origin", 1))
        before = record_of(store, "again")
        recorded, is_new = store.write(Retry(Create(new("again")), "origin", 1))
        assert (is_new, recorded.completed_steps) == (False, 1)
        with refused(OptimizationConflictError, "'again'"):
            store.write(Retry(Create(new("again", total_steps=9)), "origin", 1))
        assert record_of(store, "again") == before


class TwiceContract:
    """A step whose acknowledgement was lost is committed again."""

    def test_the_same_step_again_is_acknowledged_and_written_once(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        fence = at_work(store, "a").fence
        for step in range(2):
            failed = trial(2 * step + 1, step=step, state=TrialState.FAILED, value=None, error="x\0")
            trials = [trial(2 * step, step=step, value=AWKWARD[step], returns=RETURNS), failed]
            commit = CommitStep("a", fence, step, trials, {"at": [step, *AWKWARD]}, {"m": 1.0})
            first = store.write(commit)
            before = record_of(store, "a")
            other.write(SetIntent("a", Intent.PAUSE if step else Intent.RUN, "ann"))
            again = other.write(commit)
            assert (first.completed_steps, again.completed_steps) == (step + 1, step + 1)
            assert again.intent is (Intent.PAUSE if step else Intent.RUN)  # the present intent
            after = record_of(store, "a")
            assert (after.trials, after.checkpoint, after.metrics) == (before.trials, before.checkpoint, before.metrics)
        before = record_of(store, "a")
        mine = commit.checkpoint
        others: list[tuple[list[Trial], dict[str, Any]]] = [
            (trials, {"at": 7}), (trials[:1], dict(mine)), ([*trials, trial(4, step=1)], dict(mine)), ([], dict(mine)),
            ([trial(8, step=1), trials[1]], dict(mine)), ([trial(2, step=1, value=9.0), trials[1]], dict(mine)),
            ([trial(2, step=1, value=AWKWARD[1], parameters={"x": 3}), trials[1]], dict(mine)),
        ]  # fmt: skip
        for evaluated, checkpoint in others:
            with refused(OptimizationStateError, "step 1", " 2"):
                store.write(CommitStep("a", fence, 1, evaluated, checkpoint, {"m": 1.0}))
        for wrong in (fence - 1, fence + 1):
            with refused(StaleAttemptError, str(wrong)):
                store.write(CommitStep("a", wrong, 1, trials, mine, {"m": 1.0}))
        assert record_of(store, "a") == before


class PrefectRunContract:
    """Flow runs: their attempts, mirrored runs and suspended ones."""

    def test_open_runs_until_they_are_closed(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        for n in range(5):
            put(store, f"a{n}")
            store.write(RegisterRun(f"run-{n}", f"a{n}", 1))
        store.write(RegisterRun("run-3", "a3", 2))  # a resumed run is a new attempt
        store.write(Claim("node-1", 9, 60.0, "a3"))
        known = other.read(queries.prefect_run, "run-3")
        assert known is not None
        assert (known["optimization_id"], known["attempt"], known["kind"], known["is_open"]) == ("a3", 2, "attempt", 1)
        assert other.read(queries.prefect_run, "run-9") is None
        for run_id in ("run-1", "never known"):
            store.write(CloseRun(run_id))
        seen: list[str] = []
        for _ in range(3):
            seen += [row["run_id"] for row in other.read(queries.open_runs, after=seen[-1] if seen else "", limit=3)]
        assert seen == ["run-0", "run-2", "run-3", "run-4"]
        found = {row["run_id"]: row for row in other.read(queries.open_runs)}["run-3"]
        assert (found["status"], found["lease_node"], found["current_attempt"]) == ("created", "node-1", 1)
        store.write(RegisterRun("run-1", "a1", 2))
        assert [row["run_id"] for row in other.read(queries.open_runs, limit=2)] == ["run-0", "run-1"]

    def test_transitions_and_states_of_all(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        assert (store.read(queries.last_transition), store.read(queries.transitions_since, 0)) == (0, [])
        for name in ("a", "b"):
            at_work(store, name)
        rows = other.read(queries.transitions_since, 0)
        assert [(row["optimization_id"], row["to_status"]) for row in rows] == [
            (name, status) for name in ("a", "b") for status in ("created", "initializing", "running")
        ]
        assert other.read(queries.transitions_since, rows[1]["id"], limit=2) == rows[2:4]
        assert other.read(queries.transitions_since, other.read(queries.last_transition)) == []
        at = datetime(2026, 1, 1, tzinfo=UTC)
        for name, state_id in [("a", "s1"), ("a", "s2"), ("a", "s1"), ("b", "s3")]:
            store.write(RecordPrefectState(name, 1, "task", "r", "n", state_id, "T", "N", "", at, Cause.EVENT))
        assert [other.read(queries.known_states, name) for name in ("a", "b", "ghost")] == [{"s1", "s2"}, {"s3"}, set()]
        many = ["s1", *(f"no-{number}" for number in range(2000))]
        assert [other.read(queries.known_states, "a", among) for among in (["s2", "s3"], [], many)] == [
            {"s2"},
            set(),
            {"s1"},
        ]
        later = at + timedelta(hours=1)
        store.write(RecordPrefectState("a", 1, "flow", "f", "n", "s4", "T", "N", "", later, Cause.EVENT))
        assert [other.read(queries.last_state_at, "a", run_id) for run_id in ("r", "f", "ghost")] == [
            moment(at),
            moment(later),
            None,
        ]

    def test_an_end_seen_by_its_own_node_counts_whatever_the_clock_said(self, open_store: OpenStore) -> None:
        """The clock of Prefect's server was set back an hour during the run."""
        store = open_store()
        put(store, "a")
        store.write(Claim("node-1", 9, 60.0, "a"))
        before, after = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 11, tzinfo=UTC)

        def hear(state_id: str, at: datetime, source: Cause, to: S, attempt: int = 1) -> TransitionReason | None:
            heard = RecordPrefectState("a", attempt, "flow", "r", "n", state_id, "T", "N", "", at, source, to)
            decision = store.write(heard)
            return decision.reason if decision else None

        assert hear("s1", before, Cause.CLAIM, S.INITIALIZING) is TransitionReason.ALLOWED
        assert hear("s2", before, Cause.HOOK, S.RUNNING) is TransitionReason.ALLOWED
        assert hear("s3", after, Cause.HOOK, S.COMPLETED) is TransitionReason.STALE_VERSION
        assert hear("s3", after, Cause.EVENT, S.COMPLETED) is None
        assert hear("s4", after, Cause.NODE, S.PAUSED) is TransitionReason.STALE_VERSION
        assert hear("s3", after, Cause.NODE, S.COMPLETED, attempt=0) is TransitionReason.STALE_FENCE
        assert status_of(store, "a") is S.RUNNING
        assert hear("s3", after, Cause.NODE, S.COMPLETED) is TransitionReason.ALLOWED
        assert hear("s3", after, Cause.NODE, S.COMPLETED) is None
        assert status_of(store, "a") is S.COMPLETED
        assert len(store.read(queries.prefect_states, "a")) == 4

    def test_an_end_may_be_recorded_before_the_running_state(self, open_store: OpenStore) -> None:
        """The running state is still in the spool, since the store was unavailable when the run began."""
        store, at = open_store(), datetime(2026, 1, 1, tzinfo=UTC)
        put(store, "a")
        store.write(Claim("node-1", 9, 60.0, "a"))

        def hear(state_id: str, source: Cause, to: S) -> TransitionReason | None:
            heard = RecordPrefectState("a", 1, "flow", "r", "n", state_id, "T", "N", "", at, source, to)
            decision = store.write(heard)
            return decision.reason if decision else None

        assert hear("s1", Cause.CLAIM, S.INITIALIZING) is TransitionReason.ALLOWED
        assert hear("s3", Cause.HOOK, S.COMPLETED) is TransitionReason.NOT_IN_TABLE
        assert hear("s3", Cause.NODE, S.COMPLETED) is TransitionReason.ALLOWED
        assert hear("s2", Cause.HOOK, S.RUNNING) is TransitionReason.ENDED
        moves = store.read(queries.transitions, "a")
        assert [move["to_status"] for move in moves] == ["created", "initializing", "running", "completed"]
        state = store.read(queries.get, "a")
        assert state is not None
        began, ended = (datetime.fromisoformat(move["at"]) for move in (moves[1], moves[3]))
        assert (state.started_at, state.execution_time) == (began, (ended - began).total_seconds())

    def test_a_run_that_waits_for_its_turn_moves_nothing(self, open_store: OpenStore) -> None:
        """It is Running in Prefect, but holds no lease."""
        store, at = open_store(), datetime(2026, 1, 1, tzinfo=UTC)
        put(store, "first")
        put(store, "a")
        assert store.write(Claim("node-1", 1, 60.0, "first")) is not None
        store.write(Heartbeat("node-1", "host", 1, 0.0, 60.0, {"limit": 1}))
        assert store.write(BeginRun("a", "r", "node-2", 60.0)) == (Admission.NO_ROOM, None)
        for state_id, to in (("s1", S.INITIALIZING), ("s2", S.RUNNING)):
            decision = store.write(
                RecordPrefectState("a", 0, "flow", "r", "n", state_id, "T", "N", "", at, Cause.EVENT, to)
            )
            assert decision is not None
            assert not decision.allowed
            assert status_of(store, "a") is S.CREATED
        assert store.read(queries.known_states, "a") == {"s1", "s2"}

    def test_a_flow_is_adopted_once_and_takes_no_slot(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        adopt = adopted(store, "flow")
        before = record_of(store, "flow")
        assert other.write(adopt) == Claimed("flow", 1, 1)
        assert record_of(store, "flow") == before
        put(store, "mine")
        with refused(OptimizationConflictError, "'mine'"):
            store.write(Adopt(new("mine", metadata={"strategy": MIRRORED}), "run-2", "node-1", 60.0))
        assert store.write(Claim("node-2", 1, 60.0)) == Claimed("mine", 1, 1)
        put(store, "next")
        assert store.write(Claim("node-2", 1, 60.0)) is None

    def test_a_mirrored_run_is_never_queued(self, open_store: OpenStore) -> None:
        store = open_store()
        adopted(store, "flow")
        for status in (S.INITIALIZING, S.RUNNING, S.PAUSED):
            store.write(Transition("flow", status, Cause.HOOK))
        store.write(SetIntent("flow", Intent.PAUSE, "ann"))
        store.write(SetIntent("flow", Intent.RUN, "ann"))
        assert store.write(Claim("node", 9, 60.0)) is None
        if status_of(store, "flow") is S.CREATED:
            with refused(OptimizationCoordinationError, "'flow'"):
                store.write(Claim("node", 9, 60.0, "flow"))
        put(store, "mine")
        assert store.write(Claim("node", 9, 60.0)) == Claimed("mine", 1, 1)

    def test_a_mirrored_run_fails_when_its_holder_is_lost(self, open_store: OpenStore) -> None:
        store = open_store()
        adopted(store, "swept", lease_seconds=-1.0)
        adopted(store, "crashed")
        for name in ("swept", "crashed"):
            for status in (S.INITIALIZING, S.RUNNING):
                store.write(Transition(name, status, Cause.HOOK))
        assert sweep(store, "node-2") == ["swept"]
        for attempt, is_it in [(2, False), (1, True), (1, False)]:
            assert (
                store.write(RecordLostRun("run-crashed", "crashed", attempt, "node-2", "Prefect saw it crash")) is is_it
            )
        for name, words in [("swept", "its process is gone"), ("crashed", "Prefect saw it crash")]:
            state = store.read(queries.get, name)
            assert state is not None
            assert (state.status, words in state.issues[0]) == (S.FAILED, True)
        assert store.write(Claim("node-2", 9, 60.0)) is None

    def test_a_suspended_run_takes_the_claim_handed_over_to_it(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        claimed = suspended(store, "a")
        assert not store.write(HandOver("a", claimed.fence - 1, "run-a", 60.0))
        assert other.write(BeginRun("a", "run-a", "node-2", 60.0)) == (Admission.CALLED, None)  # not handed over yet
        assert store.write(HandOver("a", claimed.fence, "run-a", 60.0))
        put(store, "b")
        assert store.write(Claim("node-1", 1, 60.0)) is None  # the reservation uses a slot
        assert other.write(BeginRun("a", "run-b", "node-2", 60.0)) == (Admission.HELD, None)
        taken = Claimed("a", claimed.attempt, claimed.fence + 1)
        assert other.write(BeginRun("a", "run-a", "node-2", 60.0)) == (Admission.TAKEN, taken)
        assert other.write(BeginRun("a", "run-a", "node-3", 60.0)) == (Admission.HELD, None)
        holding = store.read(queries.holding, "a")
        assert holding is not None
        assert (holding.lease_node, holding.suspended_run_id) == ("node-2", None)
        with refused(StaleAttemptError, str(claimed.fence)):
            store.write(Transition("a", S.INITIALIZING, Cause.HOOK, fence=claimed.fence))
        store.write(Transition("a", S.INITIALIZING, Cause.HOOK, fence=taken.fence))

    def test_an_expired_reservation_is_no_death(self, open_store: OpenStore) -> None:
        store = open_store()
        claimed = suspended(store, "a")
        assert store.write(HandOver("a", claimed.fence, "run-a", -1.0))
        store.write(
            Heartbeat("node-1", "host", 1, 1.0, 600.0)
        )  # the handed over lease is no longer the node's to renew
        assert sweep(store, "node-2") == ["a"]
        holding = store.read(queries.holding, "a")
        assert holding is not None
        assert (holding.status, holding.deaths, holding.lease_node) == ("created", 0, None)
        again = store.write(Claim("node-2", 1, 60.0))
        assert again == Claimed("a", claimed.attempt + 1, claimed.fence + 2, "run-a")
        assert store.write(BeginRun("a", "run-a", "node-3", 60.0)) == (Admission.CALLED, None)  # claimed for it again
        assert store.write(HandOver("a", again.fence, "run-a", 60.0))
        store.write(SetIntent("a", Intent.PAUSE, "ann"))
        assert status_of(store, "a") is S.CREATED  # the run carries the pause out
        store.write(SetIntent("a", Intent.CANCEL, "ann"))
        assert status_of(store, "a") is S.CANCELLED
        assert store.write(BeginRun("a", "run-a", "node-3", 60.0)) == (Admission.ENDED, None)

    def test_attempts_stay_with_the_deployment_that_began(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a")
        _, claimed = store.write(BeginRun("a", "run-a", "node-1", 60.0, "nightly"))
        assert claimed is not None
        store.write(AbandonClaim("a", claimed.fence, "node-1"))
        put(store, "b")
        assert store.write(Claim("node-2", 9, 60.0, elsewhere=("nightly",))) == Claimed("b", 1, 1)
        assert store.write(Claim("node-2", 9, 60.0, elsewhere=("weekly",))) == Claimed("a", 2, 3, None, "nightly")
        store.write(Transition("a", S.FAILED, Cause.NODE, fence=3))
        retried = store.write(Retry(Create(new("c", metadata={"retry_of": "a"})), "a", 0))[0]
        holding = store.read(queries.holding, retried.optimization_id)
        assert holding is not None
        assert holding.deployment_id == "nightly"

    def test_rejected_runs_are_replaced_until_the_optimization_is_paused(self, open_store: OpenStore) -> None:
        store = open_store()
        put(store, "a")
        for n in range(1, MAX_REJECTIONS + 1):
            assert status_of(store, "a") is S.CREATED
            claimed, run = store.write(Claim("node-1", 9, 60.0)), f"run-{n}"
            assert claimed is not None
            assert store.write(HandOver("a", claimed.fence, run, 60.0, is_new=True))
            assert not store.write(RejectRun("a", "another", "lost", "node-2"))
            fence = None
            if n % 2:  # rejected after it has begun
                _, taken = store.write(BeginRun("a", run, "node-3", 60.0))
                assert taken is not None
                fence = taken.fence
            assert store.write(RejectRun("a", run, f"reason {n}", "node-3", fence))
            assert not store.write(RejectRun("a", run, "once more", "node-3", fence))
            assert (store.read(queries.prefect_run, run) or {})["attempt"] == 0  # so its failure is not the attempt's
        state, holding = store.read(queries.get, "a"), store.read(queries.holding, "a")
        assert state is not None
        assert holding is not None
        assert (state.status, state.issues) == (S.PAUSED, ["reason 1", f"paused: reason {MAX_REJECTIONS}"])
        assert (holding.deaths, holding.lease_node, holding.suspended_run_id) == (0, None, None)
        store.write(SetIntent("a", Intent.RUN, "ann"))
        assert store.write(Claim("node-1", 9, 60.0)) is not None


class RunContract(RetryContract, TwiceContract, PrefectRunContract):
    """Retries, repeated commits and flow runs."""


def finished(store: Store, name: str, *, steps: int) -> None:
    """Create an optimization that failed after `steps` steps of two trials each."""
    fence = at_work(store, name, total_steps=8).fence
    for step in range(steps):
        good = trial(2 * step, step=step, value=AWKWARD[step], returns=RETURNS, periods_per_year=252.0, family="f")
        bad = trial(2 * step + 1, step=step, state=TrialState.FAILED, value=None, error="broke", metrics={"m": 0.1})
        store.write(CommitStep(name, fence, step, [good, bad], {"rng": [step, *AWKWARD]}, {"best": AWKWARD[step]}))
    cut = trial(2 * steps, step=steps, state=TrialState.CANCELLED, value=None)
    store.write(RecordCutOff(name, fence, [cut]))
    store.write(Transition(name, S.FAILED, Cause.HOOK, fence=fence))


def adopted(store: Store, name: str, *, lease_seconds: float = 60.0) -> Adopt:
    adopt = Adopt(new(name, metadata={"strategy": MIRRORED}), f"run-{name}", "node-1", lease_seconds)
    assert store.write(adopt) == Claimed(name, 1, 1)
    return adopt


def suspended(store: Store, name: str) -> Claimed:
    """Create one that was paused and suspended in Prefect, and claim it for its next attempt."""
    fence = at_work(store, name).fence
    store.write(SetIntent(name, Intent.PAUSE, "ann"))
    store.write(Transition(name, S.PAUSED, Cause.HOOK, fence=fence))
    store.write(SetSuspendedRun(name, "run-gone"))
    store.write(SetSuspendedRun(name, None))
    store.write(SetSuspendedRun(name, f"run-{name}"))
    assert store.write(SetIntent(name, Intent.RUN, "ann")) is S.CREATED
    claimed = store.write(Claim("node-1", 1, 60.0))
    assert claimed == Claimed(name, 2, 2, f"run-{name}")
    return claimed


def bits(found: Trial | None) -> tuple[bytes, bytes, float | None]:
    """A trial's value and returns as they are stored."""
    assert found is not None
    value = struct.pack("<d", math.nan if found.value is None else found.value)
    return value, pack_returns(found.returns or ()), found.periods_per_year

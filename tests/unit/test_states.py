"""The table of transitions, written out; and random lives in a real store, held against a small model."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from contract_steps import new, sweep, trial
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from o9.model.errors import OptimizationStateError, StaleAttemptError
from o9.model.states import ACTIVE, ENDED, Intent, TransitionReason, decide_transition
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Create, RecordPrefectState, Transition
from o9.store.queue.claims import AbandonClaim, Claim
from o9.store.store import Store

# A row is where an optimization is, a column where it is to go.  x allowed, = it is there already, . refused
TABLE = """
                created  initializing  running  paused  completed  failed  cancelled  timeout  suspended
  created          =          x           .        x        .         x        x         x         .
  initializing     x          =           x        x        .         x        x         x         x
  running          x          .           =        x        x         x        x         x         x
  paused           x          x           x        =        .         x        x         x         .
  completed        .          .           .        .        =         .        .         .         .
  failed           .          .           .        .        .         =        .         .         .
  cancelled        .          .           .        .        .         .        =         .         .
  timeout          .          .           .        .        .         .        .         =         .
  suspended        x          x           x        .        .         x        x         x         =
"""
HEADER, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = {(S(row[0]), S(to)): mark for row in ROWS for to, mark in zip(HEADER, row[1:], strict=True)}


def test_the_table_is_whole() -> None:
    assert len(CELLS) == 81
    assert {current for current, _ in CELLS} == {target for _, target in CELLS} == set(S)
    assert {s for s in S if all(CELLS[s, to] != "x" for to in S)} == set(ENDED)


@pytest.mark.parametrize(("current", "target"), CELLS)
def test_each_move(current: S, target: S) -> None:
    decision = decide_transition(current, target)
    assert decision.allowed is (CELLS[current, target] == "x")
    if decision.allowed:
        assert decision.reason is TransitionReason.ALLOWED
        assert decision.message == ""
        return
    assert current.value in decision.message
    if current is target:
        assert decision.reason is TransitionReason.ALREADY_THERE
    elif current in ENDED:
        assert decision.reason is TransitionReason.ENDED
        assert "new id" in decision.message
    else:
        assert decision.reason is TransitionReason.NOT_IN_TABLE
        possible = {s.value for s in S if CELLS[current, s] == "x"}
        assert set(decision.message.split("can become ")[1].split(", ")) == possible


def test_a_fence_is_looked_at_before_the_version_and_both_before_the_table() -> None:
    def reason(**believed: int) -> TransitionReason:
        return decide_transition(S.COMPLETED, S.RUNNING, held_fence=3, held_version=7, **believed).reason

    assert reason() is TransitionReason.ENDED
    assert reason(fence=3, version=7) is TransitionReason.ENDED
    assert reason(fence=2, version=6) is reason(fence=4) is TransitionReason.STALE_FENCE
    assert reason(fence=3, version=6) is reason(version=8) is TransitionReason.STALE_VERSION


@dataclass
class Model:
    """What the store should know of one optimization."""

    status: S = S.CREATED
    intent: Intent = Intent.RUN
    attempt: int = 0
    deaths: int = 0
    leased: bool = False
    lease_is_over: bool = False
    unmet: set[str] = field(default_factory=set)
    steps: int = 0
    heard_until: int = -1
    path: list[S] = field(default_factory=lambda: [S.CREATED])

    def move(self, to: S) -> bool:
        if CELLS[self.status, to] != "x":
            return False
        self.status = to
        self.path.append(to)
        if to not in (S.INITIALIZING, S.RUNNING):
            self.leased = self.lease_is_over = False
        return True

    @property
    def at_work(self) -> bool:
        return self.status in (S.INITIALIZING, S.RUNNING)

    def carry_out_wish(self) -> bool:
        """An intent moves what nobody works on."""
        if self.leased or self.status in ENDED or self.intent is Intent.HOLD:
            return False
        if self.intent is Intent.RUN and self.status not in (S.PAUSED, S.SUSPENDED):
            return False
        return self.move(WISHED[self.intent])


WISHED = {Intent.CANCEL: S.CANCELLED, Intent.PAUSE: S.PAUSED, Intent.RUN: S.CREATED, Intent.TIME_OUT: S.TIMEOUT}
FINAL = {Intent.CANCEL, Intent.TIME_OUT}
MAX_ATTEMPTS = 2
KEYS = ["a", "b", "c"]
START = datetime(2026, 1, 1, tzinfo=UTC)
some = st.sampled_from(KEYS)
some_status = st.sampled_from(list(S))


class Lives(RuleBasedStateMachine):
    """Random operations on a real SQLite store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        path = Path(self.folder, "store.db")
        shutil.copyfile(empty_store(), path)
        self.store = Store(str(path))
        self.model: dict[str, Model] = {}
        self.order: list[str] = []  # of the queue
        self.states_heard = 0

    def teardown(self) -> None:
        """What was written on the way is there without gaps; and wherever a life has come to, it can end."""
        for key, model in self.model.items():
            rows = self.store.read(queries.transitions, key)
            assert [row["to_status"] for row in rows] == [status.value for status in model.path]
            assert [row["from_status"] for row in rows] == [None, *(row["to_status"] for row in rows[:-1])]
            assert len(self.store.read(queries.trials, key)) == model.steps
        for key, model in self.model.items():
            if model.leased:
                self.store.write(AbandonClaim(key, self.fence(key), "node"))
            state = self.store.read(queries.get, key)
            if state is not None and state.status not in ENDED:
                wish = model.intent if model.intent in FINAL else Intent.CANCEL
                self.store.write(SetIntent(key, wish, "ann"))
            state = self.store.read(queries.get, key)
            assert state is not None
            assert state.status in ENDED
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin_with_some(self) -> None:
        for key in KEYS:
            self.create(key)

    @precondition(lambda self: len(self.model) < 5)
    @rule(key=some | st.sampled_from(["late", "later"]), hold=st.booleans(), after=st.none() | some)
    def create(self, key: str, hold: bool = False, after: str | None = None) -> None:
        if key in self.model:
            return
        metadata = {"max_attempts": MAX_ATTEMPTS} | ({"after": [after]} if after else {})
        create = Create(new(key, created_at=START, metadata=metadata), hold=hold)
        assert self.store.write(create)[1]
        assert not self.store.write(create)[1]
        self.model[key] = model = Model(intent=Intent.HOLD if hold else Intent.RUN)
        self.order.append(key)
        if after is None:
            return
        awaited = self.model[after].status
        if awaited in ENDED - {S.COMPLETED}:
            self.moved(key, S.CANCELLED)
        elif awaited is not S.COMPLETED:
            model.unmet.add(after)

    @rule(limit=st.integers(0, 3), runs_out=st.booleans())
    def claim(self, limit: int, runs_out: bool) -> None:
        held = sum(m.leased for m in self.model.values())
        waiting = [key for key in self.order if self.waits(self.model[key])]
        claimed = self.store.write(Claim("node", limit, -1.0 if runs_out else 600.0))
        if held >= limit or not waiting:
            assert claimed is None
            return
        assert claimed is not None
        assert claimed.optimization_id == waiting[0]
        model = self.model[claimed.optimization_id]
        model.attempt += 1
        model.leased, model.lease_is_over, model.heard_until = True, runs_out, -1
        assert claimed.attempt == model.attempt

    @staticmethod
    def waits(model: Model) -> bool:
        return model.status is S.CREATED and model.intent is Intent.RUN and not model.leased and not model.unmet

    @rule(key=some, to=some_status, offset=st.sampled_from([None, 0, 0, -1, 1]))
    def transition(self, key: str, to: S, offset: int | None) -> None:
        model = self.model[key]
        fence = None if offset is None else self.fence(key) + offset
        move = Transition(key, to, Cause.HOOK, fence=fence)
        if offset:
            with pytest.raises(StaleAttemptError):
                self.store.write(move)
        elif CELLS[model.status, to] == ".":
            with pytest.raises(OptimizationStateError, match=model.status.value):
                self.store.write(move)
        else:
            self.store.write(move)
            self.moved(key, to)

    @precondition(lambda self: any(self.waits(m) for m in self.model.values()))
    @rule(runs_out=st.booleans())
    def begin(self, runs_out: bool) -> None:
        """What a claim is for; by chance alone it would be rare."""
        key = next(key for key in self.order if self.waits(self.model[key]))
        self.claim(9, runs_out)
        for status in (S.INITIALIZING, S.RUNNING):
            self.store.write(Transition(key, status, Cause.HOOK, fence=self.fence(key)))
            self.moved(key, status)

    @precondition(lambda self: any(m.status in (S.INITIALIZING, S.RUNNING) for m in self.model.values()))
    @rule(offset=st.sampled_from([0, 0, -1]), ahead=st.sampled_from([0, 0, 0, 1]))
    def commit_step(self, offset: int, ahead: int) -> None:
        key, model = next((key, m) for key, m in self.model.items() if m.at_work)
        step = model.steps + ahead
        commit = CommitStep(key, self.fence(key) + offset, step, [trial(model.steps, step=step)], {"at": step})
        if offset:
            with pytest.raises(StaleAttemptError):
                self.store.write(commit)
        elif ahead:
            with pytest.raises(OptimizationStateError, match=f"{model.steps} is the next"):
                self.store.write(commit)
        else:
            assert self.store.write(commit).intent is model.intent
            model.steps += 1

    @rule(key=some, intent=st.sampled_from(list(Intent)))
    def wish(self, key: str, intent: Intent) -> None:
        model = self.model[key]
        is_final = model.intent in FINAL and intent is not model.intent
        if model.status in ENDED:
            refused = WISHED.get(intent) is not model.status or intent not in FINAL
        else:
            not_theirs = intent is Intent.SUSPEND or (intent is Intent.HOLD and model.intent is not Intent.HOLD)
            refused = is_final or not_theirs
        if refused:
            with pytest.raises(OptimizationStateError):
                self.store.write(SetIntent(key, intent, "ann"))
            return
        asked = len(self.store.read(queries.intents, key))
        news = model.status not in ENDED and model.intent is not intent
        if news:
            if model.intent is Intent.HOLD:
                self.requeued(key)
            model.intent = intent
        if model.status not in ENDED:
            self.carried_out(key)
        assert self.store.write(SetIntent(key, intent, "ann")) is model.status
        assert len(self.store.read(queries.intents, key)) == asked + news

    @precondition(lambda self: any(m.leased for m in self.model.values()))
    @rule()
    def sweep(self) -> None:
        expected = [key for key, m in self.model.items() if m.leased and m.lease_is_over]
        assert sorted(sweep(self.store, "sweeper")) == sorted(expected)
        for key in self.order.copy():
            if key in expected:
                self.lost(key)

    @precondition(lambda self: any(m.leased for m in self.model.values()))
    @rule()
    def lose(self) -> None:
        key = next(key for key, m in self.model.items() if m.leased)
        assert self.store.write(AbandonClaim(key, self.fence(key), "node"))
        self.lost(key)

    def lost(self, key: str) -> None:
        model = self.model[key]
        model.leased = model.lease_is_over = False
        if not model.at_work:
            self.carried_out(key, claimed=True)
            return
        model.deaths += 1
        if model.intent in (Intent.RUN, Intent.HOLD):
            self.moved(key, S.FAILED if model.deaths >= MAX_ATTEMPTS else S.CREATED)
        else:
            self.moved(key, WISHED[model.intent])

    @rule(key=some, to=some_status, at=st.integers(0, 20), twice=st.booleans(), old=st.booleans())
    def hear_from_prefect(self, key: str, to: S, at: int, twice: bool, old: bool) -> None:
        model = self.model[key]
        self.states_heard += 1
        heard = RecordPrefectState(
            key, model.attempt - old, "flow", "run", "name", f"state-{self.states_heard}", "T", "N", "",
            START + timedelta(seconds=at), Cause.EVENT, to,
        )  # fmt: skip
        decision = self.store.write(heard)
        assert decision is not None
        if old:
            assert decision.reason is TransitionReason.STALE_FENCE
        elif at < model.heard_until:
            assert decision.reason is TransitionReason.STALE_VERSION
        elif to in ACTIVE and not model.leased and CELLS[model.status, to] == "x":
            assert decision.reason is TransitionReason.NOT_HELD
        else:
            model.heard_until = at
            assert decision.allowed is self.moved(key, to)
        if twice:
            assert self.store.write(heard) is None

    def fence(self, key: str) -> int:
        holding = self.store.read(queries.holding, key)
        assert holding is not None
        return holding.fence

    def moved(self, key: str, to: S) -> bool:
        moved = self.model[key].move(to)
        if moved:
            self.followed(key)
        return moved

    def followed(self, key: str) -> None:
        """What a move brings with it: a place at the queue's end, or the start or the end of those that waited."""
        to = self.model[key].status
        if to is S.CREATED:
            self.requeued(key)
        for other, model in self.model.items() if to in ENDED else ():
            if key in model.unmet and model.status not in ENDED:
                if to is not S.COMPLETED:
                    self.moved(other, S.CANCELLED)
                    continue
                model.unmet.remove(key)
                if not model.unmet:
                    self.requeued(other)

    def requeued(self, key: str) -> None:
        self.order.remove(key)
        self.order.append(key)

    def carried_out(self, key: str, *, claimed: bool = False) -> None:
        """An intent moves what nobody works on; `claimed`: only from where a claim finds it."""
        model = self.model[key]
        if claimed and model.status is not S.CREATED:
            return
        if model.carry_out_wish():
            self.followed(key)

    @invariant()
    def the_store_knows_what_the_model_knows(self) -> None:
        states = {state.optimization_id: state for state in self.store.read(queries.page).items}
        assert states.keys() == self.model.keys()
        for key, model in self.model.items():
            state, holding = states[key], self.store.read(queries.holding, key)
            assert holding is not None
            assert (state.status, holding.intent) == (model.status, model.intent.value)
            assert (holding.attempt, holding.deaths) == (model.attempt, model.deaths)
            assert (holding.lease_node is not None) is model.leased
            assert not model.leased or model.status in (S.CREATED, S.INITIALIZING, S.RUNNING)
            assert state.completed_steps == model.steps
            assert (state.completed_at is not None) is (model.status in ENDED)

    @invariant()
    def counts_are_true(self) -> None:
        counted = {row["status"]: row["count"] for row in self.store.read(queries.counts)}
        assert counted == Counter(model.status.value for model in self.model.values())
        ended = Counter(model.status.value for model in self.model.values() if model.status in ENDED)
        assert {key.status: sums.count for key, sums in self.store.read(queries.totals)} == ended


@cache
def empty_store() -> str:
    """The path of a migrated store; a copy of it is opened sooner than a new one is made."""
    path = str(Path(tempfile.mkdtemp(), "empty.db"))
    Store(path).close()
    return path


TestLives = pytest.mark.slow(Lives.TestCase)
TestLives.settings = settings(
    max_examples=400 if os.environ.get("O9_LONG_TESTS") else 6, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

"""When O9 itself takes an optimization off, and when it goes on: the decision, its readings, the store's part."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from contract_steps import at_work, intent_of, new, put, status_of, sweep

from o9.lifecycle.suspension import (
    Circumstances,
    Room,
    decide_suspension,
    free_disk_mib,
    free_memory_mib,
    suspension_order,
)
from o9.model.errors import OptimizationStateError
from o9.model.states import Intent, SuspendedFor
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.intents import EndSuspension, SetIntent, Suspend
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store

MEMORY, DISK, RISK, RULE = SuspendedFor
AMPLE, LITTLE, UNLIMITED = Room(1_000, 100), Room(99, 100), Room(0, 0)
WELL = Circumstances(AMPLE, AMPLE, "", "")


# The decision


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Circumstances(), None),
        (WELL, None),
        (Circumstances(Room(100, 100), Room(100, 100)), None),
        (Circumstances(UNLIMITED, UNLIMITED), None),
        (Circumstances(LITTLE, AMPLE), MEMORY),
        (Circumstances(AMPLE, LITTLE), DISK),
        (Circumstances(AMPLE, AMPLE, "drawdown 0.3, the limit is 0.2"), RISK),
        (Circumstances(AMPLE, AMPLE, "", "the feed is stale"), RULE),
        (Circumstances(LITTLE, LITTLE, "broken", "stale"), MEMORY),  # what is most urgent
    ],
)
def test_each_circumstance_has_its_reason(seen: Circumstances, reason: SuspendedFor | None) -> None:
    found = decide_suspension(seen)
    assert (found.reason if found else None) is reason


def test_it_is_over_when_nothing_is_against_it_and_after_a_shortage_only_with_room_for_what_it_needs() -> None:
    for held in SuspendedFor:
        assert decide_suspension(WELL, held) is None
    just_enough = Circumstances(Room(100, 100), AMPLE)
    assert decide_suspension(just_enough) is None
    assert decide_suspension(just_enough, MEMORY) is not None  # else it would be taken off again at once
    assert decide_suspension(Circumstances(Room(125, 100), AMPLE), MEMORY) is None
    assert decide_suspension(Circumstances(Room(600, 100), AMPLE), MEMORY, needs_mib=500) is not None
    assert decide_suspension(Circumstances(Room(625, 100), AMPLE), MEMORY, needs_mib=500) is None
    found = decide_suspension(Circumstances(AMPLE, AMPLE, "broken", ""), MEMORY)
    assert found is not None
    assert found.reason is RISK  # it would be taken off again


def test_for_a_rule_it_stays_suspended_until_the_rule_was_asked_again() -> None:
    unasked, still, over = (Circumstances(AMPLE, AMPLE, "", rule) for rule in (None, "stale", ""))
    assert decide_suspension(unasked) is None
    assert [decide_suspension(seen, RULE) is None for seen in (unasked, still, over)] == [False, False, True]


@pytest.mark.parametrize("reason", SuspendedFor)
def test_what_a_person_resumed_is_left_alone_by_that_reason_only(reason: SuspendedFor) -> None:
    against = {
        MEMORY: Circumstances(LITTLE, AMPLE), DISK: Circumstances(AMPLE, LITTLE),
        RISK: Circumstances(AMPLE, AMPLE, "broken"), RULE: Circumstances(AMPLE, AMPLE, "", "stale"),
    }  # fmt: skip
    for other, seen in against.items():
        assert (decide_suspension(seen, despite={reason}) is None) is (other is reason)
    found = decide_suspension(Circumstances(LITTLE, LITTLE, "broken", "stale"), despite={reason})
    assert found is not None
    assert found.reason is (DISK if reason is MEMORY else MEMORY)


def test_room_is_made_by_the_least_priority_that_began_last() -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    states = [
        new("first", started_at=noon),
        new("last", started_at=noon + timedelta(hours=1)),
        new("urgent", started_at=noon + timedelta(hours=2), priority=3),
    ]
    assert [state.optimization_id for state in sorted(states, key=suspension_order)] == ["last", "first", "urgent"]


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available / 2**20
    assert free_memory_mib(tmp_path) == pytest.approx(available, rel=0.5)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_mib(tmp_path) == pytest.approx(available, rel=0.5)
    (tmp_path / "memory.max").write_text(f"{100 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{95 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {5 * 2**20}\n")
    assert free_memory_mib(tmp_path) == pytest.approx(10.0)
    (tmp_path / "memory.current").write_text(f"{200 * 2**20}\n")
    assert free_memory_mib(tmp_path) == 0.0


def test_disk_is_that_of_the_folder_that_is_there(tmp_path: Path) -> None:
    assert free_disk_mib(tmp_path / "not" / "yet" / "store.db") == pytest.approx(free_disk_mib(tmp_path), rel=0.5)


# The store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


def suspend(name: str, node: str = "node-1") -> Suspend:
    return Suspend(name, MEMORY, "99 MiB of memory are free", node)


def test_what_runs_hears_of_it_and_goes_on_by_itself(store: Store) -> None:
    fence = at_work(store, "a").fence
    assert store.write(suspend("a"))
    assert not store.write(suspend("a"))  # once is enough
    assert (intent_of(store, "a"), status_of(store, "a")) == (Intent.SUSPEND, S.RUNNING)
    assert not store.write(EndSuspension("a", MEMORY, "over", "node-2"))  # it is not off yet
    store.write(Transition("a", S.SUSPENDED, Cause.NODE, fence=fence))
    state = store.read(queries.get, "a")
    assert state is not None
    assert state.issues == ["suspended: 99 MiB of memory are free"]
    assert store.write(Claim("node-1", 9, 60.0)) is None
    assert store.write(EndSuspension("a", MEMORY, "memory is free again", "node-2"))
    assert (intent_of(store, "a"), status_of(store, "a")) == (Intent.RUN, S.CREATED)
    last = store.read(queries.transitions, "a")[-1]
    assert (last["cause"], last["message"], last["node"]) == ("node", "memory is free again", "node-2")
    assert [(row["intent"], row["by"]) for row in store.read(queries.intents, "a")] == [
        ("suspend", "o9:memory"), ("run", "o9:memory"),
    ]  # fmt: skip
    assert store.write(Claim("node-1", 9, 60.0)) is not None


def test_only_what_runs_on_this_node_and_what_is_to_run_is_taken_off(store: Store) -> None:
    put(store, "waits")
    at_work(store, "elsewhere")
    at_work(store, "asked")
    store.write(SetIntent("asked", Intent.PAUSE, "ann"))
    assert not store.write(suspend("waits"))
    assert not store.write(suspend("elsewhere", "node-2"))
    assert not store.write(suspend("asked"))
    with pytest.raises(OptimizationStateError, match="pause it instead"):
        store.write(SetIntent("waits", Intent.SUSPEND, "ann"))


def test_people_may_resume_it_or_want_it_to_stay_where_it_is(store: Store) -> None:
    for name, wanted in (("resumed", Intent.RUN), ("stays", Intent.PAUSE), ("ends", Intent.CANCEL)):
        fence = at_work(store, name).fence
        store.write(suspend(name))
        store.write(Transition(name, S.SUSPENDED, Cause.NODE, fence=fence))
        store.write(SetIntent(name, wanted, "ann"))
    assert {name: status_of(store, name) for name in ("resumed", "stays", "ends")} == {
        "resumed": S.CREATED, "stays": S.SUSPENDED, "ends": S.CANCELLED,
    }  # fmt: skip
    assert not any(store.write(EndSuspension(name, MEMORY, "over", "node-1")) for name in ("resumed", "stays", "ends"))
    assert store.read(queries.suspended) == []
    assert store.write(SetIntent("stays", Intent.RUN, "ann")) is S.CREATED


@pytest.mark.parametrize(
    ("wanted", "to"), [(Intent.RUN, S.CREATED), (Intent.CANCEL, S.CANCELLED), (Intent.TIME_OUT, S.TIMEOUT)]
)
def test_what_was_asked_for_while_it_was_taken_off_is_not_forgotten(store: Store, wanted: Intent, to: S) -> None:
    fence = at_work(store, "a").fence
    store.write(suspend("a"))
    store.write(SetIntent("a", wanted, "ann"))
    store.write(Transition("a", S.SUSPENDED, Cause.NODE, fence=fence))
    assert [(each.state, each.intent, each.by) for each in store.read(queries.suspended)] == [
        (store.read(queries.get, "a"), wanted, "ann")
    ]
    assert store.write(EndSuspension("a", None, "asked for", "node-1"))
    assert status_of(store, "a") is to


def test_a_node_that_dies_meanwhile_leaves_it_suspended(store: Store) -> None:
    at_work(store, "a", lease_seconds=-1.0, metadata={"max_attempts": 1})
    store.write(suspend("a"))
    assert sweep(store, "node-2") == ["a"]
    assert (status_of(store, "a"), intent_of(store, "a")) == (S.SUSPENDED, Intent.SUSPEND)
    assert store.write(EndSuspension("a", MEMORY, "over", "node-2"))

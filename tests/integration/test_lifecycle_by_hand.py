"""The lifecycle manager and the coordinator alone on a store: what they answer, also of nobody, and after the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from command_line import work
from o9_testing import ended, new

from o9.lifecycle.coordinator import OptimizationCoordinator
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.model.settings import settings
from o9.model.states import ENDED
from o9.store.queue.claims import Claim
from o9.store.store import Store
from OptimizationStateAggregator import (
    OptimizationError,
    OptimizationLifecycleError,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStatus,
    OptimizationValidationError,
)

S = OptimizationStatus
ENDINGS = {
    S.COMPLETED: "complete_optimization", S.FAILED: "fail_optimization", S.CANCELLED: "cancel_optimization",
    S.TIMEOUT: "timeout_optimization",
}  # fmt: skip


@pytest.fixture
async def manager(store_url: str) -> AsyncIterator[OptimizationLifecycleManager]:
    with Store(store_url) as store:
        manager = OptimizationLifecycleManager(store=store)
        await manager.initialize()
        yield manager
        await manager.cleanup()


async def states_of(manager: OptimizationLifecycleManager, name: str) -> list[tuple[S | None, S]]:
    return [(entry["from_state"], entry["to_state"]) for entry in await manager.get_lifecycle_history(name)]


# State and history


async def test_nobody_has_no_state_and_no_history(manager: OptimizationLifecycleManager) -> None:
    assert await manager.get_lifecycle_state("nobody") is None
    assert await manager.get_lifecycle_history("nobody") == []


@pytest.mark.parametrize("end", sorted(ENDED))
async def test_state_and_history_follow_a_life_to_its_end(manager: OptimizationLifecycleManager, end: S) -> None:
    before = datetime.now(UTC)
    await manager.create_optimization(new("a", objective="branin"))
    seen = [await manager.get_lifecycle_state("a")]
    for move in ("initialize_optimization", "start_optimization", ENDINGS[end]):
        assert await getattr(manager, move)("a") is True
        seen.append(await manager.get_lifecycle_state("a"))
    assert seen == [S.CREATED, S.INITIALIZING, S.RUNNING, end]
    assert all(isinstance(state, OptimizationStatus) for state in seen)

    history = await manager.get_lifecycle_history("a")
    assert [(entry["from_state"], entry["to_state"]) for entry in history] == [
        (None, S.CREATED), (S.CREATED, S.INITIALIZING), (S.INITIALIZING, S.RUNNING), (S.RUNNING, end),
    ]  # fmt: skip
    times = [entry["timestamp"] for entry in history]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert before <= times[0] <= times[-1] <= datetime.now(UTC)
    assert [entry["cause"] for entry in history] == ["submission", "person", "person", "person"]
    assert {entry["node"] for entry in history[:3]} == {settings().node_id}
    assert history[3]["message"] == {
        S.CANCELLED: "cancel requested by python", S.TIMEOUT: "timeout requested by python",
    }.get(end, "by hand")  # fmt: skip
    assert [(entry["attempt"], entry["prefect_run_id"]) for entry in history] == [(0, None)] * 4


async def test_the_history_of_an_attempt_names_it_and_its_flow_run(manager: OptimizationLifecycleManager) -> None:
    await manager.create_optimization(new("a", objective="branin", total_steps=1))
    await manager.start_optimization("a")
    work(manager.store, "a", 1, "completed")
    assert await manager.get_lifecycle_state("a") is S.COMPLETED
    assert [
        (entry["to_state"], entry["cause"], entry["attempt"], entry["prefect_run_id"], entry["message"])
        for entry in await manager.get_lifecycle_history("a")
    ] == [
        (S.CREATED, "submission", 0, None, ""),
        (S.INITIALIZING, "hook", 1, "run-1", ""),
        (S.RUNNING, "hook", 1, "run-1", ""),
        (S.COMPLETED, "hook", 1, None, "as told"),
    ]


async def test_another_manager_on_the_store_answers_the_same(
    manager: OptimizationLifecycleManager, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.create_optimization(new("a", objective="branin"))
    await manager.create_optimization(new("b", objective="branin"))
    await manager.cancel_optimization("a")
    monkeypatch.setenv("O9_STORE_URL", store_url)
    settings.cache_clear()
    other = OptimizationLifecycleManager()
    for ask in (other.get_lifecycle_state, other.get_lifecycle_history):
        with pytest.raises(OptimizationError, match="initialize"):
            await ask("a")
    await other.initialize()
    assert await other.get_lifecycle_state("a") is S.CANCELLED
    assert await other.get_lifecycle_history("a") == await manager.get_lifecycle_history("a")
    assert await states_of(other, "a") == [(None, S.CREATED), (S.CREATED, S.CANCELLED)]
    assert await states_of(other, "b") == [(None, S.CREATED)]
    await other.cleanup()
    with pytest.raises(OptimizationError, match="initialize"):
        await other.get_lifecycle_state("a")
    settings.cache_clear()


# Initialize


async def test_initialize_takes_it_out_of_the_queue(manager: OptimizationLifecycleManager) -> None:
    await manager.create_optimization(new("a", objective="branin"))
    await manager.start_optimization("a")
    assert await manager.initialize_optimization("a") is True
    assert manager.store.write(Claim("node-1", 100, 30.0)) is None
    assert await manager.start_optimization("a") is True
    assert await manager.get_lifecycle_state("a") is S.RUNNING
    assert manager.store.write(Claim("node-1", 100, 30.0)) is None


async def test_initialize_again_is_true_and_writes_nothing(manager: OptimizationLifecycleManager) -> None:
    await manager.create_optimization(new("a", objective="branin"))
    for _ in range(2):
        assert await manager.initialize_optimization("a") is True
    assert await states_of(manager, "a") == [(None, S.CREATED), (S.CREATED, S.INITIALIZING)]


async def test_what_was_paused_can_be_initialized(manager: OptimizationLifecycleManager) -> None:
    await manager.create_optimization(new("a", objective="branin"))
    await manager.pause_optimization("a")
    assert await manager.initialize_optimization("a") is True
    assert await manager.get_lifecycle_state("a") is S.INITIALIZING


async def test_nobody_cannot_be_initialized(manager: OptimizationLifecycleManager) -> None:
    with pytest.raises(OptimizationError, match="'nobody'"):
        await manager.initialize_optimization("nobody")
    assert await manager.get_lifecycle_state("nobody") is None


@pytest.mark.parametrize("end", sorted(ENDED))
async def test_what_has_ended_or_runs_cannot_be_initialized(manager: OptimizationLifecycleManager, end: S) -> None:
    await manager.create_optimization(new("a", objective="branin"))
    await manager.initialize_optimization("a")
    await manager.start_optimization("a")
    with pytest.raises(OptimizationStateError, match="running"):
        await manager.initialize_optimization("a")
    await getattr(manager, ENDINGS[end])("a")
    history = await manager.get_lifecycle_history("a")
    with pytest.raises(OptimizationStateError, match=end.value):
        await manager.initialize_optimization("a")
    assert await manager.get_lifecycle_state("a") is end
    assert await manager.get_lifecycle_history("a") == history


@pytest.mark.parametrize("register", ["register_lifecycle_hook", "register_callback"])
async def test_initialize_asks_the_hooks(manager: OptimizationLifecycleManager, register: str) -> None:
    called: list[str] = []

    async def before(name: str) -> None:
        called.append(f"before {name}")
        if name == "forbidden":
            raise ValueError("not today")

    getattr(manager, register)("on_create", lambda state: called.append(f"created {state.optimization_id}"))
    await getattr(manager, register)("before_initializing", before)
    getattr(manager, register)("after_initializing", lambda name: called.append(f"after {name}"))
    for name in ("a", "forbidden"):
        await manager.create_optimization(new(name, objective="branin"))
    await manager.initialize_optimization("a")
    with pytest.raises(OptimizationLifecycleError, match="not today"):
        await manager.initialize_optimization("forbidden")
    with pytest.raises(OptimizationError):
        await manager.initialize_optimization("nobody")
    assert called == ["created a", "created forbidden", "before a", "after a", "before forbidden"]
    assert await manager.get_lifecycle_state("forbidden") is S.CREATED
    assert await states_of(manager, "forbidden") == [(None, S.CREATED)]


async def test_hooks_of_an_aggregator_that_is_not_started_are_called(store_url: str) -> None:
    called: list[str] = []
    aggregator = OptimizationStateAggregator(storage_path=store_url)
    manager = aggregator.lifecycle_manager
    for event in ("after_initializing", "after_cancelled"):
        manager.register_lifecycle_hook(event, lambda name, event=event: called.append(f"{event} {name}"))
    await aggregator.initialize()
    await manager.create_optimization(new("a", objective="branin"))
    await manager.initialize_optimization("a")
    await manager.cancel_optimization("a")
    await aggregator.cleanup()
    assert called == ["after_initializing a", "after_cancelled a"]


# A coordinator and a lifecycle manager alone


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    """How often it was said since the last time that nobody runs what waits."""
    found = [record for record in caplog.records if record.funcName == "warn_if_not_claimed"]
    caplog.clear()
    return len(found)


async def test_what_nobody_will_run_is_said_at_once(
    store_url: str, open_aggregator: Callable[..., Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = OptimizationCoordinator()
    with pytest.raises(OptimizationError, match="initialize"):
        await coordinator.submit_optimization(new("a", objective="branin", total_steps=1))
    with Store(store_url) as store:
        coordinator.use(store)
        await coordinator.submit_optimization(new("a", objective="branin", seed=7, total_steps=1))
        assert warnings(caplog) == 1
        await coordinator.pause_optimization("a")
        assert warnings(caplog) == 0
        await coordinator.resume_optimization("a")
        assert warnings(caplog) == 1
        aggregator = await open_aggregator()
        await coordinator.submit_optimization(new("b", objective="branin", seed=7, total_steps=1))
        assert warnings(caplog) == 0
        for name in ("a", "b"):
            assert (await ended(aggregator, name)).status is S.COMPLETED
        await aggregator.cleanup()
        await coordinator.submit_optimization(new("c", objective="branin", seed=7, total_steps=1))
        assert warnings(caplog) == 1


async def test_a_manager_says_so_too(manager: OptimizationLifecycleManager, caplog: pytest.LogCaptureFixture) -> None:
    await manager.create_optimization(new("a", objective="branin", total_steps=1))
    assert warnings(caplog) == 0  # it is held back
    for verb, said in (("start", 1), ("pause", 0), ("resume", 1), ("initialize", 0), ("start", 0), ("cancel", 0)):
        assert await getattr(manager, f"{verb}_optimization")("a") is True
        assert warnings(caplog) == said, verb
    await manager.retry_optimization("a")
    assert warnings(caplog) == 1


# Policies


@pytest.fixture
async def coordinator(store_url: str) -> AsyncIterator[OptimizationCoordinator]:
    with Store(store_url) as store:
        coordinator = OptimizationCoordinator(store=store)
        await coordinator.initialize()
        yield coordinator
        await coordinator.cleanup()


async def test_policies_are_those_that_were_set(coordinator: OptimizationCoordinator, store_url: str) -> None:
    assert await coordinator.get_optimization_policies() == {}
    await coordinator.set_optimization_policy("all", {"max_concurrent_optimizations": 4, "timeout_seconds": None})
    coordinator.set_optimization_policy("risk_optimization", {"timeout_seconds": 1.5, "max_attempts": 2})
    coordinator.set_optimization_policy("of nobody", {"max_attempts": 1})
    expected = {
        "all": {"max_concurrent_optimizations": 4},
        "risk_optimization": {"timeout_seconds": 1.5, "max_attempts": 2},
        "of nobody": {"max_attempts": 1},
    }
    answer = await coordinator.get_optimization_policies()
    assert answer == expected
    answer["all"].clear()
    assert await coordinator.get_optimization_policies() == expected
    with Store(store_url) as store:
        other = OptimizationCoordinator(store=store)
        await other.initialize()
        assert await other.get_optimization_policies() == expected


async def test_a_policy_is_replaced_whole_and_lifted_by_an_empty_one(coordinator: OptimizationCoordinator) -> None:
    coordinator.set_optimization_policy("all", {"max_concurrent_optimizations": 4, "max_attempts": 2})
    coordinator.set_optimization_policy("all", {"max_concurrent_optimizations": 3})
    assert await coordinator.get_optimization_policies() == {"all": {"max_concurrent_optimizations": 3}}
    for name in ("all", "nobody"):
        coordinator.set_optimization_policy(name, {})
    assert await coordinator.get_optimization_policies() == {}


async def test_what_is_refused_changes_no_policy(coordinator: OptimizationCoordinator) -> None:
    coordinator.set_optimization_policy("all", {"max_attempts": 2})
    for name, config in (("all", {"max_attempts": 0}), ("", {"max_attempts": 1}), ("all", {"max_concurrent": 1})):
        with pytest.raises(OptimizationValidationError):
            coordinator.set_optimization_policy(name, config)
    assert await coordinator.get_optimization_policies() == {"all": {"max_attempts": 2}}


async def test_without_a_store_there_are_no_policies_to_tell() -> None:
    with pytest.raises(OptimizationError, match="initialize"):
        await OptimizationCoordinator().get_optimization_policies()

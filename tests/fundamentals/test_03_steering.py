"""O9 in ten pages, part three: one seed, pause, resume, cancel, and what is left after the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from o9_testing import LINE, ended, ledger, new, path_of, reached, until

from o9.store import queries
from o9.store.store import Store
from OptimizationStateAggregator import (
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStatus,
    objective,
)


@objective("slow", search_space=LINE)
async def slow(parameters: dict[str, float]) -> float:
    await asyncio.sleep(0.05)
    return parameters["x"] * (1.0 - parameters["x"])


async def test_one_seed_gives_one_ledger() -> None:
    """The same seed tries the same parameters in the same order, bit for bit, and so finds the same best."""
    async with OptimizationStateAggregator() as aggregator:
        for name in ("once", "again"):
            await aggregator.submit_optimization(new(name, objective="slow", seed=42, total_steps=12))
        once, again = await asyncio.gather(ended(aggregator, "once"), ended(aggregator, "again"))
        assert ledger(aggregator.store, "once") == ledger(aggregator.store, "again")

    assert once.optimized_parameters == again.optimized_parameters


async def test_pause_and_resume() -> None:
    """A pause lets the step in flight commit and frees the slot; a resume goes on behind it. No trial is lost or
    evaluated twice, and the ledger is the one of a run that nobody paused."""
    async with OptimizationStateAggregator() as aggregator:
        for name in ("paused", "straight"):
            await aggregator.submit_optimization(new(name, objective="slow", seed=7, total_steps=10))
        await until(aggregator, "paused", lambda state: state.completed_steps >= 2)
        assert await aggregator.pause_optimization("paused")
        state = await reached(aggregator, "paused", "paused")
        assert 2 <= state.completed_steps < 10
        assert len(aggregator.store.read(queries.trials, "paused")) == state.completed_steps

        assert await aggregator.resume_optimization("paused")
        state = await ended(aggregator, "paused")
        await ended(aggregator, "straight")
        assert state.status is OptimizationStatus.COMPLETED
        assert ledger(aggregator.store, "paused") == ledger(aggregator.store, "straight")
        assert path_of(aggregator.store, "paused") == [
            "created", "initializing", "running", "paused", "created", "initializing", "running", "completed",
        ]  # fmt: skip


async def test_cancel() -> None:
    """A cancel cuts off the step in flight, for good. The best so far is kept, and the trial that was cut off too."""

    @objective("then hangs", search_space=LINE)
    async def then_hangs(parameters: dict[str, float]) -> float:
        tried.append(parameters["x"])
        if len(tried) == 4:
            hanging.set()
            await asyncio.sleep(3600)
        return parameters["x"]

    tried: list[float] = []
    hanging = asyncio.Event()
    async with OptimizationStateAggregator() as aggregator:
        optimization_id = await aggregator.submit_optimization(new(objective="then hangs", total_steps=50))
        await asyncio.wait_for(hanging.wait(), 30)
        assert await aggregator.cancel_optimization(optimization_id)
        state = await ended(aggregator, optimization_id, seconds=10)

        assert state.status is OptimizationStatus.CANCELLED
        assert state.current_performance == max(tried[:3])
        assert state.results["trials"] == {"completed": 3, "cancelled": 1}
        with pytest.raises(OptimizationStateError, match="has ended"):
            await aggregator.resume_optimization(optimization_id)


async def test_the_record_outlives_the_aggregator(tmp_path: Path) -> None:
    """Everything is in one file, which anybody can open later, with O9 or with SQLite."""
    path = str(tmp_path / "record.db")
    async with OptimizationStateAggregator(storage_path=path) as aggregator:
        await aggregator.submit_optimization(new("kept", objective="slow", total_steps=2))
        await ended(aggregator, "kept")

    with Store(path) as store:
        state = store.read(queries.get, "kept")
        assert state is not None
        assert state.status is OptimizationStatus.COMPLETED
        assert path_of(store, "kept") == ["created", "initializing", "running", "completed"]

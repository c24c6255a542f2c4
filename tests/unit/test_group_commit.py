"""Writes from event loops: every caller gets an answer, whatever happens to the others of its group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from contract_steps import put, status_of

from o9.model.errors import OptimizationStateError, OptimizationStoreError
from o9.model.states import OptimizationStatus as S
from o9.store.core.group_commit import GROUP_LIMIT
from o9.store.core.unit import UnitOfWork
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


@dataclass(frozen=True)
class Noted:
    """An operation that records its unit of work, and may wait or fail first."""

    units: list[UnitOfWork] = field(default_factory=list)
    opened: threading.Event | None = None
    error: BaseException | None = None
    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> str:
        if self.opened is not None:
            assert self.opened.wait(10.0)
        if self.error is not None:
            raise self.error
        self.units.append(unit)
        return "written"


async def test_simultaneous_writes_of_a_loop_form_one_transaction(store: Store) -> None:
    units: list[UnitOfWork] = []
    await asyncio.gather(*[store.write_async(Noted(units)) for _ in range(100)])
    assert len({id(unit) for unit in units}) == 1


async def test_more_writes_than_fit_in_a_group(store: Store) -> None:
    units: list[UnitOfWork] = []
    answers = await asyncio.gather(*[store.write_async(Noted(units)) for _ in range(2 * GROUP_LIMIT + 1)])
    assert set(answers) == {"written"}
    assert len({id(unit) for unit in units}) == 3


async def test_rows_read_ahead_are_not_mixed_up(store: Store) -> None:
    """Ids that JSON must escape, one that does not exist, and one that is moved twice."""
    names = ["a", 'quote"d', "back\\slash", "名字-🚀", "new\nline"]
    for name in names:
        put(store, name)
    moves = [Transition(name, S.PAUSED, Cause.PERSON) for name in (*names, "nobody")]
    again = Transition("a", S.COMPLETED, Cause.PERSON)
    *_, unknown, refused = await asyncio.gather(*map(store.write_async, (*moves, again)), return_exceptions=True)
    assert "no optimization 'nobody'" in str(unknown)
    assert isinstance(refused, OptimizationStateError)
    assert {status_of(store, name) for name in names} == {S.PAUSED}


async def test_a_cancelled_caller_does_not_affect_others(store: Store) -> None:
    opened = threading.Event()
    put(store, "a")
    waiting = [
        asyncio.ensure_future(store.write_async(each))
        for each in (Noted(opened=opened), Transition("a", S.PAUSED, Cause.PERSON), Noted())
    ]
    await asyncio.sleep(0)
    waiting[1].cancel()
    opened.set()
    first, cancelled, last = await asyncio.gather(*waiting, return_exceptions=True)
    assert (first, last) == ("written", "written")
    assert isinstance(cancelled, asyncio.CancelledError)
    assert status_of(store, "a") is S.PAUSED


def test_a_closed_loop_does_not_affect_others(store: Store) -> None:
    opened = threading.Event()

    async def leave() -> None:
        store.write_async(Noted(opened=opened))
        await asyncio.sleep(0.05)  # the writer has it, and waits

    asyncio.run(leave())
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(store.write, Noted())
        opened.set()
        assert other.result(10.0) == "written"


def test_loops_in_many_threads_are_all_answered(store: Store) -> None:
    async def write_many() -> list[Any]:
        return [answer for _ in range(30) for answer in await asyncio.gather(*map(store.write_async, [Noted()] * 5))]

    with ThreadPoolExecutor(6) as threads:
        loops = [threads.submit(asyncio.run, write_many()) for _ in range(6)]
        assert {answer for loop in loops for answer in loop.result(30.0)} == {"written"}


async def test_an_operation_that_exits_does_not_end_the_writer(store: Store) -> None:
    with pytest.raises(OptimizationStoreError, match="interrupted"):
        await store.write_async(Noted(error=SystemExit(1)))
    assert await store.write_async(Noted()) == "written"


async def test_an_exit_leaves_no_caller_waiting(store: Store) -> None:
    """The first one makes the group fail; the second exits when it is tried alone."""
    errors: list[BaseException | None] = [RuntimeError("a mistake"), SystemExit(1), None, None]
    answers = await asyncio.wait_for(
        asyncio.gather(*[store.write_async(Noted(error=error)) for error in errors], return_exceptions=True), 30.0
    )
    assert [type(answer) for answer in answers] == [RuntimeError, *[OptimizationStoreError] * 3]
    assert await store.write_async(Noted()) == "written"


async def test_closing_commits_waiting_writes_and_refuses_later_ones(store_url: str) -> None:
    with Store(store_url) as store:
        put(store, "a")
        moved = store.write_async(Transition("a", S.PAUSED, Cause.PERSON))
    await moved
    with pytest.raises(OptimizationStoreError, match="closed"):
        await store.write_async(Noted())
    with Store(store_url) as store:
        assert status_of(store, "a") is S.PAUSED

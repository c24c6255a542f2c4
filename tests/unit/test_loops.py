"""What keeps a loop going: any error is outlived, and said once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import pytest

from o9.model.errors import OptimizationError, OptimizationStoreError, StoreUnavailableError
from o9.model.loops import Backoff, ErrorBoundary, cancel_and_wait, check_loop, periodic, with_retries

logger = logging.getLogger("o9.test")


@pytest.fixture
def boundary(caplog: pytest.LogCaptureFixture) -> ErrorBoundary:
    caplog.set_level(logging.DEBUG, logger="o9.test")
    return ErrorBoundary(logger, "looking")


def passes(boundary: ErrorBoundary, *errors: BaseException | None) -> None:
    for error in errors:
        with boundary:
            if error is not None:
                raise error


def test_the_first_of_each_kind_is_said_and_again_after_a_success(
    boundary: ErrorBoundary, caplog: pytest.LogCaptureFixture
) -> None:
    away, odd = StoreUnavailableError("away"), ValueError("odd")
    passes(boundary, away, away, odd, odd, away, None, away)
    told = [(record.levelname, bool(record.exc_info)) for record in caplog.records]
    warning, error, debug = ("WARNING", False), ("ERROR", True), ("DEBUG", False)
    assert told == [warning, debug, error, debug, warning, warning]


def test_it_knows_how_the_last_pass_was(boundary: ErrorBoundary) -> None:
    assert boundary.error is None
    passes(boundary, error := OptimizationStoreError("refused"))
    assert boundary.error is error
    passes(boundary, None)
    assert boundary.error is None


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_goes_through(boundary: ErrorBoundary, kind: Callable[[], BaseException]) -> None:
    with pytest.raises(kind):  # type: ignore[call-overload]
        passes(boundary, kind())


async def test_a_loop_that_is_cancelled_ends(boundary: ErrorBoundary) -> None:
    async def loop() -> None:
        while True:
            with boundary:
                await asyncio.sleep(0)
                raise OSError("again")

    running = asyncio.create_task(loop())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()


async def test_a_loop_outlives_an_error_and_comes_sooner_when_it_is_woken(boundary: ErrorBoundary) -> None:
    passes, wake = asyncio.Queue[int](), asyncio.Event()

    async def act() -> None:
        passes.put_nowait(passes.qsize())
        raise ValueError("odd")

    loop = asyncio.create_task(periodic(act, 3600.0, boundary, at_once=True, wake=wake))
    async with asyncio.timeout(10):
        for _ in range(3):
            await passes.get()
            wake.set()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_loop_waits_first_unless_it_is_to_begin_at_once(boundary: ErrorBoundary) -> None:
    passed = asyncio.Event()

    async def act() -> None:
        passed.set()

    loop = asyncio.create_task(periodic(act, 3600.0, boundary))
    await asyncio.sleep(0)
    assert not passed.is_set()
    loop.cancel()
    loop = asyncio.create_task(periodic(act, 3600.0, boundary, at_once=True))
    async with asyncio.timeout(10):
        await passed.wait()
    loop.cancel()


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    assert [Backoff(0.5, 3.0).pause(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert Backoff(0.5, 3.0).pause(10**6) == 3.0


async def test_what_fails_for_now_is_tried_again_and_another_failure_is_raised() -> None:
    errors: list[Exception] = [StoreUnavailableError("away"), StoreUnavailableError("away"), ValueError("odd")]
    noted: list[int] = []

    async def access() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    def note(error: Exception, failures: int) -> None:
        noted.append(failures)

    with pytest.raises(ValueError, match="odd"):
        await with_retries(access, StoreUnavailableError, Backoff(0.0, 0.0), note)
    assert noted == [1, 2]
    assert await with_retries(access, StoreUnavailableError, Backoff(0.0, 0.0), note) == "done"


async def test_a_call_from_another_event_loop_is_told_how_to_come_here() -> None:
    here = asyncio.get_running_loop()
    check_loop(None, "it")
    check_loop(here, "it")

    async def elsewhere() -> None:
        check_loop(here, "it")

    with pytest.raises(OptimizationError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_cancelled_tasks_have_ended_when_it_returns_and_one_that_is_none_is_no_fault() -> None:
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(3)]
    await cancel_and_wait(None, *tasks)
    assert all(task.cancelled() for task in tasks)
    await cancel_and_wait()

"""What keeps a loop going: any error is outlived, and said once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import pytest

from o9.model.errors import OptimizationStoreError, StoreUnavailableError
from o9.model.loops import ErrorBoundary

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

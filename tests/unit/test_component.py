"""What all components share: callbacks of users that do what they like, and what is looked at again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from o9.model import component
from o9.model.component import Component
from o9.model.errors import OptimizationValidationError

Wait = Callable[..., Awaitable[object]]


class Clockwork(Component):
    """Ticks; `wrong` says which of its looks raise."""

    events = ("tick",)

    def __init__(self, wrong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.looks = self.ends = 0
        self.wrong = wrong

    async def _begin(self) -> None:
        self._repeat(self._look, 0.01, "looking")

    async def _end(self) -> None:
        self.ends += 1

    async def _look(self) -> None:
        self.looks += 1
        if self.looks in self.wrong:
            raise ValueError("this look")
        await self.emit("tick", self.looks)


async def test_no_callback_silences_another(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(component, "CALLBACK_SECONDS", 0.01)
    clockwork, heard = Clockwork(), list[object]()

    def leaves(tick: int) -> None:
        raise SystemExit(4)

    async def awaits_what_was_cancelled(tick: int) -> None:
        other = asyncio.ensure_future(asyncio.sleep(60))
        other.cancel()
        await other

    async def hangs(tick: int) -> None:
        await asyncio.sleep(60)

    async def listens(tick: int) -> None:
        heard.append(("awaited", tick))

    strange = (lambda tick: 1 / 0, leaves, awaits_what_was_cancelled, hangs)
    for callback in (*strange, heard.append, listens):
        clockwork.register_callback("tick", callback)
    await clockwork.emit("tick", 1)
    assert heard == [1, ("awaited", 1)]
    assert len(caplog.records) == len(strange)


async def test_a_callback_may_register_another_for_the_next_time() -> None:
    clockwork, heard = Clockwork(), list[int]()
    clockwork.register_callback("tick", lambda tick: clockwork.register_callback("tick", heard.append))
    await clockwork.emit("tick", 1)
    assert heard == []
    await clockwork.emit("tick", 2)
    assert heard == [2]


async def test_a_cancellation_from_outside_reaches_whoever_waits_in_a_callback() -> None:
    clockwork, begun = Clockwork(), asyncio.Event()

    async def waits(tick: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    clockwork.register_callback("tick", waits)
    emitting = asyncio.create_task(clockwork.emit("tick", 1))
    await begun.wait()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting


async def test_looks_go_on_after_an_error_and_end_with_a_stop(async_wait_until: Wait) -> None:
    clockwork = Clockwork(wrong=(1, 2))
    heard: list[int] = []
    clockwork.register_callback("tick", heard.append)
    await clockwork.start()
    await async_wait_until(lambda: len(heard) >= 3)
    assert heard[0] == 3
    await clockwork.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "o9-Clockwork"]
    await clockwork.start()
    looks = clockwork.looks
    await async_wait_until(lambda: clockwork.looks > looks)
    await clockwork.cleanup()


def running() -> int:
    return len([task for task in asyncio.all_tasks() if task.get_name() == "o9-Clockwork"])


async def test_a_callback_may_stop_what_calls_it(async_wait_until: Wait) -> None:
    clockwork, heard = Clockwork(), list[int]()

    async def stops(tick: int) -> None:
        await clockwork.stop()
        await asyncio.sleep(0)  # where an aggregator goes on with its next component
        heard.append(tick)

    clockwork.register_callback("tick", stops)
    for ends in (1, 2):
        await clockwork.start()
        await async_wait_until(lambda: running() == 0)
        assert (heard, clockwork.ends, clockwork.is_running) == ([1, 2][:ends], ends, False)
    await clockwork.cleanup()
    assert clockwork.ends == 2


async def test_a_callback_may_start_again_what_calls_it(async_wait_until: Wait) -> None:
    clockwork = Clockwork()

    async def restarts(tick: int) -> None:
        if tick == 1:
            await clockwork.stop()
            await clockwork.start()

    clockwork.register_callback("tick", restarts)
    await clockwork.start()
    await async_wait_until(lambda: clockwork.looks > 2)
    assert (clockwork.ends, running()) == (1, 1)
    await clockwork.cleanup()


def test_what_cannot_be_registered() -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        Clockwork().register_callback("tock", print)
    assert refused.value.field == "event"
    with pytest.raises(OptimizationValidationError) as refused:
        Clockwork().register_callback("tick", 1)  # type: ignore[arg-type]
    assert refused.value.field == "callback"

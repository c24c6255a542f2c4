"""The limit on concurrent evaluations: number of places, fairness, idle processes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from o9_testing import PATIENCE

from o9.workers.cores import Cores


async def hold(cores: Cores, owner: str, log: list[str], seconds: float = 0.0) -> None:
    async with cores.hold(owner):
        log.append(owner)
        assert cores.held <= 2
        await asyncio.sleep(seconds)


async def test_places_are_limited() -> None:
    cores, log = Cores(2), list[str]()
    await asyncio.gather(*(hold(cores, owner, log) for owner in "abc" for _ in range(20)))
    assert (len(log), cores.held) == (60, 0)


async def test_the_owner_with_the_fewest_places_is_next() -> None:
    cores, log = Cores(1), list[str]()
    many = [asyncio.create_task(hold(cores, "many", log, 0.001)) for _ in range(4)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(hold(cores, owner, log, 0.001)) for owner in ("x", "y")]
    await asyncio.gather(*many, *few)
    assert log == ["many", "many", "many", "many", "x", "y"], "one place: the oldest first"
    cores, log = Cores(2), []
    async with cores.hold("many"):
        tasks = [asyncio.create_task(hold(cores, "many", log, 0.001)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(hold(cores, "few", log, 0.001))]
        await asyncio.gather(*tasks)
    assert log == ["many", "few", "many"], "of those that wait, who holds none comes before who holds one"


@pytest.mark.parametrize(("used", "lent"), [(lambda: 0.0, True), (time.monotonic, False), (lambda: None, False)])
async def test_an_idle_process_lends_its_place(used: object, lent: bool) -> None:
    cores, log = Cores(1), list[str]()
    async with cores.hold("waits", used):  # type: ignore[arg-type]
        other = asyncio.create_task(hold(cores, "works", log))
        await asyncio.wait({other}, timeout=5 * PATIENCE if lent else 1.0)
        assert log == (["works"] if lent else [])
    await other
    assert cores.held == 0


async def test_a_cancelled_wait_leaves_no_place() -> None:
    cores, log = Cores(1), list[str]()
    async with cores.hold("first"):
        tasks = [asyncio.create_task(hold(cores, "gone", log)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        last = asyncio.create_task(hold(cores, "last", log))
        await asyncio.sleep(0)
        last_but_gone = asyncio.create_task(hold(cores, "gone", log))
        await asyncio.sleep(0)
    last_but_gone.cancel()
    await last
    await asyncio.wait({last_but_gone})
    assert (log, cores.held) == (["last"], 0)


def test_event_loops_of_several_threads_share_the_places() -> None:
    cores, log = Cores(2), list[str]()

    async def some(owner: str) -> None:
        await asyncio.gather(*(hold(cores, owner, log) for _ in range(30)))

    threads = [threading.Thread(target=lambda owner=owner: asyncio.run(some(owner))) for owner in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30 * PATIENCE)
    assert (len(log), cores.held) == (90, 0)

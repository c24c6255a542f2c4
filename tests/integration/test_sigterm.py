"""A program of one's own that is told to end while it runs flows."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote

from o9.store.store import Store

pytestmark = pytest.mark.slow
PROGRAM = """
import asyncio, time
from o9_testing import LINE, new
from OptimizationStateAggregator import OptimizationStateAggregator, objective

@objective("busy", search_space=LINE)
async def busy(parameters):  # the signal hits one of its tasks, and not the event loop that waits
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    return parameters["x"]

async def main():
    async with OptimizationStateAggregator(storage_path="store.db") as aggregator:
        for n in range(4):
            await aggregator.submit_optimization(new(f"o-{n}", objective="busy", total_steps=10_000))
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_sigterm_ends_it(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    with o9_testing.no_process_left() as environment:
        environment |= {**o9_testing.prefect_environment(), "PYTHONPATH": str(Path(o9_testing.__file__).parent)}
        process = zygote.start(["-c", PROGRAM], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

        def all_at_work() -> bool:
            if not (tmp_path / "store.db").exists():
                return False
            with Store(str(tmp_path / "store.db")) as store:
                return len([state for state in store.list().items if state.completed_steps > 2]) == 4

        wait_until(all_at_work, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM

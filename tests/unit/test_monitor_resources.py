"""CPU and memory of real processes: what is read is what they use."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from o9.monitor import resources
from o9.monitor.resources import Meter, read
from o9.workers.team import Shipment, Team


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `code`, which prints a line when it is ready."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            started.stdout.readline()
            yield started
        finally:
            if started.poll() is None:
                for below in psutil.Process(started.pid).children(recursive=True):
                    below.kill()
            started.kill()


def test_percent_is_of_one_core_and_of_the_time_between(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, gone = frozenset({(1, 1.0)}), frozenset({(2, 1.0)}), frozenset[tuple[int, float]]()
    looks = iter([(one, 5.0), (one, 8.0), (other, 9.0), (other, 8.5), (gone, 0.0), (one, 1.0)])
    clock = itertools.count(10.0, 2.0)
    monkeypatch.setattr(resources.time, "monotonic", lambda: next(clock))  # type: ignore[attr-defined]
    monkeypatch.setattr(resources, "read", lambda tops: (*next(looks), 1.0))
    meter = Meter(Team())
    assert [meter.measure().get("cpu_percent") for _ in range(6)] == [None, 150.0, None, None, None, None]


@pytest.mark.slow
def test_memory_and_cpu_of_a_process_and_of_what_it_started(wait_until: Callable[..., Any]) -> None:
    code = (
        "import subprocess, sys, time\n"
        "held = b'x' * 64_000_000\n"
        "child = subprocess.Popen([sys.executable, '-c', \"held = b'y' * 64_000_000; print(1, flush=True)\\n"
        'while True: pass"], stdout=subprocess.PIPE)\n'
        "child.stdout.readline(); print(1, flush=True)\n"
        "time.sleep(60)"
    )
    with process(code) as started:
        known, before, _ = read([started.pid])
        began = time.monotonic()
        same, after, memory = wait_until(lambda: now if (now := read([started.pid]))[1] > before + 0.3 else None)
        assert (same, len(known), memory > 2 * 61) == (known, 1, True)
        assert after - before < 1.15 * (time.monotonic() - began), "its child kept a core busy, or what was left of it"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time of what has ended is not told")
def test_what_a_subprocess_used_counts_after_its_end() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    code = (
        f"import subprocess, sys, time\nprint(1, flush=True)\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
        "print(2, flush=True)\ntime.sleep(60)"
    )
    with process(code) as started:
        assert started.stdout is not None
        started.stdout.readline()
        assert read([started.pid])[1] >= 0.35


@pytest.mark.slow
def test_what_is_gone_cannot_be_read() -> None:
    with process("print(1, flush=True)") as started:
        started.wait(10)
    assert read([started.pid]) == read([]) == (frozenset(), 0.0, 0.0)


async def test_a_meter_needs_two_looks_at_the_same_children(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: clock[0])  # type: ignore[attr-defined]
    team = Team()
    meter = Meter(team)
    assert meter.measure() == {}, "no child has joined yet"
    shipment = Shipment("eval", eval, "builtins:eval")
    child = await team.acquire(shipment)
    clock[0] = 5.0
    assert meter.measure().keys() == {"memory_mib"}
    clock[0] = 5.5
    assert meter.measure() == {}, "too soon for ticks of 10 ms"
    clock[0] = 7.0
    measured = meter.measure()
    assert measured.keys() == {"cpu_percent", "memory_mib"}
    assert measured["memory_mib"] > 10
    child.kill()
    await team.acquire(shipment)
    clock[0] = 9.0
    assert meter.measure().keys() == {"memory_mib"}, "another child: what the dead one used is not known"
    await team.close()


def test_what_runs_in_the_event_loop_is_not_measured() -> None:
    assert Meter(None).measure() == {}

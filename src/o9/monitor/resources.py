"""CPU and memory of the processes that evaluate one optimization, measured between its steps.

Contract. A Meter belongs to one attempt and its event loop. `measure` never raises, and reads a few files under /proc.

- Sync objectives and strategies run in child processes (`o9.workers.team`), which are measured with their descendants:
  `memory_mib` is the sum of their resident memory (shared pages count in each), `cpu_percent` their CPU time since the
  last measurement in percent of one core.
- Async objectives and coroutines share the node's event loop and are not measured.
- The kernel counts CPU in ticks of 10 ms, so measurements are at least WINDOW_SECONDS apart; a step that ends earlier
  has none. CPU needs two measurements of the same children: if one died or joined in between, its usage is unknown and
  there is no figure.
- On Linux the CPU of subprocesses that have ended counts, too; elsewhere only that of living ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

import psutil

from o9.lifecycle.effect import CPU, MEMORY
from o9.workers.process_tree import tree
from o9.workers.team import Team

WINDOW_SECONDS = 1.0
MIB = 1024.0 * 1024.0
Identity = tuple[int, float]  # a pid and the start time of its process, since pids are reused


class Meter:
    """Measures the child processes of an attempt; `team` is None if it runs in the event loop."""

    def __init__(self, team: Team | None) -> None:
        self._team = team
        self._at, self._known, self._cpu_seconds = -WINDOW_SECONDS, frozenset[Identity](), 0.0

    def measure(self) -> dict[str, float]:
        """Return what can be measured now, by CPU and MEMORY. Called at the end of each step."""
        now = time.monotonic()
        if self._team is None or now - self._at < WINDOW_SECONDS:
            return {}
        known, cpu_seconds, memory_mib = read(self._team.pids())
        seconds, used, unchanged = now - self._at, cpu_seconds - self._cpu_seconds, known == self._known
        self._at, self._known, self._cpu_seconds = now, known, cpu_seconds
        if not known:
            return {}
        return ({CPU: 100.0 * used / seconds} if unchanged and used >= 0 else {}) | {MEMORY: memory_mib}


def read(tops: Iterable[int]) -> tuple[frozenset[Identity], float, float]:
    """Return these processes with all their descendants, their CPU seconds since their start, and their MiB.

    Empty, 0.0 and 0.0 if one of them ends meanwhile.
    """
    known: set[Identity] = set()
    cpu_seconds = memory = 0.0
    try:
        for top in tops:
            for process in tree(top):
                with process.oneshot():
                    times = process.cpu_times()
                    memory += process.memory_info().rss
                # The last two are those of children that have ended; only Linux counts them.
                cpu_seconds += times.user + times.system + times.children_user + times.children_system
                if process.pid == top or sys.platform != "linux":
                    known.add((process.pid, process.create_time()))
    except (psutil.Error, OSError):
        return frozenset(), 0.0, 0.0
    return frozenset(known), cpu_seconds, memory / MIB

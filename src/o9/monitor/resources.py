"""CPU and memory of the processes that evaluate for one optimization, measured between its steps.

Contract. A Meter belongs to one attempt and its event loop; `measure` never raises, and reads a few files under /proc.

- Sync objectives and strategies run in child processes (`o9.workers.team`), which are measured with their descendants:
  `memory_mib` is their resident memory, summed (shared pages count for each), `cpu_percent` their CPU time since the
  last measurement, in percent of one core.
- Async objectives and coroutines share the node's event loop, so nothing is measured.
- The kernel counts CPU in ticks of 10 ms, so two measurements lie at least WINDOW_SECONDS apart; a step that ends
  sooner goes without. CPU needs two measurements of the same children: none is given where one has died or joined
  meanwhile, because what it used is unknown.
- On Linux the CPU of a subprocess that has ended counts, too. Elsewhere only what lives at the measurement is seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from o9.lifecycle.effect import CPU, MEMORY
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.strategies.user_steps import UserSteps
from o9.workers.process_tree import tree
from o9.workers.team import Hosted, Team

WINDOW_SECONDS = 1.0
MIB = 1024.0 * 1024.0
# A process, its start in ticks or seconds, which distinguishes a pid that was given anew.
Identity = tuple[int, float]


@dataclass(frozen=True)
class ResourceReading:
    """One look at some processes and all below them. `cpu_seconds` is what they have used since they began."""

    at: float
    processes: frozenset[Identity]
    cpu_seconds: float
    memory_mib: float


class Meter:
    """Measures the processes of `strategy`, which is the strategy of the attempt."""

    def __init__(self, strategy: object) -> None:
        self._team = team_of(strategy)
        self._last: ResourceReading | None = None
        self._looked_at = -WINDOW_SECONDS

    def measure(self) -> dict[str, float]:
        """Call it at the end of a step: what could be measured now, by CPU and MEMORY; maybe nothing."""
        now = time.monotonic()
        if self._team is None or now - self._looked_at < WINDOW_SECONDS:
            return {}
        self._looked_at = now
        before, self._last = self._last, read(pids_of(self._team), now)
        if self._last is None:
            return {}
        figures = {MEMORY: self._last.memory_mib}
        percent = cpu_percent(before, self._last)
        return figures if percent is None else {CPU: percent} | figures


def cpu_percent(before: ResourceReading | None, after: ResourceReading) -> float | None:
    """CPU seconds used between two readings, a second, times 100; None where they are not of the same processes."""
    if before is None or before.processes != after.processes or after.at <= before.at:
        return None
    used = after.cpu_seconds - before.cpu_seconds
    return None if used < 0 else 100.0 * used / (after.at - before.at)


def read(tops: Iterable[int], now: float) -> ResourceReading | None:
    """Look at the processes with these ids and all below them; None where there are none or one is gone meanwhile."""
    known: set[Identity] = set()
    cpu_seconds = memory = 0.0
    try:
        for top in tops:
            for process in tree(top):
                with process.oneshot():
                    times = process.cpu_times()
                    memory += process.memory_info().rss
                # The last two are of children that have ended: 0 everywhere but on Linux.
                cpu_seconds += times.user + times.system + times.children_user + times.children_system
                if process.pid == top or sys.platform != "linux":
                    known.add((process.pid, process.create_time()))
    except (psutil.Error, OSError):
        return None
    return ResourceReading(now, frozenset(known), cpu_seconds, memory / MIB) if known else None


def team_of(strategy: object) -> Team | None:
    """The child processes that evaluate for this strategy; None where it runs in the event loop."""
    if isinstance(strategy, OptunaStrategy):
        return None if strategy._objective.is_async else strategy._evaluator._team
    if isinstance(strategy, UserSteps) and isinstance(strategy._host, Hosted):
        return strategy._host._team
    return None


def pids_of(team: Team) -> list[int]:
    return [child.process.pid for child in team._all if child.usable()]

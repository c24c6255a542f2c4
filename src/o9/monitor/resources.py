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

import psutil

from o9.lifecycle.effect import CPU, MEMORY
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.strategies.user_steps import UserSteps
from o9.workers.process_tree import tree
from o9.workers.team import Hosted, Team

WINDOW_SECONDS = 1.0
MIB = 1024.0 * 1024.0
Identity = tuple[int, float]  # a process and its start, which distinguishes a pid that was given anew


class Meter:
    """Measures the processes of `strategy`, which is the strategy of the attempt."""

    def __init__(self, strategy: object) -> None:
        self._team = team_of(strategy)
        self._at, self._known, self._cpu_seconds = -WINDOW_SECONDS, frozenset[Identity](), 0.0

    def measure(self) -> dict[str, float]:
        """Call it at the end of a step: what could be measured now, by CPU and MEMORY; maybe nothing."""
        now = time.monotonic()
        if self._team is None or now - self._at < WINDOW_SECONDS:
            return {}
        known, cpu_seconds, memory_mib = read(child.process.pid for child in self._team._all if child.usable())
        seconds, used, are_the_same = now - self._at, cpu_seconds - self._cpu_seconds, known == self._known
        self._at, self._known, self._cpu_seconds = now, known, cpu_seconds
        if not known:
            return {}
        return ({CPU: 100.0 * used / seconds} if are_the_same and used >= 0 else {}) | {MEMORY: memory_mib}


def read(tops: Iterable[int]) -> tuple[frozenset[Identity], float, float]:
    """Look at the processes with these ids and all below them: which, their CPU seconds since they began, their MiB.

    None, 0.0 and 0.0 where one is gone meanwhile.
    """
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
        return frozenset(), 0.0, 0.0
    return frozenset(known), cpu_seconds, memory / MIB


def team_of(strategy: object) -> Team | None:
    """The child processes that evaluate for this strategy; None where it runs in the event loop."""
    if isinstance(strategy, OptunaStrategy):
        return None if strategy._objective.is_async else strategy._evaluator._team
    if isinstance(strategy, UserSteps) and isinstance(strategy._host, Hosted):
        return strategy._host._team
    return None

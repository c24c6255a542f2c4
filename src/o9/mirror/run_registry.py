"""The Prefect runs of this process, and which of their states are recorded.

`RUNS` is the process's only registry. A run is in it from its claim, or its first hook, until its flow run ends. Any
thread may call it: hooks of sync flows run in threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from o9.mirror.observed_state import Run
from o9.mirror.spooling_writer import SpoolingWriter

REMEMBERED_STATES = 20_000


@dataclass
class LiveRun:
    """`work` belongs to the flow: an `o9.tasks.attempt.Attempt`, or what `o9.flows.mirror` keeps of a mirrored flow.

    writer: writes the states that the hooks of `o9.mirror.recorder` see, as `node`; None: they record none. by_prefect:
    no dispatcher of this process started it. unrecorded: its end would not be recorded if the process ended now.
    """

    run: Run
    node: str
    work: Any
    writer: SpoolingWriter | None = None
    by_prefect: bool = False
    unrecorded: bool = False


class RunRegistry:
    def __init__(self) -> None:
        self._runs: dict[str, LiveRun] = {}
        self._recorded: OrderedDict[str, None] = OrderedDict()
        self.abandoned: set[asyncio.Future[Any]] = set()  # users' code that ignores its cancellation

    def __reduce__(self) -> str:
        return "RUNS"  # a flow that is pickled for a worker refers to the registry of the worker's process

    def begin(self, live: LiveRun) -> None:
        self._runs[live.run.run_id] = live

    def find(self, flow_run_id: Any) -> LiveRun | None:
        return self._runs.get(str(flow_run_id))

    def end(self, flow_run_id: Any) -> LiveRun | None:
        """Remove the run; returns it, if it was there."""
        return self._runs.pop(str(flow_run_id), None)

    def __iter__(self) -> Iterator[LiveRun]:
        return iter(list(self._runs.values()))

    def is_recorded(self, state_id: str) -> bool:
        """Whether the state is known to be recorded, or on its way. Only saves a write."""
        return state_id in self._recorded

    def remember(self, state_id: str) -> None:
        """Note that the state is recorded, or on its way."""
        self._recorded[state_id] = None
        if len(self._recorded) > REMEMBERED_STATES:
            self._recorded.popitem(last=False)


RUNS = RunRegistry()

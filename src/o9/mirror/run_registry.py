"""What this process knows of Prefect's runs: which of them are at work here, and which of their states are recorded.

`RUNS` is the only registry of the process. A run is in it from its claim, or its first hook, until its flow run ends.
Any thread may call it: hooks of sync flows have threads of their own.
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
    """`work` belongs to the flow: an `o9.tasks.attempt.Attempt`, or what `o9.flows.mirror` knows of a mirrored flow.

    writer: with which the hooks of `o9.mirror.recorder` record its states as `node`; None: they record none.
    by_prefect: no dispatcher of this process started it. unrecorded: if the process ends now, only Prefect knows the
    run's end.
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
        self.left_behind: set[asyncio.Future[Any]] = set()  # users' code that does not let itself be cancelled

    def __reduce__(self) -> str:
        return "RUNS"  # flows that a task runner sends to its workers refer to that of their process

    def begin(self, live: LiveRun) -> None:
        self._runs[live.run.run_id] = live

    def find(self, flow_run_id: Any) -> LiveRun | None:
        return self._runs.get(str(flow_run_id))

    def end(self, flow_run_id: Any) -> LiveRun | None:
        """The run that was at work, if any."""
        return self._runs.pop(str(flow_run_id), None)

    def __iter__(self) -> Iterator[LiveRun]:
        return iter(list(self._runs.values()))

    def is_recorded(self, state_id: str) -> bool:
        """Whether this process knows that the state is recorded, or on its way; saves a write, no more."""
        return state_id in self._recorded

    def remember(self, state_id: str) -> None:
        """The state is recorded, or on its way."""
        self._recorded[state_id] = None
        if len(self._recorded) > REMEMBERED_STATES:
            self._recorded.popitem(last=False)


RUNS = RunRegistry()

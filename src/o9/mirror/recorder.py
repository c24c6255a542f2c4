"""Records the states that hooks of flows and tasks, and the dispatcher, report.

The hooks record states of flow runs in the run registry, and may be put on any flow and task. They never raise into it;
what they cannot write waits in the spool.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from o9.mirror.interpretation import PAUSED, REPLACED, REQUEUED, SKIPPED, is_interim_end
from o9.mirror.observed_state import FLOW, TASK, observed_state, operation_for
from o9.mirror.run_registry import RUNS, LiveRun
from o9.model.errors import OptimizationError
from o9.model.states import TransitionReason
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store

logger = logging.getLogger(__name__)
_recording: set[asyncio.Task[None]] = set()


async def record_state(store: Store, live: LiveRun, flow_run: Any, state: Any, source: Cause) -> None:
    """Record a state of a flow run, both as objects of Prefect's client. Raises OptimizationError."""
    observed = observed_state(FLOW, flow_run, state)
    # O9 recorded an interim end before; the optimization may have been resumed since.
    moves = not is_interim_end(observed.state_type, observed.state_name)
    await store.write_async(operation_for(observed, live.run, source, live.node, moves=moves))
    RUNS.remember(observed.state_id)


class _PrefectMessages(logging.Filter):
    """Drops Prefect's messages about O9's hooks, four for each step, and makes a pause or a cancellation an INFO."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno == logging.ERROR and text.startswith(_NO_ERRORS):
            record.levelno, record.levelname = logging.INFO, "INFO"
        return "ook 'mirror_" not in text


_NO_ERRORS = tuple(
    f"Finished in state {name}("
    for name in (PAUSED, REQUEUED, REPLACED, SKIPPED, "Suspended", "Cancelled", "Cancelling")
)
for _name in ("prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_PrefectMessages())


async def mirror_flow_state(flow: Any, flow_run: Any, state: Any) -> None:
    """The state hook of flows."""
    await _hooked(FLOW, flow_run.id, flow_run, state)


async def mirror_task_state(task: Any, task_run: Any, state: Any) -> None:
    """The state hook of tasks. It does not wait: writes keep their order, and a task's states change no status."""
    recording = asyncio.create_task(_hooked(TASK, task_run.flow_run_id, task_run, state))
    _recording.add(recording)
    recording.add_done_callback(_recording.discard)


async def _hooked(kind: str, flow_run_id: Any, run: Any, state: Any) -> None:
    live = RUNS.find(flow_run_id)
    if live is None or live.writer is None:
        return
    observed = observed_state(kind, run, state)
    try:
        decision = await live.writer.write(operation_for(observed, live.run, Cause.HOOK, live.node))
    except OptimizationError:
        logger.exception("state %s of the %s run %s could not be recorded", state.name, kind, run.id)
    else:
        # A stale one changed nothing, as after Prefect's clock was set back: the node records the end again.
        if decision is None or decision.reason is not TransitionReason.STALE_VERSION:
            RUNS.remember(observed.state_id)

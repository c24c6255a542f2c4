"""Prefect's states into the store: the one way in, for hooks, events and the reconciler alike.

A flow run is mirrored once somebody has said whose it is (`track`). The hooks below go on any flow and task;
they never raise into what they watch. A state that could not be written is logged, and taken again from Prefect's
own history when the attempt ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from o9.mirror.mapping import meaning_of
from o9.model.errors import OptimizationError
from o9.model.states import Decision
from o9.store.store import Store
from o9.store.transitions import Cause, RecordPrefectState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracked:
    """Which attempt a flow run is."""

    store: Store
    optimization_id: str
    attempt: int
    node: str


_tracked: dict[str, Tracked] = {}


def track(flow_run_id: Any, tracked: Tracked) -> None:
    """From now on, states of this flow run and of its task runs are recorded."""
    _tracked[str(flow_run_id)] = tracked


def untrack(flow_run_id: Any) -> None:
    _tracked.pop(str(flow_run_id), None)


def tracked_run(flow_run_id: Any) -> Tracked | None:
    return _tracked.get(str(flow_run_id))


async def record_state(tracked: Tracked, kind: str, run: Any, state: Any, source: Cause) -> Decision | None:
    """Write one state of a flow or task run (Prefect's client objects). Raises OptimizationError."""
    meaning = meaning_of(kind, state.type.value, state.name, state.message)
    decision = await tracked.store.write_async(
        RecordPrefectState(
            optimization_id=tracked.optimization_id,
            attempt=tracked.attempt,
            run_kind=kind,
            run_id=str(run.id),
            run_name=run.name or "",
            state_id=str(state.id),
            state_type=state.type.value,
            state_name=state.name or state.type.value.capitalize(),
            message=state.message or "",
            at=state.timestamp,
            source=source,
            to=meaning.to,
            issue=meaning.issue,
            node=tracked.node,
        )
    )
    logger.debug(
        "%s run %s is %s in Prefect, heard from the %s: %s",
        kind,
        run.name,
        state.name,
        source.value,
        decision.reason.value if decision else "recorded",
    )
    return decision


class _HookTalk(logging.Filter):
    """Prefect logs two lines at INFO each time it calls a hook: four for every step, which say nothing to anybody."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "ook 'mirror_" not in record.getMessage()


for _name in ("prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_HookTalk())


async def mirror_flow_state(flow: Any, flow_run: Any, state: Any) -> None:
    """The state hook of flows."""
    await _hooked("flow", flow_run.id, flow_run, state)


async def mirror_task_state(task: Any, task_run: Any, state: Any) -> None:
    """The state hook of tasks."""
    await _hooked("task", task_run.flow_run_id, task_run, state)


async def _hooked(kind: str, flow_run_id: Any, run: Any, state: Any) -> None:
    tracked = tracked_run(flow_run_id)
    if tracked is None:
        return
    try:
        await record_state(tracked, kind, run, state, Cause.HOOK)
    except OptimizationError:
        logger.exception(
            "state %s of the %s run %s could not be recorded yet; it is taken again when the attempt ends",
            state.name, kind, run.id,
        )  # fmt: skip

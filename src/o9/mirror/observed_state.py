"""A state of a Prefect run, from a hook, an event, or Prefect's history alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from o9.mirror.interpretation import meaning_of
from o9.store.optimizations.prefect_runs import ATTEMPT
from o9.store.optimizations.transitions import Cause, RecordPrefectState

FLOW, TASK, SUBFLOW = "flow", "task", "subflow"
# The types of final states; a run that is retried has further states.
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
_KINDS = {"prefect.flow-run.": FLOW, "prefect.task-run.": TASK}


@dataclass(frozen=True)
class ObservedState:
    """`run_kind` is FLOW for an optimization's own run, SUBFLOW and TASK for the runs that it started."""

    run_kind: str
    run_id: str
    run_name: str
    state_id: str
    state_type: str
    state_name: str
    message: str
    at: datetime


@dataclass(frozen=True)
class Run:
    """Which attempt a flow run is: a row of `prefect_run`."""

    run_id: str
    optimization_id: str
    attempt: int
    owner: str = ATTEMPT

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Run:
        return cls(row["run_id"], row["optimization_id"], row["attempt"], row["kind"])


def observed_state(run_kind: str, run: Any, state: Any) -> ObservedState:
    """The state of a run, both as objects of Prefect's client."""
    name = state.name or state.type.value.capitalize()
    message = state.message or ""
    return ObservedState(
        run_kind, str(run.id), run.name or "", str(state.id), state.type.value, name, message, state.timestamp
    )


def observed_in(event: Any) -> tuple[str, ObservedState] | None:
    """The id of the flow run, and the state, in a Prefect event; None where the event has no state.

    The event's id is the state's id, of flow runs (server/models/events.py) and of task runs (utilities/engine) alike.
    """
    about = dict(event.resource)
    prefix = next((prefix for prefix in _KINDS if about["prefect.resource.id"].startswith(prefix)), None)
    if prefix is None or not about.get("prefect.state-type"):
        return None
    run_id = about["prefect.resource.id"].removeprefix(prefix)
    flow_run_id = run_id if _KINDS[prefix] == FLOW else _flow_run_of(event)
    if flow_run_id is None:
        return None
    at = about.get("prefect.state-timestamp")
    return flow_run_id, ObservedState(
        run_kind=_KINDS[prefix],
        run_id=run_id,
        run_name=about.get("prefect.resource.name") or "",
        state_id=str(event.id),
        state_type=about["prefect.state-type"],
        state_name=about.get("prefect.state-name") or about["prefect.state-type"].capitalize(),
        message=about.get("prefect.state-message") or "",
        at=datetime.fromisoformat(at) if at else event.occurred,
    )


def operation_for(
    observed: ObservedState, run: Run, source: Cause, node: str, *, moves: bool = True
) -> RecordPrefectState:
    """The write that records it, and changes the status unless `moves` is False."""
    meaning = meaning_of(
        observed.run_kind, observed.state_type, observed.state_name, observed.message or None, run.owner
    )
    return RecordPrefectState(
        optimization_id=run.optimization_id,
        attempt=run.attempt,
        **vars(observed),
        source=source,
        to=meaning.to if moves else None,
        issue=meaning.issue if moves else None,
        node=node,
    )


def _flow_run_of(event: Any) -> str | None:
    for related in event.related:
        about = dict(related)
        if about.get("prefect.resource.role") == "flow-run":
            return str(about["prefect.resource.id"]).removeprefix("prefect.flow-run.")
    return None

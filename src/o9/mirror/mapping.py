"""What a state of Prefect's means for an optimization: one pure function, no Prefect import.

| Prefect state                                  | status       |
| Scheduled, Late, Pending, Submitting           | initializing |
| Running, Retrying                              | running      |
| Paused, Suspended                              | paused       |
| Completed, Failed, Cancelled, TimedOut         | the same     |
| Cancelling, AwaitingRetry                      | nothing yet: what follows decides |
| Crashed                                        | nothing: a life is lost; whoever finds that out queues the next one |

Only a flow run's states move an optimization; its task runs' states are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from o9.model.states import OptimizationStatus

# The name of the state in which an attempt ends whose node was stopped in good order: it waits for its next one.
REQUEUED = "Requeued"


@dataclass(frozen=True)
class Meaning:
    """`to` is None where the state moves nothing; `issue` is what `issues` should keep."""

    to: OptimizationStatus | None
    issue: str | None = None


def meaning_of(run_kind: str, state_type: str, state_name: str, message: str | None) -> Meaning:
    """`state_type` is Prefect's (upper case), `state_name` what Prefect shows for it."""
    if run_kind != "flow":
        return Meaning(None)
    if state_name == "AwaitingRetry":
        return Meaning(None)
    if state_name == REQUEUED:
        return Meaning(OptimizationStatus.CREATED)
    # O9's own flow ends a paused attempt in a terminal state of this name, since Prefect pauses no run without
    # a deployment; a timed-out attempt ends as a failure called TimedOut.
    if state_name in ("Paused", "Suspended"):
        return Meaning(OptimizationStatus.PAUSED)
    if state_name == "TimedOut":
        return Meaning(OptimizationStatus.TIMEOUT, message)
    to = _BY_TYPE.get(state_type)
    if to is OptimizationStatus.FAILED:
        return Meaning(to, f"the flow run failed: {message or 'Prefect gave no reason'}")
    return Meaning(to)


_BY_TYPE = {
    "SCHEDULED": OptimizationStatus.INITIALIZING,
    "PENDING": OptimizationStatus.INITIALIZING,
    "RUNNING": OptimizationStatus.RUNNING,
    "PAUSED": OptimizationStatus.PAUSED,
    "COMPLETED": OptimizationStatus.COMPLETED,
    "FAILED": OptimizationStatus.FAILED,
    "CANCELLED": OptimizationStatus.CANCELLED,
}

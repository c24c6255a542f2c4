"""What each state of Prefect's means for an optimization."""

import pytest

from o9.mirror.mapping import meaning_of
from o9.model.states import OptimizationStatus

S = OptimizationStatus


@pytest.mark.parametrize(
    ("state_type", "state_name", "status"),
    [
        ("SCHEDULED", "Scheduled", S.INITIALIZING),
        ("SCHEDULED", "Late", S.INITIALIZING),
        ("PENDING", "Pending", S.INITIALIZING),
        ("PENDING", "Submitting", S.INITIALIZING),
        ("RUNNING", "Running", S.RUNNING),
        ("RUNNING", "Retrying", S.RUNNING),
        ("SCHEDULED", "AwaitingRetry", None),
        ("CANCELLING", "Cancelling", None),
        ("PAUSED", "Paused", S.PAUSED),
        ("PAUSED", "Suspended", S.PAUSED),
        ("CANCELLED", "Paused", S.PAUSED),
        ("CANCELLED", "Requeued", S.CREATED),
        ("CANCELLED", "Cancelled", S.CANCELLED),
        ("COMPLETED", "Completed", S.COMPLETED),
        ("FAILED", "Failed", S.FAILED),
        ("FAILED", "TimedOut", S.TIMEOUT),
        ("CRASHED", "Crashed", None),
    ],
)
def test_a_flow_run_s_state(state_type: str, state_name: str, status: OptimizationStatus | None) -> None:
    assert meaning_of("flow", state_type, state_name, "because").to is status


def test_a_task_run_s_state_moves_nothing() -> None:
    assert meaning_of("task", "FAILED", "Failed", "because").to is None


def test_a_failure_says_why() -> None:
    assert meaning_of("flow", "FAILED", "Failed", "no prices").issue == "the flow run failed: no prices"
    assert meaning_of("flow", "FAILED", "Failed", None).issue == "the flow run failed: Prefect gave no reason"

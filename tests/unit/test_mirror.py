"""What each state of Prefect's means for an optimization, heard from the run itself or from outside."""

import pytest

from o9.mirror.interpretation import (
    Interpretation,
    Meaning,
    RunStatus,
    Why,
    interpret,
    may_carry_intent,
    meaning_of,
    statuses_before,
)
from o9.model.states import Intent, OptimizationStatus

S = OptimizationStatus


@pytest.mark.parametrize(
    ("state_type", "state_name", "status", "mirrored"),
    [
        ("SCHEDULED", "Scheduled", S.INITIALIZING, S.INITIALIZING),
        ("SCHEDULED", "Late", S.INITIALIZING, S.INITIALIZING),
        ("PENDING", "Pending", S.INITIALIZING, S.INITIALIZING),
        ("PENDING", "Submitting", S.INITIALIZING, S.INITIALIZING),
        ("RUNNING", "Running", S.RUNNING, S.RUNNING),
        ("RUNNING", "Retrying", S.RUNNING, S.RUNNING),
        ("SCHEDULED", "AwaitingRetry", None, None),
        ("CANCELLING", "Cancelling", None, None),
        ("PAUSED", "Paused", S.PAUSED, S.PAUSED),
        ("PAUSED", "Suspended", S.PAUSED, S.PAUSED),
        # O9's own names for an end that another attempt follows; a user's flow means cancelled by it.
        ("CANCELLED", "Paused", S.PAUSED, S.CANCELLED),
        ("CANCELLED", "Requeued", S.CREATED, S.CANCELLED),
        ("CANCELLED", "Cancelled", S.CANCELLED, S.CANCELLED),
        ("COMPLETED", "Completed", S.COMPLETED, S.COMPLETED),
        ("COMPLETED", "TimedOut", S.COMPLETED, S.COMPLETED),
        ("FAILED", "Failed", S.FAILED, S.FAILED),
        ("FAILED", "TimedOut", S.TIMEOUT, S.TIMEOUT),
        ("CRASHED", "Crashed", None, S.FAILED),
    ],
)
def test_a_flow_run_s_state(
    state_type: str, state_name: str, status: OptimizationStatus | None, mirrored: OptimizationStatus | None
) -> None:
    assert meaning_of("flow", state_type, state_name, "because").to is status
    assert meaning_of("flow", state_type, state_name, "because", "mirrored").to is mirrored


@pytest.mark.parametrize("kind", ["task", "subflow"])
def test_what_a_flow_run_started_moves_nothing(kind: str) -> None:
    assert meaning_of(kind, "FAILED", "Failed", "because") == Meaning(None)
    assert meaning_of(kind, "CRASHED", "Crashed", "because", "mirrored") == Meaning(None)


def test_a_failure_says_why() -> None:
    for message in ("no prices", "Flow run encountered an exception: OptimizationStrategyError: no prices"):
        assert meaning_of("flow", "FAILED", "Failed", message).issue == "no prices"
    assert meaning_of("flow", "FAILED", "Failed", None).issue == "the flow run failed, and Prefect gave no reason"
    assert meaning_of("flow", "CRASHED", "Crashed", "killed", "mirrored").issue == "the flow run crashed: killed"


ACTIVE = RunStatus("attempt", S.RUNNING, attempt=2, run_attempt=2)
PAUSED = RunStatus("attempt", S.PAUSED, attempt=2, run_attempt=2)
HALTED = RunStatus("attempt", S.PAUSED, attempt=2, run_attempt=1, suspended=True)
MIRRORED = RunStatus("mirrored", S.RUNNING, attempt=1, run_attempt=1)


@pytest.mark.parametrize(
    ("run_status", "state", "read"),
    [
        (ACTIVE, "CANCELLING Cancelling", Interpretation(Why.CANCEL, Intent.CANCEL)),
        (ACTIVE, "CANCELLED Cancelled", Interpretation(Why.CANCEL, Intent.CANCEL, moves=True)),
        (ACTIVE, "PAUSED Paused", Interpretation(Why.PAUSE, Intent.PAUSE)),
        (ACTIVE, "PAUSED Suspended", Interpretation(Why.PAUSE, Intent.PAUSE)),
        (ACTIVE, "CRASHED Crashed", Interpretation(Why.LOST, lost=True)),
        (ACTIVE, "SCHEDULED Scheduled", Interpretation(Why.FACT, moves=True)),
        (ACTIVE, "CANCELLED Paused", Interpretation(Why.INTERIM_END)),
        (ACTIVE, "CANCELLED Requeued", Interpretation(Why.INTERIM_END)),
        (PAUSED, "PAUSED Suspended", Interpretation(Why.NOT_ACTIVE)),
        (PAUSED, "CRASHED Crashed", Interpretation(Why.NOT_ACTIVE)),
        (HALTED, "SCHEDULED Resuming", Interpretation(Why.RESUME, Intent.RUN)),
        (HALTED, "FAILED Failed", Interpretation(Why.NOT_BEGUN, rejected=True)),
        (HALTED, "CRASHED Crashed", Interpretation(Why.NOT_BEGUN, rejected=True)),
        (ACTIVE, "FAILED Failed", Interpretation(Why.FACT, moves=True)),
        (HALTED, "CANCELLED Cancelled", Interpretation(Why.CANCEL, Intent.CANCEL, moves=True)),
        (MIRRORED, "CANCELLING Cancelling", Interpretation(Why.CANCEL, Intent.CANCEL)),
        (MIRRORED, "CANCELLED Cancelled", Interpretation(Why.FACT, moves=True)),
        (MIRRORED, "PAUSED Paused", Interpretation(Why.FACT, moves=True)),
        (MIRRORED, "CRASHED Crashed", Interpretation(Why.FACT, moves=True)),
    ],
)
def test_what_a_state_heard_from_outside_means(run_status: RunStatus, state: str, read: Interpretation) -> None:
    state_type, state_name = state.split()
    assert interpret(run_status, state_type, state_name) == read
    assert may_carry_intent("flow", state_type, state_name)
    assert not may_carry_intent("task", state_type, state_name)


@pytest.mark.parametrize("state", ["CANCELLING Cancelling", "CANCELLED Cancelled", "PAUSED Paused", "CRASHED Crashed"])
def test_what_comes_too_late_moves_nothing(state: str) -> None:
    state_type, state_name = state.split()
    ended = RunStatus("attempt", S.COMPLETED, 2, 2)
    replaced = RunStatus("attempt", S.RUNNING, 3, 2)
    history = RunStatus("attempt", S.RUNNING, 2, 2, newest=False)
    assert interpret(ended, state_type, state_name) == Interpretation(Why.ENDED)
    # Somebody asked a run to end whose worker was quicker than O9's ears: he meant the optimization.
    late = Interpretation(Why.CANCEL, Intent.CANCEL) if state_type == "CANCELLING" else Interpretation(Why.REPLACED)
    assert interpret(replaced, state_type, state_name) == late
    assert interpret(history, state_type, state_name) == Interpretation(Why.HISTORY)


@pytest.mark.parametrize(
    "message",
    [
        "Deployment concurrency limit reached.",
        "Deployment concurrency slot lost during provisioning - no slots available to continue execution",
    ],
)
def test_a_cancellation_by_prefect_s_own_limit_is_nobody_s(message: str) -> None:
    waits = RunStatus("attempt", S.CREATED, attempt=2, run_attempt=2, suspended=True)
    assert interpret(waits, "CANCELLED", "Cancelled", message) == Interpretation(Why.NO_SLOT, rejected=True)
    assert interpret(waits, "CANCELLED", "Cancelled", "by ann") == Interpretation(Why.CANCEL, Intent.CANCEL, moves=True)


def test_a_schedule_is_a_resumption_only_of_what_is_suspended_and_paused() -> None:
    assert interpret(RunStatus("attempt", S.CREATED, 2, 1, suspended=True), "SCHEDULED", "Resuming") == Interpretation(
        Why.FACT
    )
    assert interpret(PAUSED, "SCHEDULED", "Resuming").intent is None


@pytest.mark.parametrize(
    ("status", "to", "way"),
    [
        (S.CREATED, S.RUNNING, (S.INITIALIZING,)),
        (S.CREATED, S.COMPLETED, (S.INITIALIZING, S.RUNNING)),
        (S.INITIALIZING, S.COMPLETED, (S.RUNNING,)),
        (S.PAUSED, S.COMPLETED, (S.RUNNING,)),
        (S.PAUSED, S.RUNNING, ()),
        (S.RUNNING, S.COMPLETED, ()),
        (S.CREATED, S.FAILED, ()),
        (S.FAILED, S.COMPLETED, ()),
        (S.CREATED, None, ()),
    ],
)
def test_what_was_not_heard_on_the_way(
    status: OptimizationStatus, to: OptimizationStatus | None, way: tuple[OptimizationStatus, ...]
) -> None:
    assert statuses_before(status, to) == way

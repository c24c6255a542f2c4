"""What each state of Prefect's means for an optimization, heard from the run itself or from outside."""

import pytest

from o9.mirror.mapping import Meaning, Standing, Why, Wish, may_be_a_wish, meaning_of, on_the_way, wish_of
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


ACTIVE = Standing("attempt", S.RUNNING, attempt=2, run_attempt=2)
PAUSED = Standing("attempt", S.PAUSED, attempt=2, run_attempt=2)
PARKED = Standing("attempt", S.PAUSED, attempt=2, run_attempt=1, parked=True)
MIRRORED = Standing("mirrored", S.RUNNING, attempt=1, run_attempt=1)


@pytest.mark.parametrize(
    ("standing", "state", "wish"),
    [
        (ACTIVE, "CANCELLING Cancelling", Wish(Why.CANCEL, Intent.CANCEL)),
        (ACTIVE, "CANCELLED Cancelled", Wish(Why.CANCEL, Intent.CANCEL, moves=True)),
        (ACTIVE, "PAUSED Paused", Wish(Why.PAUSE, Intent.PAUSE)),
        (ACTIVE, "PAUSED Suspended", Wish(Why.PAUSE, Intent.PAUSE)),
        (ACTIVE, "CRASHED Crashed", Wish(Why.LOST, lost=True)),
        (ACTIVE, "SCHEDULED Scheduled", Wish(Why.TELLS, moves=True)),
        (ACTIVE, "CANCELLED Paused", Wish(Why.OWN_REST)),
        (ACTIVE, "CANCELLED Requeued", Wish(Why.OWN_REST)),
        (PAUSED, "PAUSED Suspended", Wish(Why.RESTS)),
        (PAUSED, "CRASHED Crashed", Wish(Why.RESTS)),
        (PARKED, "SCHEDULED Resuming", Wish(Why.RESUME, Intent.RUN)),
        (PARKED, "CANCELLED Cancelled", Wish(Why.CANCEL, Intent.CANCEL, moves=True)),
        (MIRRORED, "CANCELLING Cancelling", Wish(Why.CANCEL, Intent.CANCEL)),
        (MIRRORED, "CANCELLED Cancelled", Wish(Why.TELLS, moves=True)),
        (MIRRORED, "PAUSED Paused", Wish(Why.TELLS, moves=True)),
        (MIRRORED, "CRASHED Crashed", Wish(Why.TELLS, moves=True)),
    ],
)
def test_what_a_state_heard_from_outside_means(standing: Standing, state: str, wish: Wish) -> None:
    state_type, state_name = state.split()
    assert wish_of(standing, state_type, state_name) == wish
    assert may_be_a_wish("flow", state_type, state_name)
    assert not may_be_a_wish("task", state_type, state_name)


@pytest.mark.parametrize("state", ["CANCELLING Cancelling", "CANCELLED Cancelled", "PAUSED Paused", "CRASHED Crashed"])
def test_what_comes_too_late_moves_nothing(state: str) -> None:
    state_type, state_name = state.split()
    ended = Standing("attempt", S.COMPLETED, 2, 2)
    replaced = Standing("attempt", S.RUNNING, 3, 2)
    history = Standing("attempt", S.RUNNING, 2, 2, newest=False)
    assert wish_of(ended, state_type, state_name) == Wish(Why.ENDED)
    # Somebody asked a run to end whose worker was quicker than O9's ears: he meant the optimization.
    late = Wish(Why.CANCEL, Intent.CANCEL) if state_type == "CANCELLING" else Wish(Why.REPLACED)
    assert wish_of(replaced, state_type, state_name) == late
    assert wish_of(history, state_type, state_name) == Wish(Why.HISTORY)


def test_a_schedule_is_a_resumption_only_of_what_is_parked_and_paused() -> None:
    assert wish_of(Standing("attempt", S.CREATED, 2, 1, parked=True), "SCHEDULED", "Resuming") == Wish(Why.TELLS)
    assert wish_of(PAUSED, "SCHEDULED", "Resuming").intent is None


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
    assert on_the_way(status, to) == way

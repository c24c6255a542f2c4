"""What the reconciler does about a run: the dead are ended in Prefect, the living never touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.mirror.decisions import RunDecision, RunFacts, RunReason, decide_run
from o9.mirror.observed_state import TERMINAL
from o9.model.states import ENDED, Intent, OptimizationStatus

S = OptimizationStatus
AT_WORK = RunFacts("attempt", 1, 1, S.RUNNING, Intent.RUN, leased=True, suspended=False, prefect_type="RUNNING")
WATCHED = replace(AT_WORK, owner="mirrored")


@pytest.mark.parametrize(
    ("run", "decision"),
    [
        (AT_WORK, RunDecision(RunReason.ALIVE)),
        (replace(AT_WORK, prefect_type=None), RunDecision(RunReason.GONE, close=True)),
        (replace(AT_WORK, prefect_type="COMPLETED"), RunDecision(RunReason.OVER, close=True)),
        (replace(WATCHED, prefect_type="COMPLETED", settled=False), RunDecision(RunReason.SETTLING)),
        (replace(AT_WORK, current_attempt=2), RunDecision(RunReason.REPLACED, set_to="CRASHED")),
        (replace(AT_WORK, current_attempt=2, suspended=True), RunDecision(RunReason.SUSPENDED)),
        (
            replace(AT_WORK, status=S.CREATED, suspended=True, prefect_type="SCHEDULED"),
            RunDecision(RunReason.SUSPENDED, waits=True),
        ),
        (replace(AT_WORK, status=S.CREATED, leased=False), RunDecision(RunReason.SWEPT, set_to="CRASHED")),
        (replace(AT_WORK, status=S.PAUSED, leased=False, quiet=False), RunDecision(RunReason.RECENT)),
        (replace(AT_WORK, status=S.FAILED, leased=False), RunDecision(RunReason.ENDED, set_to="CRASHED")),
        (replace(AT_WORK, status=S.COMPLETED, leased=False, quiet=False), RunDecision(RunReason.RECENT)),
        (replace(AT_WORK, status=S.CANCELLED, leased=False), RunDecision(RunReason.CANCELLED, set_to="CANCELLED")),
        (
            replace(AT_WORK, status=S.CANCELLED, leased=False, suspended=True, prefect_type="PAUSED"),
            RunDecision(RunReason.CANCELLED, set_to="CANCELLED"),
        ),
        (WATCHED, RunDecision(RunReason.ALIVE)),
        (replace(WATCHED, intent=Intent.CANCEL), RunDecision(RunReason.WANTED_CANCELLED, set_to="CANCELLING")),
        (replace(WATCHED, intent=Intent.CANCEL, prefect_type="CANCELLING"), RunDecision(RunReason.ALIVE)),
        (replace(WATCHED, status=S.PAUSED, leased=False, prefect_type="PAUSED"), RunDecision(RunReason.IDLE)),
        (replace(WATCHED, status=S.FAILED, leased=False), RunDecision(RunReason.ENDED, set_to="CRASHED")),
        (replace(WATCHED, status=S.FAILED, leased=False, holder_lives=True), RunDecision(RunReason.HOLDER_LIVES)),
    ],
)
def test_the_verdict(run: RunFacts, decision: RunDecision) -> None:
    assert decide_run(run) == decision


@given(
    st.builds(
        RunFacts,
        owner=st.sampled_from(["attempt", "mirrored"]),
        attempt=st.integers(1, 3),
        current_attempt=st.integers(1, 3),
        status=st.sampled_from(S),
        intent=st.sampled_from(Intent),
        leased=st.booleans(),
        suspended=st.booleans(),
        prefect_type=st.sampled_from([None, "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", *TERMINAL]),
        settled=st.booleans(),
        quiet=st.booleans(),
        holder_lives=st.booleans(),
    )
)
def test_nothing_that_may_be_alive_is_ended(run: RunFacts) -> None:
    decision = decide_run(run)
    at_work = run.leased and run.attempt == run.current_attempt and run.status not in ENDED
    if decision.set_to in ("CRASHED", "CANCELLED"):
        assert not at_work
        assert run.prefect_type not in TERMINAL
        assert not decision.close
    if run.holder_lives and run.status in ENDED:
        assert decision.set_to is None

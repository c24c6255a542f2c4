"""What the reconciler does about a run: the dead are ended in Prefect, the living never touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.mirror.seen import TERMINAL
from o9.mirror.verdicts import Because, RunView, Verdict, verdict_on
from o9.model.states import ENDED, Intent, OptimizationStatus

S = OptimizationStatus
AT_WORK = RunView("attempt", 1, 1, S.RUNNING, Intent.RUN, leased=True, parked=False, prefect_type="RUNNING")
WATCHED = replace(AT_WORK, owner="mirrored")


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (AT_WORK, Verdict(Because.ALIVE)),
        (replace(AT_WORK, prefect_type=None), Verdict(Because.GONE, close=True)),
        (replace(AT_WORK, prefect_type="COMPLETED"), Verdict(Because.OVER, close=True)),
        (replace(WATCHED, prefect_type="COMPLETED", settled=False), Verdict(Because.SETTLING)),
        (replace(AT_WORK, current_attempt=2), Verdict(Because.REPLACED, set_to="CRASHED")),
        (replace(AT_WORK, current_attempt=2, parked=True), Verdict(Because.PARKED)),
        (replace(AT_WORK, status=S.CREATED, leased=False), Verdict(Because.SWEPT, set_to="CRASHED")),
        (replace(AT_WORK, status=S.PAUSED, leased=False, quiet=False), Verdict(Because.RECENT)),
        (replace(AT_WORK, status=S.FAILED, leased=False), Verdict(Because.ENDED, set_to="CRASHED")),
        (replace(AT_WORK, status=S.COMPLETED, leased=False, quiet=False), Verdict(Because.RECENT)),
        (replace(AT_WORK, status=S.CANCELLED, leased=False), Verdict(Because.CANCELLED, set_to="CANCELLED")),
        (
            replace(AT_WORK, status=S.CANCELLED, leased=False, parked=True, prefect_type="PAUSED"),
            Verdict(Because.CANCELLED, set_to="CANCELLED"),
        ),
        (WATCHED, Verdict(Because.ALIVE)),
        (replace(WATCHED, intent=Intent.CANCEL), Verdict(Because.WANTED_CANCELLED, set_to="CANCELLING")),
        (replace(WATCHED, intent=Intent.CANCEL, prefect_type="CANCELLING"), Verdict(Because.ALIVE)),
        (replace(WATCHED, status=S.PAUSED, leased=False, prefect_type="PAUSED"), Verdict(Because.RESTS)),
        (replace(WATCHED, status=S.FAILED, leased=False), Verdict(Because.ENDED, set_to="CRASHED")),
        (replace(WATCHED, status=S.FAILED, leased=False, holder_lives=True), Verdict(Because.HOLDER_LIVES)),
    ],
)
def test_the_verdict(run: RunView, verdict: Verdict) -> None:
    assert verdict_on(run) == verdict


@given(
    st.builds(
        RunView,
        owner=st.sampled_from(["attempt", "mirrored"]),
        attempt=st.integers(1, 3),
        current_attempt=st.integers(1, 3),
        status=st.sampled_from(S),
        intent=st.sampled_from(Intent),
        leased=st.booleans(),
        parked=st.booleans(),
        prefect_type=st.sampled_from([None, "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", *TERMINAL]),
        settled=st.booleans(),
        quiet=st.booleans(),
        holder_lives=st.booleans(),
    )
)
def test_nothing_that_may_be_alive_is_ended(run: RunView) -> None:
    verdict = verdict_on(run)
    at_work = run.leased and run.attempt == run.current_attempt and run.status not in ENDED
    if verdict.set_to in ("CRASHED", "CANCELLED"):
        assert not at_work
        assert run.prefect_type not in TERMINAL
        assert not verdict.close
    if run.holder_lives and run.status in ENDED:
        assert verdict.set_to is None

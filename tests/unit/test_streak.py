"""When failed trials end an optimization early, and that this follows from the ledger alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.lifecycle.effect import HOPELESS, Streak, is_hopeless, streak_of
from o9.model.states import TrialState
from o9.model.trial import Trial

S = {"c": TrialState.COMPLETED, "f": TrialState.FAILED, "i": TrialState.INFEASIBLE, "x": TrialState.CANCELLED}


def ledger(states: str) -> list[Trial]:
    return [Trial(n, n, S[state], {}, 1.0 if state == "c" else None, error=f"{n}") for n, state in enumerate(states)]


@given(st.text("cfix", max_size=30), st.integers(0, 30))
def test_a_resumed_one_ends_where_an_undisturbed_one_does(states: str, cut: int) -> None:
    trials = ledger(states)
    assert streak_of(trials[cut:], streak_of(trials[:cut])) == streak_of(trials)


@pytest.mark.parametrize(
    ("states", "metadata", "ends"),
    [
        ("f" * HOPELESS, {}, True),
        ("f" * (HOPELESS - 1), {}, False),
        ("f" * (HOPELESS - 1) + "ii", {}, False),
        ("fffffi" * 2, {}, True),
        ("c" + "f" * 50, {}, False),
        ("cfff", {"stop_after_failures": 3}, True),
        ("cffcff", {"stop_after_failures": 3}, False),
        ("ffxf", {"stop_after_failures": 3}, True),
        ("f" * 50, {"stop_after_failures": 51}, False),
        ("f" * HOPELESS, {"stop_after_failures": None}, True),
        ("", {"stop_after_failures": 1}, False),
    ],
)
def test_so_many_in_a_row_end_it(states: str, metadata: dict[str, Any], ends: bool) -> None:
    assert is_hopeless(streak_of(ledger(states)), metadata) is ends


def test_the_first_of_them_says_why() -> None:
    assert streak_of(ledger("cffiff")) == Streak(4, "1", True)

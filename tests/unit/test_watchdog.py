"""What the watchdog of the event loop decides, and when."""

import pytest

from o9.strategies.watchdog import Verdict, decide


@pytest.mark.parametrize(
    ("held", "users", "interrupted", "verdict", "again"),
    [
        (0.0, True, None, Verdict.WAIT, False),
        (29.9, True, None, Verdict.WAIT, False),
        (29.9, False, None, Verdict.WAIT, False),
        (30.0, True, None, Verdict.INTERRUPT, False),
        (30.0, False, None, Verdict.BLOCKED, False),
        (31.0, True, 1.0, Verdict.WAIT, False),
        (32.1, True, 2.1, Verdict.BLOCKED, False),
        (35.0, True, 5.0, Verdict.BLOCKED, True),
        (36.0, True, 1.0, Verdict.WAIT, False),
        (3600.0, False, 5.0, Verdict.BLOCKED, False),
    ],
)
def test_what_is_to_be_done(held: float, users: bool, interrupted: float | None, verdict: Verdict, again: bool) -> None:
    limits = {"tick": 1.0, "warn": 5.0, "give_up": 30.0}
    assert decide(held, users=users, interrupted=interrupted, **limits) == (verdict, again)

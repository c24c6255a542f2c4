"""The time that a run will take from here, as `o9 run` shows it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from o9.cli.session.progress import StepTimes, in_words


def course(moments: Sequence[float], *, first: int = 0) -> StepTimes:
    seen = StepTimes()
    for completed, moment in enumerate(moments, start=first):
        seen.see(moment, completed)
    return seen


def test_what_is_left_follows_from_the_steps_that_were_seen() -> None:
    seen = course([0.0, 8.0, 10.0, 12.0, 14.0, 16.0])  # the first one started the processes, too
    assert seen.left(16.0, 25) == pytest.approx(40.0)
    assert seen.left(17.0, 25) == pytest.approx(39.0), "the step that runs has had a second"
    assert seen.left(100.0, 25) == pytest.approx(38.0), "and no more than a step"
    assert seen.left(16.0, 5) == 0.0
    assert course([0.0, 8.0, 10.0, 12.0, 14.0], first=100).left(14.0, 114) == pytest.approx(20.0)


def test_one_pause_or_one_slow_step_moves_it_little() -> None:
    moments = [2.0 * n + (0.1 if n % 2 else 0.0) for n in range(20)]
    slept = [*moments, *[moment + 36_000.0 for moment in (40.0, 42.1, 44.0)]]
    assert course(slept).left(slept[-1], 72) == pytest.approx(100.0, rel=0.1)


def test_steps_that_were_seen_to_end_together_count_each() -> None:
    seen = StepTimes()
    for moment, completed in ((0.0, 0), (1.0, 2), (2.0, 6), (3.0, 10), (4.0, 14)):
        seen.see(moment, completed)
    assert seen.left(4.0, 54) == pytest.approx(10.0)


def test_too_little_was_seen_to_say() -> None:
    assert course([0.0, 1.0, 2.0, 3.0]).left(3.0, 50) is None, "two steps from end to end"
    assert course([0.0, 0.1, 0.2, 0.3, 0.4]).left(0.4, 50) is None, "a fifth of a second"
    assert course([0.0, 1.0, 2.0, 3.0, 4.0]).left(4.0, 0) is None, "nobody knows how many steps"
    assert StepTimes().left(0.0, 10) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""), (4.0, "a few s left"), (44.0, "about 40 s left"), (179.0, "about 3 min left"),
        (9_000.0, "about 2 h 30 min left"), (400_000.0, "about 5 d left"),
    ],
)  # fmt: skip
def test_in_words(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words

"""What a step did: the best so far, and how much better it is than the baseline."""

import pytest

from o9.lifecycle.effect import Best, best_of, improvement
from o9.model.states import TrialState
from o9.model.trial import Trial


def trial(number: int, value: float | None, state: TrialState = TrialState.COMPLETED) -> Trial:
    return Trial(number, 0, state, {"n": number}, value)


def test_the_best_is_the_largest_or_the_smallest() -> None:
    trials = [trial(0, 1.0), trial(1, 3.0), trial(2, -2.0)]
    assert best_of(trials, "maximize") == Best(3.0, {"n": 1}, 1)
    assert best_of(trials, "minimize") == Best(-2.0, {"n": 2}, 2)


def test_of_equals_the_first_stays_even_across_steps() -> None:
    first = best_of([trial(0, 1.0), trial(1, 1.0)], "maximize")
    assert first is not None
    assert first.number == 0
    assert best_of([trial(2, 1.0)], "maximize", first) == first


def test_failed_and_cancelled_trials_are_never_the_best() -> None:
    trials = [trial(0, None, TrialState.FAILED), trial(1, 9.0, TrialState.CANCELLED)]
    assert best_of(trials, "maximize") is None


@pytest.mark.parametrize(
    ("value", "baseline", "direction", "expected"),
    [
        (1.2, 1.0, "maximize", 0.2),
        (0.8, 1.0, "maximize", -0.2),
        (0.8, 1.0, "minimize", 0.2),
        (-0.5, -1.0, "maximize", 0.5),
        (0.3, 0.0, "maximize", 0.3),
        (0.3, 0.0, "minimize", -0.3),
    ],
)
def test_improvement_is_a_share_of_the_baseline_and_positive_when_better(
    value: float, baseline: float, direction: str, expected: float
) -> None:
    assert improvement(value, baseline, direction) == pytest.approx(expected)  # type: ignore[arg-type]

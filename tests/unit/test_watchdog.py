"""Which time counts for the watchdog of the event loop."""

import os

import pytest

from o9.user_code.watchdog import HeldLoop, cpu_seconds


@pytest.mark.parametrize(
    ("intervals", "held"),  # of each interval how long it was, the loop's thread ran, and it or the watchdog had no CPU
    [
        pytest.param([(1.0, 1.0, 0.0)] * 8, 8.0, id="it runs"),
        pytest.param([(1.0, 0.0, 0.0)] * 8, 8.0, id="it blocks, or the system does not tell"),
        pytest.param([(1.0, 0.5, 0.0)] * 8, 8.0, id="it runs and blocks"),
        pytest.param([(1.0, 0.25, 0.75)] * 8, 2.0, id="it has a CPU for a quarter of the time"),
        pytest.param([(1.5, 0.25, 2.0)] * 8, 2.0, id="so has the watchdog"),
        pytest.param([(1.5, 0.0, 0.5)] * 8, 8.0, id="it blocks, and the watchdog has no CPU"),
        pytest.param([(1.5, 0.25, 2.0), (1.0, 0.0, 0.0)], 1.25, id="it blocks afterwards"),
        pytest.param([(1.0, 1.0, 0.0), (3600.0, 0.5, 0.0), (1.0, 1.0, 0.0)], 4.0, id="the process is frozen"),
        pytest.param([(1.0, 1.0, 0.0), (3600.0, 3600.0, 0.0), (1.0, 1.0, 0.0)], 4.0, id="the machine is frozen"),
        pytest.param([(1.0, 1.0, 0.0), (1.5, 1.5, 0.0), (1.0, 1.0, 0.0)], 3.5, id="the watchdog wakes late"),
        pytest.param([(10.0, 1.0, 9.0)] * 8, 8.0, id="the watchdog wakes very late"),
        pytest.param([(1.0, 0.0, 0.0)] * 4 + [(1.0, 0.5, 4.5)], 0.5, id="it waits long, which is known afterwards"),
        pytest.param([(1.0, 0.0, 3.0), (1.0, 1.0, 0.0)], 1.0, id="it has waited since before the tick was due"),
    ],
)
def test_which_time_counts(intervals: list[tuple[float, float, float]], held: float) -> None:
    now = HeldLoop()
    for elapsed, ran, queued in intervals:
        now = now.after(elapsed=elapsed, ran=ran, queued=queued, tick=1.0)
    assert now.seconds == held


def test_nothing_is_known_of_what_is_no_thread_of_this_process() -> None:
    assert cpu_seconds(os.getppid()) == (0.0, 0.0)

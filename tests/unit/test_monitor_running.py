"""Problems of time and resources, by the optimization's own past: once in which each happens, once nearly."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o9.model.optimization import OptimizationState
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.monitor.findings import memory_growing, slower_than_before, stalled
from o9.monitor.window import Step, Window

START = datetime(2026, 1, 1, tzinfo=UTC)
S = OptimizationStatus


def window(
    times: Sequence[float] = (),
    *,
    memory: Sequence[float | None] = (),
    quiet: float = 0.0,
    status: OptimizationStatus = S.RUNNING,
) -> Window:
    """`times` are the steps' seconds, 1.0 where left out; `quiet` seconds have gone by since the last one."""
    at, steps = START, []
    for n in range(max(len(times), len(memory))):
        seconds = times[n] if n < len(times) else 1.0
        at += timedelta(seconds=seconds)
        figures = {"step_seconds": seconds, "trials": 1.0}
        figures |= {"memory_mib": taken} if n < len(memory) and (taken := memory[n]) is not None else {}
        steps.append(Step(n, at, figures))
    state = OptimizationState(
        "id", "name", "", OptimizationType.PARAMETER_TUNING, status, OptimizationPriority.NORMAL, START, at
    )
    return Window(state, at + timedelta(seconds=quiet), steps)


# Stalled


def test_stalled_is_silence_that_is_long_for_its_own_steps() -> None:
    finding = stalled(window(times=[20.0] * 20, quiet=100.1))
    assert finding is not None
    assert (finding.name, finding.level) == ("stalled", AlertLevel.ERROR)
    assert finding.evidence == pytest.approx(
        {"quiet_seconds": 100.1, "limit_seconds": 100.0, "usual_seconds": 20.0, "step_times": 19}
    )
    assert stalled(window(times=[20.0] * 20, quiet=99.9)) is None
    assert stalled(window(times=[0.02] * 20, quiet=29.9)) is None, "quick steps get half a minute, too"
    assert stalled(window(times=[0.02] * 20, quiet=30.1)) is not None
    assert stalled(window(times=[200.0] * 20, quiet=100.0)) is None


def test_steps_of_very_different_lengths_are_given_more_time() -> None:
    chance = random.Random(3)
    uneven = [math.exp(chance.gauss(0.0, 1.0)) for _ in range(50)]
    assert stalled(window(times=uneven, quiet=12.0)) is None
    assert stalled(window(times=uneven, quiet=500.0)) is not None


def test_one_pause_between_two_steps_does_not_hide_a_stall() -> None:
    assert stalled(window(times=[2.0] * 10 + [86_400.0] + [2.0] * 9, quiet=31.0)) is not None


@pytest.mark.parametrize("status", [S.PAUSED, S.CREATED, S.COMPLETED, S.INITIALIZING])
def test_only_what_runs_can_stall(status: OptimizationStatus) -> None:
    assert stalled(window(times=[2.0] * 20, quiet=1000.0, status=status)) is None


def test_what_was_resumed_a_moment_ago_has_not_stalled() -> None:
    seen = window(times=[2.0] * 20, quiet=1000.0)
    seen.state.updated_at = seen.now - timedelta(seconds=3)
    assert stalled(seen) is None


def test_too_few_steps_say_nothing_of_a_stall() -> None:
    assert stalled(window(times=[2.0] * 5, quiet=1000.0)) is None
    assert stalled(window(times=[2.0] * 6, quiet=1000.0)) is not None


# Memory and speed


def test_memory_growing_goes_on_and_is_a_fifth() -> None:
    chance = random.Random(1)
    leaking = [100.0 + 3 * n + chance.gauss(0, 2) for n in range(40)]
    finding = memory_growing(window(memory=leaking))
    assert finding is not None
    assert finding.evidence["mib_a_reading"] == pytest.approx(3.0, rel=0.1)
    assert memory_growing(window(memory=[100.0 + 0.4 * n for n in range(40)])) is None, "only a sixth"
    assert memory_growing(window(memory=[100.0 + 0.6 * n for n in range(40)])) is not None
    filling = [100 + 200 * (1 - math.exp(-n / 4)) for n in range(40)]
    assert memory_growing(window(memory=filling)) is None, "a cache that is full"
    sawtooth = [100.0 + 20 * (n % 8) for n in range(40)]
    assert memory_growing(window(memory=sawtooth)) is None, "it is given back"
    assert memory_growing(window(memory=leaking[:9])) is None
    assert memory_growing(window(memory=[None if n % 3 else value for n, value in enumerate(leaking)])) is not None


def test_slower_is_twice_its_own_past_beyond_chance() -> None:
    chance = random.Random(1)
    usual = [1.0 + chance.random() / 5 for _ in range(30)]
    finding = slower_than_before(window(times=usual + [2.5 * time for time in usual[:10]]))
    assert finding is not None
    assert finding.evidence["ratio"] == pytest.approx(2.5, rel=0.05)
    assert slower_than_before(window(times=usual + [1.8 * time for time in usual[:10]])) is None
    assert slower_than_before(window(times=[*usual, *usual[:6], 60.0, 60.0, 60.0, 60.0])) is None, "a few outliers"
    quick = [time / 100 for time in usual]
    assert slower_than_before(window(times=quick + [2.5 * time for time in quick[:10]])) is None, "milliseconds"
    assert slower_than_before(window(times=usual[:9] + [10.0] * 10)) is None, "too short a past"
    two_kinds = [1.0, 1.0, 10.0, 1.0, 10.0] * 4
    assert slower_than_before(window(times=[*two_kinds, *[1.0, 10.0, 10.0, 1.0, 10.0] * 2])) is None, "by chance"


def test_a_step_of_more_trials_may_take_longer() -> None:
    seen = window(times=[1.0] * 20 + [4.0] * 10)
    steps = [
        dataclasses.replace(step, figures=step.figures | {"trials": 4.0 if step.number >= 20 else 1.0})
        for step in seen.steps
    ]
    assert slower_than_before(seen) is not None
    assert slower_than_before(dataclasses.replace(seen, steps=steps)) is None


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.integers(100, 10_000), min_size=6, max_size=60),
    factor=st.sampled_from([0.25, 8.0]),
    quiet=st.integers(0, 100_000),
)
def test_a_faster_clock_changes_no_finding(times: list[int], factor: float, quiet: int) -> None:
    usual = window([float(time) for time in times], quiet=float(quiet))
    quick = window([factor * time for time in times], quiet=factor * quiet)
    for look in (slower_than_before, stalled):
        assert (look(quick) is None) == (look(usual) is None)

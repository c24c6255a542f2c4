"""Runs of a schedule that are late: which of them begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from o9.flows.recurrence import Missed, ScheduleReason, decide_run

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("policy", "following", "late", "reason"),
    [
        (Missed.ALL, [1, 2], 600, ScheduleReason.DUE),
        (Missed.ONCE, [], 600, ScheduleReason.DUE),
        (Missed.ONCE, [60, 120], 59, ScheduleReason.DUE),
        (Missed.ONCE, [120, 60], 60, ScheduleReason.LATER_ONE_DUE),
        (Missed.NONE, [], 600, ScheduleReason.DUE),
        (Missed.NONE, [60], 30, ScheduleReason.DUE),
        (Missed.NONE, [120, 60], 31, ScheduleReason.MISSED),
    ],
)
def test_which_begin(policy: Missed, following: list[int], late: int, reason: ScheduleReason) -> None:
    others = [NOON + timedelta(minutes=minutes) for minutes in following]
    assert decide_run(policy, NOON, others, NOON + timedelta(minutes=late)) is reason

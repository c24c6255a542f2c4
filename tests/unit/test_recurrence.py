"""Runs of a schedule that are late: which of them begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from command_line import create, work

from o9.flows.recurrence import REPLACE, Missed, ScheduleReason, begins, decide_run
from o9.model.states import Intent
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.store import Store

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


@pytest.mark.parametrize(("intent", "then"), [(None, Intent.CANCEL), (Intent.TIME_OUT, Intent.TIME_OUT)])
async def test_what_is_about_to_end_is_replaced_as_well(store_url: str, intent: Intent | None, then: Intent) -> None:
    with Store(store_url) as store:
        create(store, "before", metadata={"objective": "branin", "series": "nightly"})
        work(store, "before", 1)
        if intent is not None:
            store.write(SetIntent("before", intent, "o9"))
        run = SimpleNamespace(auto_scheduled=True, tags=[REPLACE], expected_start_time=NOON)
        assert await begins(store, run, "nightly") is None  # type: ignore[arg-type]
        holding = store.read(queries.holding, "before")
        assert holding is not None
        assert holding.intent == then.value

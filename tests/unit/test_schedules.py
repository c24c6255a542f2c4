"""Whose turn a schedule is, and when: pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from o9.aggregator.schedules import IN_NODES, SCHEDULES, Schedule, claimant, due_at, runner_of

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOURLY = Schedule("a_module.hourly_flow", timedelta(hours=1))


def held_for(minutes: float) -> dict[str, Any]:
    return {"node": claimant("desk-1", NOON), "expires_at": (NOON + timedelta(minutes=minutes)).timestamp()}


@pytest.mark.parametrize(("held_for_minutes", "due_in_minutes"), [(-3_000, 0), (0, 0), (45, 45), (60, 60), (600, 60)])
def test_it_is_due_when_the_claim_of_its_last_run_ends_and_within_an_interval(
    held_for_minutes: int, due_in_minutes: int
) -> None:
    assert due_at(HOURLY, held_for(held_for_minutes), NOON) == NOON + timedelta(minutes=due_in_minutes)


def test_it_is_due_at_once_where_nobody_ever_claimed_it() -> None:
    assert due_at(HOURLY, None, NOON) == NOON


def test_a_claim_names_its_node_and_is_no_other_of_the_same_node() -> None:
    assert runner_of(held_for(1)) == "desk-1"
    assert runner_of({"node": None, "expires_at": 0.0}) is None
    assert runner_of(None) is None
    assert runner_of({"node": claimant("a node at home", NOON), "expires_at": 0.0}) == "a node at home"
    assert claimant("desk-1", NOON) != claimant("desk-1", NOON + timedelta(microseconds=1))


def test_each_schedule_has_a_flow_of_its_name_that_may_run_without_parameters() -> None:
    for schedule in SCHEDULES:
        flow = schedule.load()
        assert flow.name == schedule.name
        assert flow.isasync
        assert set(schedule.parameters) <= set(flow.parameters.properties)
        assert not flow.parameters.required
    assert len({schedule.name for schedule in SCHEDULES}) == len(SCHEDULES)


def test_nodes_keep_what_no_part_of_them_does_already() -> None:
    assert {schedule.name for schedule in SCHEDULES} - {schedule.name for schedule in IN_NODES} == {
        "optimization-lifecycle",
        "deliver-alerts",
        "reconcile-states",
    }

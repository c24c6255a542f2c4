"""Whose turn a schedule is, and when: pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from o9.aggregator.schedules import IN_NODES, SCHEDULES, Schedule, due_at, in_nodes
from OptimizationStateAggregator import OptimizationStateAggregator, OptimizationValidationError

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOURLY = Schedule("a_module.hourly_flow", timedelta(hours=1))


def held_for(minutes: float) -> dict[str, Any]:
    return {"node": "desk-1", "expires_at": (NOON + timedelta(minutes=minutes)).timestamp()}


@pytest.mark.parametrize(("held_for_minutes", "due_in_minutes"), [(-3_000, 0), (0, 0), (45, 45), (60, 60), (600, 60)])
def test_it_is_due_when_the_claim_of_its_last_run_ends_and_within_an_interval(
    held_for_minutes: int, due_in_minutes: int
) -> None:
    assert due_at(HOURLY, held_for(held_for_minutes), NOON) == NOON + timedelta(minutes=due_in_minutes)


def test_it_is_due_at_once_where_nobody_ever_claimed_it() -> None:
    assert due_at(HOURLY, None, NOON) == NOON


def test_each_schedule_has_a_flow_of_its_name_that_may_run_without_parameters() -> None:
    for schedule in SCHEDULES:
        flow = schedule.load()
        assert flow.name == schedule.name
        assert flow.isasync
        assert set(schedule.parameters) <= set(flow.parameters.properties)
        assert not flow.parameters.required
    assert len({schedule.name for schedule in SCHEDULES}) == len(SCHEDULES)


def test_nodes_check_health_at_their_own_interval() -> None:
    assert {schedule.name: schedule.every for schedule in in_nodes(7.5)} == {
        "compute-statistics": timedelta(minutes=5),
        "check-health": timedelta(seconds=7.5),
        "prune-history": timedelta(hours=1),
    }
    for interval in (1e-7, 1e300):  # what an interval may be
        (checks,) = (schedule.every for schedule in in_nodes(interval) if schedule.name == "check-health")
        assert checks is not None
        assert timedelta(seconds=0.5) <= checks <= timedelta(days=366)
        OptimizationStateAggregator(health_check_interval=interval)
    first = sorted(schedule.after for schedule in IN_NODES)
    assert first[0] >= timedelta(seconds=10)  # a program of a few seconds runs none
    assert len(set(first)) == len(first)
    assert first[-1] <= timedelta(minutes=1)


def test_two_schedules_of_one_flow_have_names_and_leases_of_their_own() -> None:
    same = ("o9.flows.check_health.check_health", timedelta(minutes=5))
    plain, few, nightly = Schedule(*same), Schedule(*same, {"limit": 5}), Schedule(*same, name="nightly")
    assert [each.name for each in (plain, few, nightly)] == ["check-health", "check-health limit=5", "nightly"]
    assert len({each.lease for each in (plain, few, nightly)}) == 3
    assert {each.flow_name for each in (plain, few, nightly)} == {"check-health"}
    OptimizationStateAggregator(schedules=[plain, few, nightly])


@pytest.mark.parametrize(
    "schedules",
    [
        [HOURLY, Schedule("another_module.hourly_flow", timedelta(hours=2))],
        [Schedule("a_module.a_flow", None)],
        [Schedule("a_module.a_flow", timedelta(0))],
        ["a_module.a_flow"],
    ],
    ids=["two of one name", "no interval", "an interval of 0", "no schedule"],
)
def test_what_cannot_be_kept_is_refused(schedules: list[Any]) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        OptimizationStateAggregator(schedules=schedules)
    assert refused.value.field == "schedules"

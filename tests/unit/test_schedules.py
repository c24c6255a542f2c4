"""Whose turn a schedule is, and when: pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from o9.aggregator.schedules import IN_NODES, KEPT, SCHEDULES, Schedule, due_at, keeper

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOURLY = Schedule("a_module.hourly_flow", timedelta(hours=1))


def node(name: str, *, beat: float = 100.0, **info: Any) -> dict[str, Any]:
    return {"node_id": name, "heartbeat_at": beat, "info": {"lease_seconds": 30.0, KEPT: ["hourly-flow"]} | info}


@pytest.mark.parametrize(
    ("nodes", "dead", "whose"),
    [
        ([], (), None),
        ([node("b"), node("a")], (), "a"),
        ([node("b"), node("a", **{KEPT: ["another"]})], (), "b"),
        ([node("b"), {"node_id": "a", "heartbeat_at": 100.0, "info": {}}], (), "b"),
        ([node("b"), node("a", beat=69.9)], (), "b"),
        ([node("b"), node("a")], ("a",), "b"),
        ([node("a", beat=1.0)], (), None),
    ],
    ids=["nobody", "first by name", "keeps another", "keeps none", "silent", "known dead", "all silent"],
)
def test_the_first_living_node_that_keeps_it_runs_it(
    nodes: list[dict[str, Any]], dead: tuple[str, ...], whose: str | None
) -> None:
    assert keeper(HOURLY, nodes, dead, now=100.0) == whose


@pytest.mark.parametrize(
    ("last_started_minutes_ago", "due_in_minutes"), [(None, 0), (60, 0), (3_000, 0), (15, 45), (0, 60), (-600, 60)]
)
def test_it_is_due_an_interval_after_it_was_started_last(
    last_started_minutes_ago: int | None, due_in_minutes: int
) -> None:
    last = None if last_started_minutes_ago is None else NOON - timedelta(minutes=last_started_minutes_ago)
    assert due_at(HOURLY, last, NOON) == NOON + timedelta(minutes=due_in_minutes)


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
        "reconcile-states",
    }

"""Which nodes live, by the clock that nobody can set, and how far each has read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from o9.store.synchronization import Gathering
from o9.synchronizer.synchronizer import Roster

TODAY = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = 3600.0


def row(name: str = "one", beat: float = 1000.0, cursor: int = 1) -> dict[str, Any]:
    return {
        "node_id": name, "host": "host", "pid": 7, "heartbeat_at": beat, "cursor": cursor,
        "info": {"lease_seconds": 30.0},
    }  # fmt: skip


def living(roster: Roster, beat: float, *, at: float, now: float, may_live: bool = True) -> bool:
    found = Gathering(at, 0, [row(beat=beat)], {}, {})
    (node,) = roster.look(found, {"one": may_live}, now, TODAY)
    return bool(node["living"])


def test_a_node_lives_as_long_as_its_lease_lasts() -> None:
    assert living(Roster(), 1000.0, at=1029.0, now=0.0)
    assert not living(Roster(), 1000.0, at=1031.0, now=0.0)
    roster = Roster()
    assert living(roster, 1000.0, at=1010.0, now=0.0)
    assert living(roster, 1000.0, at=1029.0, now=19.0)
    assert not living(roster, 1000.0, at=1031.0, now=21.0)
    assert living(roster, 1031.0, at=1032.0, now=22.0)  # it was only slow


def test_a_clock_that_is_set_takes_nobody_s_life() -> None:
    for jump in (HOUR, -HOUR):
        roster = Roster()
        assert living(roster, 1000.0, at=1001.0, now=0.0)
        assert living(roster, 1000.0, at=1002.0 + jump, now=1.0)
        assert living(roster, 1003.0 + jump, at=1004.0 + jump, now=3.0)
        assert not living(roster, 1003.0 + jump, at=1034.0 + jump, now=33.5)


def test_nobody_is_lost_for_not_being_seen_while_the_store_was_away() -> None:
    roster = Roster()
    assert living(roster, 1000.0, at=1001.0, now=0.0)
    roster.excuse(120.0)
    assert living(roster, 1000.0, at=1121.0, now=120.0)
    assert not living(roster, 1000.0, at=1152.0, now=151.0)


def test_one_whose_process_is_gone_lives_no_more_at_once() -> None:
    assert not living(Roster(), 1000.0, at=1001.0, now=0.0, may_live=False)


def test_how_far_each_has_read() -> None:
    at = (TODAY - timedelta(seconds=4)).isoformat()
    running = [row("all", cursor=8), row("behind", cursor=5), row("ahead", cursor=10), row("flows", cursor=0)]
    expected = {name: {"info": {"rack": name}} for name in ("behind", "absent")}
    found = Gathering(1000.0, 7, running, expected, {5: at})
    nodes = Roster().look(found, dict.fromkeys(("all", "behind", "ahead", "flows"), True), 0.0, TODAY)
    told = {node["node_id"]: (node["read_to"], node["lag"], node["lag_seconds"], node["expected"]) for node in nodes}
    assert told == {
        "absent": (None, None, None, {"rack": "absent"}),
        "ahead": (9, 0, 0.0, None),
        "all": (7, 0, 0.0, None),
        "behind": (4, 3, 4.0, {"rack": "behind"}),
        "flows": (None, None, None, None),
    }
    assert [node["node_id"] for node in nodes] == sorted(told)
    assert {node["node_id"] for node in nodes if not node["living"]} == {"absent"}

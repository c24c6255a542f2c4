"""A leader that dies at any instant: what is told is what would have been told without that, and none of it is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_worlds import START, MadeTime, World, alert, play, script, tell, world

from o9.alerts.pipeline.silences import Silence
from o9.alerts.service.repository import add_silence, new_alert_of
from o9.model.errors import StoreUnavailableError
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, RaiseAlerts, ResolveAlert
from o9.store.alerts.outbox import CommitDecisions
from o9.store.core.column_types import moment

SECOND = timedelta(seconds=1)
CONFIGURATION = """
route:
  receiver: default
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 1h
  routes:
    - {matchers: 'level="critical"', receiver: pager, continue: true, escalate_after: 10m, escalate_to: boss}
receivers:
  - {name: pager, channels: [log]}
  - {name: boss, channels: [log]}
  - {name: default, channels: [log]}
inhibit_rules:
  - {source_matchers: 'title="Node down"', target_matchers: 'title=~"Drawdown|Stalled"', equal: [optimization]}
"""


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> MadeTime:
    return MadeTime().patch(monkeypatch)


@pytest.fixture
def one(tmp_path: Path, time: MadeTime) -> Iterator[World]:
    made = world(tmp_path, time, CONFIGURATION)
    yield made
    made.store.close()


def after(world: World, seconds: float) -> list[tuple[Any, ...]]:
    """What is told until so many seconds have passed: to whom, what, of which, why."""
    before = len(world.told())
    world.until(world.time.now + seconds * SECOND)
    world.tick()
    return [(to, kind, firing, resolved, why) for to, kind, firing, resolved, _, why in world.told()[before:]]


def test_in_the_middle_of_a_group_wait(one: World) -> None:
    tell(one.store, alert("a", START))
    assert after(one, 20) == []
    one.restart()
    tell(one.store, alert("b", one.time.now, optimization_id="opt-2"))
    one.tick()
    assert one.time.now == START + 20 * SECOND
    one.restart()
    assert after(one, 10) == [("default", "firing", ["a", "b"], [], "first message of the group")]
    assert one.told()[0][4] == moment(START + 30 * SECOND)
    for _ in range(3):
        one.restart()
        assert after(one, 400) == []
    one.store.write(ResolveAlert("a", "ann"))
    one.restart()  # nobody had read it
    assert after(one, 300) == [("default", "firing", ["b"], ["a"], "some are resolved")]
    one.restart()
    assert after(one, 3600 - 300) == []  # an hour since the last message
    assert after(one, 300) == [("default", "repeat", ["b"], [], "still firing (repeat_interval)")]


def test_in_the_middle_of_a_silence(one: World) -> None:
    one.store.write(add_silence(Silence("s", START, START + 1800 * SECOND, pattern="drawdown")))
    tell(one.store, alert("a", START))
    assert after(one, 60) == []
    one.restart()
    assert after(one, 1700) == []
    assert one.suppressed() == [("a", "default", "silenced", "s", moment(START + 30 * SECOND))]
    one.restart()
    # It ends; at the group's next look it is told.
    assert after(one, 300) == [("default", "firing", ["a"], [], "first message of the group")]


def test_in_the_middle_of_an_inhibition(one: World) -> None:
    tell(one.store, alert("down", START, "Node down"), alert("a", START), alert("other", START, optimization_id="o2"))
    assert sorted(row[2] for row in after(one, 60)) == [["down"], ["other"]]
    one.restart()
    assert after(one, 600) == []
    assert ("a", "default", "inhibited", "Node down") in [row[:4] for row in one.suppressed()]
    one.restart()
    one.store.write(ResolveAlert("down", "ann"))
    told = after(one, 400)
    assert [(kind, firing, resolved) for _, kind, firing, resolved, _ in told if firing] == [
        ("firing", ["a", "other"], [])
    ]


def test_what_is_over_before_anybody_led_is_on_the_record(one: World) -> None:
    tell(one.store, alert("a", START))
    one.store.write(ResolveAlert("a", "ann"))
    one.tick()
    tell(one.store, alert("b", START))  # the same labels
    one.store.write(ResolveAlert("b", "ann"))
    assert after(one, 60) == []
    assert [row[:3] for row in one.suppressed()] == [(name, "default", "never_notified") for name in ("a", "b")]


def test_who_acknowledged_is_not_reminded_by_the_next_leader_either(one: World) -> None:
    tell(one.store, alert("a", START))
    assert len(after(one, 60)) == 1
    one.store.write(AcknowledgeAlert("a", "ann"))
    one.restart()
    assert after(one, 10_000) == []
    assert [row[:4] for row in one.suppressed()] == [("a", "default", "acknowledged", "ann")]


def test_what_its_source_repeats_ends_when_nobody_tells_of_it(one: World) -> None:
    def again() -> None:
        one.store.write(RaiseAlerts([new_alert_of(alert("a", one.time.now), 60 * SECOND)]))

    again()
    assert after(one, 50) == [("default", "firing", ["a"], [], "first message of the group")]
    again()
    one.restart()
    assert after(one, 55) == []
    assert one.store.read(queries.firing_alerts) == {"warning": 1}
    one.restart()
    assert after(one, 300) == [("default", "resolved", [], ["a"], "resolved")]
    row = one.store.read(queries.alert, "a")
    assert row is not None
    assert (row["resolved_at"], row["resolved_by"]) == (moment(START + 110 * SECOND), "o9:not_repeated")
    again()  # it was only away
    assert after(one, 60) == [("default", "firing", ["a"], [], "first message of the group")]


def test_when_an_alert_changed_is_known_to_the_next_leader(one: World) -> None:
    """By that it is said to flap; it did not change again because somebody read it again."""
    tell(one.store, alert("a", START))
    one.until(START + 60 * SECOND)
    one.store.write(ResolveAlert("a", "ann"))
    one.until(START + 100 * SECOND)
    tell(one.store, alert("b", one.time.now))
    for _ in range(3):
        one.until(one.time.now + 30 * SECOND)
        one.restart()
        one.tick()
        engine = one.leader._engine
        assert engine is not None
        (known,) = engine.snapshot().alerts
        assert known.changes == (START + 60 * SECOND, START + 100 * SECOND)


def test_another_configuration_takes_over_what_is_open(one: World, tmp_path: Path) -> None:
    tell(one.store, alert("a", START), alert("b", START, "Stalled"))
    assert len(after(one, 60)) == 2
    path = tmp_path / "world.yaml"
    path.write_text(CONFIGURATION.replace("repeat_interval: 1h", "repeat_interval: 10m"))
    assert after(one, 1200) != []
    routes = CONFIGURATION.replace(
        "  routes:\n", "  routes:\n    - {matchers: 'title=\"Stalled\"', receiver: boss, group_wait: 1s}\n"
    )
    path.write_text(routes)
    told = after(one, 60)
    assert [(to, kind, firing) for to, kind, firing, _, _ in told] == [("boss", "firing", ["b"])]
    path.write_text("route: {receiver: pager, group_by: [level]}\nreceivers: [{name: pager, channels: [log]}]\n")
    after(one, 60)
    one.restart()
    assert after(one, 3600) == []
    assert len(one.store.read(queries.alert_groups)) == 1


@pytest.mark.slow
def test_a_leader_that_dies_all_the_time_tells_the_same(chaos_seed: int, tmp_path: Path, time: MadeTime) -> None:
    """Some twenty to sixty messages of an hour in which alerts come, go, flap, and are silenced and inhibited."""
    told, suppressed = [], []
    for dies in (False, True):
        time.now = START
        chance = random.Random(chaos_seed)
        played = world(tmp_path / str(dies), time, CONFIGURATION)

        def die_at_times(
            played: World = played, chance: random.Random = chance, odds: float = 0.4 if dies else 0.0
        ) -> None:
            if chance.random() < odds:
                played.restart()

        with played.store:
            play(played, script(chaos_seed), die_at_times)
            told.append(played.told())
            suppressed.append({row[:3] for row in played.suppressed()})
        assert (played.lives > 50) is dies
    assert len(told[0]) > 10
    assert told[0] == told[1]
    assert suppressed[0] == suppressed[1]


def test_a_leader_that_is_cut_off_as_it_decides_loses_nothing(one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decision may not have arrived; the next engine is made of what is written."""
    fates, write = ["lost", "arrived", "lost", "lost", "arrived"], one.store.write

    def away(operation: Any) -> Any:
        if isinstance(operation, CommitDecisions) and operation.notices and fates:
            if fates.pop(0) == "arrived":
                write(operation)  # and only its answer was lost
            raise StoreUnavailableError("the store is away")
        return write(operation)

    monkeypatch.setattr(one.store, "write", away)

    def tick_again() -> Any:
        for _ in range(10):
            try:
                return one.leader.tick().next_at
            except StoreUnavailableError:
                continue
        raise AssertionError("it never came back")

    monkeypatch.setattr(one, "tick", tick_again)
    tell(one.store, alert("a", START), alert("b", START, "Stalled"))
    assert len(after(one, 60)) == 2
    one.store.write(ResolveAlert("a", "ann"))
    assert [row[3] for row in after(one, 600)] == [["a"]]
    assert fates == []
    assert len(one.told()) == 3

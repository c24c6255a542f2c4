"""A leader that dies at any instant: what is told is what would have been told without that, and none of it is lost."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_worlds import START, MadeTime, World, alert, open_world, play, script, tell

from o9.alerts.pipeline.stages import Silence
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


def after(world: World, seconds: float) -> list[tuple[Any, ...]]:
    """What is told until so many seconds have passed: to whom, what, of which, why."""
    before = len(world.told())
    world.until(world.time.now + seconds * SECOND)
    world.tick()
    return [(to, kind, firing, resolved, why) for to, kind, firing, resolved, _, why in world.told()[before:]]


def test_in_the_middle_of_a_group_wait(world: World) -> None:
    tell(world.store, alert("a", START))
    assert after(world, 20) == []
    world.restart()
    tell(world.store, alert("b", world.time.now, optimization_id="opt-2"))
    world.tick()
    assert world.time.now == START + 20 * SECOND
    world.restart()
    assert after(world, 10) == [("default", "firing", ["a", "b"], [], "first message of the group")]
    assert world.told()[0][4] == moment(START + 30 * SECOND)
    for _ in range(3):
        world.restart()
        assert after(world, 400) == []
    world.store.write(ResolveAlert("a", "ann"))
    world.restart()  # nobody had read it
    assert after(world, 300) == [("default", "firing", ["b"], ["a"], "some are resolved")]
    world.restart()
    assert after(world, 3600 - 300) == []  # an hour since the last message
    assert after(world, 300) == [("default", "repeat", ["b"], [], "still firing (repeat_interval)")]


def test_in_the_middle_of_a_silence(world: World) -> None:
    world.store.write(add_silence(Silence("s", START, START + 1800 * SECOND, pattern="drawdown")))
    tell(world.store, alert("a", START))
    assert after(world, 60) == []
    world.restart()
    assert after(world, 1700) == []
    assert world.suppressed() == [("a", "default", "silenced", "s", moment(START + 30 * SECOND))]
    world.restart()
    # It ends; at the group's next look it is told.
    assert after(world, 300) == [("default", "firing", ["a"], [], "first message of the group")]


def test_in_the_middle_of_an_inhibition(world: World) -> None:
    tell(world.store, alert("down", START, "Node down"), alert("a", START), alert("other", START, optimization_id="o2"))
    assert sorted(row[2] for row in after(world, 60)) == [["down"], ["other"]]
    world.restart()
    assert after(world, 600) == []
    assert ("a", "default", "inhibited", "Node down") in [row[:4] for row in world.suppressed()]
    world.restart()
    world.store.write(ResolveAlert("down", "ann"))
    told = after(world, 400)
    assert [(kind, firing, resolved) for _, kind, firing, resolved, _ in told if firing] == [
        ("firing", ["a", "other"], [])
    ]


def test_what_is_over_before_anybody_led_is_on_the_record(world: World) -> None:
    tell(world.store, alert("a", START))
    world.store.write(ResolveAlert("a", "ann"))
    world.tick()
    tell(world.store, alert("b", START))  # the same labels
    world.store.write(ResolveAlert("b", "ann"))
    assert after(world, 60) == []
    assert [row[:3] for row in world.suppressed()] == [(name, "default", "never_notified") for name in ("a", "b")]


def test_who_acknowledged_is_not_reminded_by_the_next_leader_either(world: World) -> None:
    tell(world.store, alert("a", START))
    assert len(after(world, 60)) == 1
    world.store.write(AcknowledgeAlert("a", "ann"))
    world.restart()
    assert after(world, 10_000) == []
    assert [row[:4] for row in world.suppressed()] == [("a", "default", "acknowledged", "ann")]


def test_what_its_source_repeats_ends_when_nobody_tells_of_it(world: World) -> None:
    def again() -> None:
        world.store.write(RaiseAlerts([new_alert_of(alert("a", world.time.now), 60 * SECOND)]))

    again()
    assert after(world, 50) == [("default", "firing", ["a"], [], "first message of the group")]
    again()
    world.restart()
    assert after(world, 55) == []
    assert world.store.read(queries.firing_alerts) == {"warning": 1}
    world.restart()
    assert after(world, 300) == [("default", "resolved", [], ["a"], "resolved")]
    row = world.store.read(queries.alert, "a")
    assert row is not None
    assert (row["resolved_at"], row["resolved_by"]) == (moment(START + 110 * SECOND), "o9:not_repeated")
    again()  # it was only away
    assert after(world, 60) == [("default", "firing", ["a"], [], "first message of the group")]


def test_when_an_alert_changed_is_known_to_the_next_leader(world: World) -> None:
    """By that it is said to flap; it did not change again because somebody read it again."""
    tell(world.store, alert("a", START))
    world.until(START + 60 * SECOND)
    world.store.write(ResolveAlert("a", "ann"))
    world.until(START + 100 * SECOND)
    tell(world.store, alert("b", world.time.now))
    for _ in range(3):
        world.until(world.time.now + 30 * SECOND)
        world.restart()
        world.tick()
        engine = world.leader._engine
        assert engine is not None
        (known,) = engine.snapshot().alerts
        assert known.changes == (START + 60 * SECOND, START + 100 * SECOND)


def test_another_configuration_takes_over_what_is_open(world: World, tmp_path: Path) -> None:
    tell(world.store, alert("a", START), alert("b", START, "Stalled"))
    assert len(after(world, 60)) == 2
    path = tmp_path / "world.yaml"
    path.write_text(CONFIGURATION.replace("repeat_interval: 1h", "repeat_interval: 10m"))
    assert after(world, 1200) != []
    routes = CONFIGURATION.replace(
        "  routes:\n", "  routes:\n    - {matchers: 'title=\"Stalled\"', receiver: boss, group_wait: 1s}\n"
    )
    path.write_text(routes)
    told = after(world, 60)
    assert [(to, kind, firing) for to, kind, firing, _, _ in told] == [("boss", "firing", ["b"])]
    path.write_text("route: {receiver: pager, group_by: [level]}\nreceivers: [{name: pager, channels: [log]}]\n")
    after(world, 60)
    world.restart()
    assert after(world, 3600) == []
    assert len(world.store.read(queries.alert_groups)) == 1


@pytest.mark.slow
def test_a_leader_that_dies_all_the_time_tells_the_same(chaos_seed: int, tmp_path: Path, made_time: MadeTime) -> None:
    """Some ten to forty messages of an hour in which alerts come, go, flap, and are silenced and inhibited."""
    told, suppressed = [], []
    for dies in (False, True):
        made_time.now = START
        chance = random.Random(chaos_seed)
        played = open_world(tmp_path / str(dies), made_time, CONFIGURATION)

        def die_at_times(
            played: World = played, chance: random.Random = chance, odds: float = 0.4 if dies else 0.0
        ) -> None:
            if chance.random() < odds:
                played.restart()

        with played.store:
            play(played, script(chaos_seed, count=40), die_at_times)
            told.append(played.told())
            suppressed.append({row[:3] for row in played.suppressed()})
        assert (played.lives > 25) is dies
    assert len(told[0]) > 5
    assert told[0] == told[1]
    assert suppressed[0] == suppressed[1]


def test_a_leader_that_is_cut_off_as_it_decides_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decision may not have arrived; the next engine is made of what is written."""
    fates, write = ["lost", "arrived", "lost", "lost", "arrived"], world.store.write

    def away(operation: Any) -> Any:
        if isinstance(operation, CommitDecisions) and operation.notices and fates:
            if fates.pop(0) == "arrived":
                write(operation)  # and only its answer was lost
            raise StoreUnavailableError("the store is away")
        return write(operation)

    monkeypatch.setattr(world.store, "write", away)

    def tick_again() -> Any:
        for _ in range(10):
            try:
                return world.leader.tick().next_at
            except StoreUnavailableError:
                continue
        raise AssertionError("it never came back")

    monkeypatch.setattr(world, "tick", tick_again)
    tell(world.store, alert("a", START), alert("b", START, "Stalled"))
    assert len(after(world, 60)) == 2
    world.store.write(ResolveAlert("a", "ann"))
    assert [row[3] for row in after(world, 600)] == [["a"]]
    assert fates == []
    assert len(world.told()) == 3

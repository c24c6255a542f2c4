"""An alert or a group that cannot be dealt with, by a mistake of O9's own, is quarantined: all others go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_worlds import START, MadeTime, World, alert, open_world, tell

from o9.alerts.pipeline.alert import Labels, NotifyReason
from o9.alerts.pipeline.groups import Flush
from o9.alerts.pipeline.routing import Route, routes_of
from o9.cli.commands.alerts.list import with_notifications
from o9.store import queries
from o9.store.alerts.episodes import ResolveAlert

SECOND = timedelta(seconds=1)
CONFIGURATION = """
route: {receiver: default, group_by: [title], group_wait: 10s, group_interval: 1m, repeat_interval: 1d}
receivers: [{name: default, channels: [log]}]
"""


class Poison:
    """While it is `strong`, what holds it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.strong = True
        self._patch = monkeypatch

    def drink(self) -> None:
        if self.strong:
            raise ZeroDivisionError("poison")

    def in_taking(self, optimization_id: str) -> None:
        def routed(route: Route, labels: Labels) -> Any:
            if labels["optimization"] == optimization_id:
                self.drink()
            return routes_of(route, labels)

        self._patch.setattr("o9.alerts.pipeline.engine.routes_of", routed)

    def in_group_of(self, title: str) -> None:
        regular = Flush.regular

        def looked(look: Flush) -> None:
            regular(look)
            if ("title", title) in look.group.labels:
                self.drink()

        self._patch.setattr(Flush, "regular", looked)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    return Poison(monkeypatch)


def after(world: World, seconds: float) -> list[list[str]]:
    """Of what is told until so many seconds have passed."""
    before = len(world.told())
    world.until(world.time.now + seconds * SECOND)
    world.tick()
    return [firing for _, _, firing, *_ in world.told()[before:]]


def held(world: World) -> dict[str, list[str]]:
    """What `o9 alerts list` says of each: why nobody is told of it."""
    listed = with_notifications(world.store, world.store.read(queries.open_episodes))
    return {each.episode.alert_id: [row["reason"] for row in each.held] for each in listed}


def test_an_alert_that_raises_is_quarantined_and_tried_again(
    world: World, poison: Poison, caplog: pytest.LogCaptureFixture
) -> None:
    poison.in_taking("opt-poison")
    tell(
        world.store, alert("bad", START, optimization_id="opt-poison"), alert("a", START), alert("b", START, "Stalled")
    )
    assert sorted(after(world, 30)) == [["a"], ["b"]]
    ((alert_id, _, reason, by, _),) = world.suppressed()
    assert (alert_id, reason) == ("bad", NotifyReason.QUARANTINED.value)
    assert by.startswith("ZeroDivisionError: poison; tried again from 2026-03-02T10:0")
    assert caplog.text.count("bad quarantined until") == 1
    assert "Traceback" in caplog.text
    assert held(world) == {"bad": [NotifyReason.QUARANTINED.value], "a": [], "b": []}
    tell(world.store, alert("c", world.time.now, "Node down"))  # what comes later goes on too
    assert after(world, 3_600) == [["c"]]
    assert caplog.text.count("bad quarantined until") == 2
    poison.strong = False
    assert after(world, 3_600 + 70) == [["a", "bad"]]
    assert not any(held(world).values())


def test_a_group_that_raises_is_quarantined_with_all_that_is_in_it(
    world: World, poison: Poison, caplog: pytest.LogCaptureFixture
) -> None:
    poison.in_group_of("Drawdown")
    tell(
        world.store,
        *(alert(f"a{n}", START, optimization_id=f"opt-{n}") for n in range(5)),
        alert("b", START, "Stalled"),
    )
    assert after(world, 30) == [["b"]]
    assert {row[:3] for row in world.suppressed()} == {(f"a{n}", "", NotifyReason.QUARANTINED.value) for n in range(5)}
    assert "a0, a1, a2 and 2 more quarantined until" in caplog.text
    world.store.write(ResolveAlert("a4", "ann"))
    tell(world.store, alert("a5", world.time.now, optimization_id="opt-5"), alert("b1", world.time.now, "Stalled"))
    assert [each for each in after(world, 600) if "b" not in each[0]] == []
    poison.strong = False
    assert after(world, 3_600) == [["a0", "a1", "a2", "a3"], ["a0", "a1", "a2", "a3", "a5"]]
    assert {each.alert_id for each in world.store.read(queries.open_episodes)}.isdisjoint({"a4"})


def test_the_next_leader_tries_at_once(world: World, poison: Poison) -> None:
    poison.in_taking("opt-poison")
    tell(world.store, alert("bad", START, optimization_id="opt-poison"), alert("b", START, "Stalled"))
    assert after(world, 2_000) == [["b"]]
    poison.strong = False
    world.restart()
    assert after(world, 11) == [["bad"]]


@pytest.mark.parametrize("damping", ["", "flapping: false"])
def test_what_is_over_while_it_is_quarantined_is_done_with(
    damping: str, tmp_path: Path, made_time: MadeTime, poison: Poison
) -> None:
    world = open_world(tmp_path, made_time, CONFIGURATION + damping)
    poison.in_taking("opt-poison")
    tell(world.store, alert("bad", START, optimization_id="opt-poison"), alert("b", START, "Stalled"))
    after(world, 30)
    world.store.write(ResolveAlert("bad", "ann"))
    after(world, 30)
    poison.strong = False
    assert after(world, 4_000) == []
    assert [each.alert_id for each in world.store.read(queries.open_episodes)] == ["b"]
    world.store.close()


def test_moments_at_the_ends_of_time_quarantine_nothing(world: World) -> None:
    ends = {"first": datetime.min.replace(tzinfo=UTC), "last": datetime.max.replace(tzinfo=UTC)}
    tell(world.store, *(alert(name, at, name) for name, at in ends.items()), alert("b", START))
    assert sorted(after(world, 30)) == [["b"], ["first"], ["last"]]
    world.restart()
    over = {"resolved": True, "resolved_at": START - 9 * SECOND}
    tell(world.store, *(alert(f"{name}-over", at, name, **over) for name, at in ends.items()))
    before = len(world.told())
    after(world, 120)
    assert sorted(resolved for _, _, _, resolved, *_ in world.told()[before:]) == [["first"], ["last"]]
    assert world.suppressed() == []

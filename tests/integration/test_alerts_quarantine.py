"""An alert or a group that cannot be dealt with, by a mistake of O9's own, is quarantined: all others go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_worlds import START, MadeTime, World, alert, tell, world

from o9.alerts.pipeline.alert import Labels
from o9.alerts.pipeline.flush import Flush
from o9.alerts.pipeline.reasons import NotifyReason
from o9.alerts.pipeline.routing import Route, routes_of
from o9.cli.commands.alerts.list import with_notifications
from o9.store import queries
from o9.store.alerts.episodes import ResolveAlert

SECOND = timedelta(seconds=1)
CONFIGURATION = """
route: {receiver: default, group_by: [title], group_wait: 10s, group_interval: 1m, repeat_interval: 1d}
receivers: [{name: default, channels: [log]}]
"""


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> MadeTime:
    return MadeTime().patch(monkeypatch)


@pytest.fixture
def one(tmp_path: Path, time: MadeTime) -> Iterator[World]:
    made = world(tmp_path, time, CONFIGURATION)
    yield made
    made.store.close()


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
            if ("title", title) in look._group.labels:
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
    return {each.episode.alert_id: [row["reason"] for row in each.notifications.held] for each in listed}


def test_an_alert_that_raises_is_quarantined_and_tried_again(
    one: World, poison: Poison, caplog: pytest.LogCaptureFixture
) -> None:
    poison.in_taking("opt-poison")
    tell(one.store, alert("bad", START, optimization_id="opt-poison"), alert("a", START), alert("b", START, "Stalled"))
    assert sorted(after(one, 30)) == [["a"], ["b"]]
    ((alert_id, _, reason, by, _),) = one.suppressed()
    assert (alert_id, reason) == ("bad", NotifyReason.QUARANTINED.value)
    assert by.startswith("ZeroDivisionError: poison; tried again from 2026-03-02T09:0")
    assert caplog.text.count("bad quarantined until") == 1
    assert "Traceback" in caplog.text
    assert held(one) == {"bad": [NotifyReason.QUARANTINED.value], "a": [], "b": []}
    # What comes later goes on too, while the pauses grow; it is told of once.
    tell(one.store, alert("c", one.time.now, "Node down"))
    assert after(one, 3_600) == [["c"]]
    assert 5 <= caplog.text.count("bad quarantined until") <= 8
    assert len(one.suppressed()) == 1
    poison.strong = False
    assert after(one, 3_600 + 70) == [["a", "bad"]]
    assert not any(held(one).values())


def test_a_group_that_raises_is_quarantined_with_all_that_is_in_it(
    one: World, poison: Poison, caplog: pytest.LogCaptureFixture
) -> None:
    poison.in_group_of("Drawdown")
    tell(
        one.store, *(alert(f"a{n}", START, optimization_id=f"opt-{n}") for n in range(5)), alert("b", START, "Stalled")
    )
    assert after(one, 30) == [["b"]]
    assert {row[:3] for row in one.suppressed()} == {
        (f"a{n}", "default", NotifyReason.QUARANTINED.value) for n in range(5)
    }
    assert "a0, a1, a2 and 2 more quarantined until" in caplog.text
    one.store.write(ResolveAlert("a4", "ann"))
    tell(one.store, alert("a5", one.time.now, optimization_id="opt-5"), alert("b1", one.time.now, "Stalled"))
    assert [each for each in after(one, 600) if "b" not in each[0]] == []
    poison.strong = False
    assert after(one, 3_600) == [["a0", "a1", "a2", "a3", "a5"]]
    assert ("a4", "default", "never_notified") in {row[:3] for row in one.suppressed()}


def test_the_next_leader_tries_at_once(one: World, poison: Poison) -> None:
    poison.in_taking("opt-poison")
    tell(one.store, alert("bad", START, optimization_id="opt-poison"), alert("b", START, "Stalled"))
    assert after(one, 2_000) == [["b"]]
    poison.strong = False
    one.restart()
    assert after(one, 11) == [["bad"]]


@pytest.mark.parametrize("damping", ["", "flapping: false"])
def test_what_is_over_while_it_is_quarantined_is_done_with(
    damping: str, tmp_path: Path, time: MadeTime, poison: Poison
) -> None:
    one = world(tmp_path, time, CONFIGURATION + damping)
    poison.in_taking("opt-poison")
    tell(one.store, alert("bad", START, optimization_id="opt-poison"), alert("b", START, "Stalled"))
    after(one, 30)
    one.store.write(ResolveAlert("bad", "ann"))
    after(one, 30)
    poison.strong = False
    assert after(one, 4_000) == []
    assert [each.alert_id for each in one.store.read(queries.open_episodes)] == ["b"]
    one.store.close()


def test_moments_at_the_ends_of_time_quarantine_nothing(one: World) -> None:
    ends = {"first": datetime.min.replace(tzinfo=UTC), "last": datetime.max.replace(tzinfo=UTC)}
    tell(one.store, *(alert(name, at, name) for name, at in ends.items()), alert("b", START))
    assert sorted(after(one, 30)) == [["b"], ["first"], ["last"]]
    one.restart()
    over = {"resolved": True, "resolved_at": START - 9 * SECOND}
    tell(one.store, *(alert(f"{name}-over", at, name, **over) for name, at in ends.items()))
    before = len(one.told())
    after(one, 120)
    assert sorted(resolved for _, _, _, resolved, *_ in one.told()[before:]) == [["first"], ["last"]]
    assert one.suppressed() == []

"""Alerts in a time that tests make: a clock for the store and the leader, and worlds that play a script."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import o9_testing
import pytest

from o9.alerts.config.schema import AlertsFile
from o9.alerts.pipeline.stages import Silence
from o9.alerts.service.leader import Clock, Leader
from o9.alerts.service.repository import add_silence, new_alert_of
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, RaiseAlerts, ResolveAlert
from o9.store.alerts.outbox import BeginTry, EndTry
from o9.store.alerts.silences import EndSilence
from o9.store.core.column_types import moment
from o9.store.store import Store

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


class MadeTime:
    """Stands still until it is set; `patch` gives it to the store and the leader."""

    def __init__(self) -> None:
        self.now = START

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> MadeTime:
        for name in ("o9.store.core.unit.now_text", "o9.store.alerts.silences.now_text"):
            monkeypatch.setattr(name, lambda: moment(self.now))
        for name in ("o9.alerts.service.leader.utc_now", "o9.alerts.service.repository.utc_now"):
            monkeypatch.setattr(name, lambda: self.now)
        return self

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: (self.now - START).total_seconds())


@dataclass
class World:
    """A store with a leader. `restart` kills the leader: the next one knows what is in the store, and no more."""

    store: Store
    time: MadeTime
    file: AlertsFile
    lives: int = 0

    def __post_init__(self) -> None:
        self.file.reload()
        self.restart()

    def restart(self) -> None:
        self.lives += 1
        # A lease that has run out as soon as it is given: nobody waits for the dead.
        self.leader = Leader(self.store, f"node-{self.lives}", -1.0, self.file, self.time.clock())

    def tick(self) -> datetime | None:
        ticked = self.leader.tick()
        assert ticked.leads
        if ticked.notices:
            self._send()
        return ticked.next_at

    def _send(self) -> None:
        """As a channel that never fails."""
        while row := self.store.write(BeginTry("log", "sender", 600.0)):
            assert isinstance(row, dict)
            self.store.write(EndTry(row["id"], row["tries"], "sender"))

    def until(self, then: datetime, between: Callable[[], Any] = lambda: None) -> None:
        """Tick at each moment that the leader names, up to `then`."""
        while (at := self.tick()) is not None and at <= then:
            between()
            self.time.now = max(at, self.time.now)
        self.time.now = then

    def told(self) -> list[tuple[Any, ...]]:
        """The notices, in their order: to whom, what, of which, when, why."""
        rows = self.store.read(queries.notifications, limit=1000)
        return [
            (row["receiver"], row["kind"], sorted(row["firing"]), sorted(row["resolved"]), row["at"], row["reason"])
            for row in reversed(rows)
        ]

    def suppressed(self) -> list[tuple[Any, ...]]:
        rows = self.store.read(queries.suppressed, limit=1000)
        return [(row["alert_id"], row["receiver"], row["reason"], row["by"], row["at"]) for row in reversed(rows)]


def open_world(folder: Path, time: MadeTime, configuration: str, name: str = "world") -> World:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(configuration, encoding="utf-8")
    store = folder / f"{name}.db"
    if not store.exists():
        shutil.copyfile(o9_testing.empty_store(), store)
    return World(Store(str(store)), time, AlertsFile(str(path)))


def alert(alert_id: str, at: datetime, title: str = "Drawdown", **fields: Any) -> OptimizationAlert:
    standard: dict[str, Any] = {"optimization_id": "opt-1", "level": AlertLevel.WARNING, "message": "it fell"}
    return OptimizationAlert(alert_id=alert_id, title=title, timestamp=at, **(standard | fields))


def tell(store: Store, *alerts: OptimizationAlert) -> None:
    for answer in store.write(RaiseAlerts([new_alert_of(each, None) for each in alerts])):
        assert not isinstance(answer, Exception), answer


Act = tuple[float, str, Any]


def script(seed: int, seconds: int = 3600, count: int = 70) -> list[Act]:
    """What happens when, in seconds: alerts come and go, are acknowledged, silenced; some flap."""
    chance = random.Random(seed)
    acts: list[Act] = []
    for number in range(count):
        at = chance.uniform(0, seconds)
        kind = chance.choices(["alert", "silence", "acknowledge", "flapper"], [8, 2, 2, 1])[0]
        title = chance.choice(["Drawdown", "Stalled", "Node down"])
        level = chance.choice(["warning", "critical"])
        of = f"opt-{chance.randrange(4)}"
        if kind == "alert":
            acts.append((at, "tell", (f"a{number}", title, level, of)))
            if chance.random() < 0.7:
                acts.append((at + chance.expovariate(1 / 400), "resolve", f"a{number}"))
            else:
                acts.append((at, "acknowledge", f"a{number}")) if chance.random() < 0.3 else None
        elif kind == "flapper":  # of an optimization of its own: it begins to flap, and not once more
            for change in range(6):
                acts.append((at + 30 * change, "tell", (f"f{number}-{change}", title, level, f"opt-f{number}")))
                acts.append((at + 30 * change + 15, "resolve", f"f{number}-{change}"))
        elif kind == "silence":
            acts.append((at, "silence", (f"s{number}", title, chance.uniform(60, 1500))))
            if chance.random() < 0.3:
                acts.append((at + 100, "unsilence", f"s{number}"))
    return sorted(acts, key=lambda act: act[0])


def play(world: World, acts: list[Act], between: Callable[[], Any] = lambda: None, afterwards: float = 20_000) -> None:
    """Do it all, ticking at each act and at each moment that the leader names."""
    for seconds, what, about in acts:
        world.until(START + timedelta(seconds=seconds), between)
        do(world, what, about)
        between()
        world.tick()
    world.until(world.time.now + timedelta(seconds=afterwards), between)


def do(world: World, what: str, about: Any) -> None:
    store, now = world.store, world.time.now
    if what == "tell":
        name, title, level, of = about
        tell(store, alert(name, now, title, level=AlertLevel(level), optimization_id=of))
    elif what == "resolve":
        store.write(ResolveAlert(about, "ann"))
    elif what == "acknowledge":
        store.write(AcknowledgeAlert(about, "ann"))
    elif what == "silence":
        name, pattern, seconds = about
        store.write(add_silence(Silence(name, now, now + timedelta(seconds=seconds), pattern=pattern)))
    elif what == "unsilence":
        store.write(EndSilence(about, "ann"))

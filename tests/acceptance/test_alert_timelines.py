"""Timelines: what happens when, and what each receiver is told. `timelines/` has them, one a file, as tables to read.

Each is played to O9 and has to come out as its table says. Those marked `alike` are played to a real Alertmanager
too, which has to send the same at the same times; from those marked `differs` it has to differ, for the reason that
stands in the file. All are played to it side by side, in the time that the longest takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import alertmanager
import pytest
import yaml
from alert_scripts import written
from alertmanager import Message

from o9.alerts.config.schema import load
from o9.alerts.pipeline.alert import Alert, Notice
from o9.alerts.pipeline.engine import Engine
from o9.alerts.pipeline.simulation import Script, TimelineEntry, apply, by_receiver, load_script, simulate

FILES = sorted((Path(__file__).parent / "timelines").glob("*.yaml"))
EARLY_SECONDS, LATE_SECONDS = 0.5, 1.9  # a busy machine is late; a group's next look is two seconds away and more


@cache
def timeline(name: str) -> dict[str, str]:
    return yaml.safe_load(next(file for file in FILES if file.stem == name).read_text())  # type: ignore[no-any-return]


def script_of(name: str) -> Script:
    return load_script(timeline(name)["script"])


def named(kind: str) -> list[str]:
    return [file.stem for file in FILES if timeline(file.stem).get("alertmanager") == kind]


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_it_comes_out_as_the_table_says(name: str) -> None:
    script = script_of(name)
    assert written(script, simulate(load(timeline(name)["configuration"]), script)) == timeline(name)["timeline"]


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_restart_at_every_instant_changes_nothing(name: str) -> None:
    script, configuration = script_of(name), load(timeline(name)["configuration"])
    told = [entry for entry in simulate(configuration, script) if isinstance(entry.what, Notice)]
    assert list(restarting(name, script)) == told


def restarting(name: str, script: Script) -> Iterator[TimelineEntry]:
    """As `simulate`, but for a new engine before each thing that happens and each look."""
    configuration = load(timeline(name)["configuration"])
    engine = Engine(configuration)
    coming = list(reversed(script.events))
    while True:
        moments = [at for at in (engine.due(), coming[-1].at if coming else None) if at is not None]
        if not moments or min(moments) > script.until:
            return
        now = min(moments)
        while coming and coming[-1].at <= now:
            engine = Engine.restored(configuration, engine.snapshot(), now)
            apply(engine, coming.pop())
        engine = Engine.restored(configuration, engine.snapshot(), now)
        yield from (TimelineEntry(now, notice) for notice in by_receiver(engine.advance(now)))


@pytest.mark.slow
@pytest.mark.xdist_group("alertmanager")
@pytest.mark.parametrize("name", named("alike"))
def test_alertmanager_tells_alike(name: str, sent: dict[str, Any]) -> None:
    mine = told_by_o9(name)
    assert on_time(sent[name], mine) == mine


@pytest.mark.slow
@pytest.mark.xdist_group("alertmanager")
@pytest.mark.parametrize("name", named("differs"))
def test_alertmanager_still_differs_where_that_is_wanted(name: str, sent: dict[str, Any]) -> None:
    assert timeline(name)["reason"]
    mine = told_by_o9(name)
    assert contents(on_time(sent[name], mine)) != contents(mine)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Message]]]:
    """What Alertmanager sent, by timeline and receiver."""
    if alertmanager.BINARY is None:
        pytest.skip("no Alertmanager is installed; on Debian: apt-get install prometheus-alertmanager")
    timelines = {
        name: (timeline(name)["configuration"], script_of(name)) for name in (*named("alike"), *named("differs"))
    }
    return alertmanager.play(timelines, tmp_path_factory.mktemp("alertmanager"))


def told_by_o9(name: str) -> dict[str, list[Message]]:
    script = script_of(name)
    found: dict[str, list[Message]] = {}
    for entry in simulate(load(timeline(name)["configuration"]), script):
        if isinstance(entry.what, Notice):
            after = (entry.at - script.start).total_seconds()
            message = Message(after, labels_of(entry.what.firing), labels_of(entry.what.resolved))
            found.setdefault(entry.what.receiver, []).append(message)
    return {receiver: in_order(messages) for receiver, messages in found.items()}


def labels_of(alerts: tuple[Alert, ...]) -> frozenset[frozenset[tuple[str, str]]]:
    return frozenset(frozenset(alert.labels.items()) for alert in alerts)


def on_time(its: dict[str, list[Message]], mine: dict[str, list[Message]]) -> dict[str, list[Message]]:
    """Alertmanager's messages, with the times at which O9 tells the same where they came about then."""

    def planned(each: Message, own: list[Message]) -> Message:
        alike = (other for other in own if replace(other, after=each.after) == each)
        moments = (other.after for other in alike if -EARLY_SECONDS < each.after - other.after < LATE_SECONDS)
        return replace(each, after=next(moments, each.after))

    return {receiver: in_order([planned(each, mine.get(receiver, [])) for each in its[receiver]]) for receiver in its}


def contents(told: dict[str, list[Message]]) -> dict[str, list[Message]]:
    """Without the times."""
    return {receiver: [replace(each, after=0.0) for each in messages] for receiver, messages in told.items()}


def in_order(messages: list[Message]) -> list[Message]:
    return sorted(messages, key=lambda each: (each.after, sorted(map(sorted, each.firing | each.resolved))))

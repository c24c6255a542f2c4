"""The parts around the engine: what is taken in, rules, the file, the clock, channels' names, what follows a try."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from o9.alerts.channels.outcome import Failed, Sent
from o9.alerts.channels.registry import ChannelRegistry, NamedBlock, channel_name
from o9.alerts.config.schema import AlertsFile, Configuration, load
from o9.alerts.service.delivery import end_of, entry_of
from o9.alerts.service.ingest import AlertFilter, dropped_by
from o9.alerts.service.leader import Clock
from o9.alerts.service.repository import MESSAGE_LIMIT, new_alert_of
from o9.model.errors import OptimizationAlertError, OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel

AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def alert(**fields: Any) -> OptimizationAlert:
    standard: dict[str, Any] = {
        "alert_id": "a", "optimization_id": "o", "level": "warning", "title": "Drawdown", "message": "",
        "timestamp": AT,
    }  # fmt: skip
    return OptimizationAlert(**(standard | fields))


# What is taken in.


def test_an_alert_is_taken_as_it_is_told() -> None:
    told = new_alert_of(alert(metadata={"rule": "r", "labels": {"desk": "慢"}, "evidence": {"x": 1.5}}), None)
    assert (told.alert_id, told.level, told.at) == ("a", "warning", "2026-01-31T09:30:00.000000+00:00")
    assert told.labels == '{"title":"Drawdown","level":"warning","optimization":"o","rule":"r","desk":"慢"}'
    assert (told.ends_at, told.expected_end) == (None, 0)
    over = new_alert_of(alert(resolved=True, resolved_at=AT + timedelta(hours=1)), None)
    assert (over.ends_at, over.expected_end) == ("2026-01-31T10:30:00.000000+00:00", 0)
    repeated = new_alert_of(alert(), timedelta(minutes=5))
    assert repeated.expected_end == 1
    assert repeated.ends_at is not None
    # About no optimization, of long ago or of far away: as it is said.
    assert new_alert_of(alert(optimization_id="", timestamp=datetime(1, 1, 2, tzinfo=UTC)), None).at.startswith("0001-")
    assert new_alert_of(alert(timestamp=datetime(9999, 12, 30, tzinfo=UTC)), None).at.startswith("9999-")


def test_a_level_may_be_given_as_text_and_set_later() -> None:
    told = alert(level="CRITICAL")
    assert told.level is AlertLevel.CRITICAL
    told.level = "error"  # type: ignore[assignment]
    assert new_alert_of(told, None).level == "error"
    told.level = "loud"  # type: ignore[assignment]
    with pytest.raises(OptimizationValidationError, match=r"level.*'loud' is not one of info"):
        new_alert_of(told, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alert_id": ""}, "alert_id: it is empty"),
        ({"alert_id": "a/b"}, "alert_id: .* cannot be part of a URL"),
        ({"alert_id": 7}, "alert_id: expected text"),
        ({"optimization_id": "o\n"}, "optimization_id: .*control character"),
        ({"title": " "}, "title: it is empty"),
        ({"title": "x" * 1001}, "title: 1,001 characters; at most 1,000"),
        ({"message": None}, "message: expected text"),
        ({"metadata": {"evidence": {"loss": math.nan}}}, r"metadata.evidence.loss: nan is not a finite number"),
        ({"metadata": {"a": "x" * (1 << 20)}}, "metadata: .* at most 1,048,576 bytes"),
        ({"metadata": {"labels": {"desk": 1}}}, "metadata.labels.desk: expected text, got 1"),
        ({"metadata": {"evidence": [1, 2]}}, "metadata.evidence: expected a mapping, got a list"),
        ({"metadata": {"remedy": 5}}, "metadata.remedy: expected text, got 5"),
        ({"metadata": {"link": {"a": 1}}}, "metadata.link: expected text, got a mapping"),
        ({"metadata": []}, "metadata: expected a mapping"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizationValidationError, match=message):
        new_alert_of(alert(**fields), None)


def test_what_is_no_alert_is_refused() -> None:
    with pytest.raises(OptimizationValidationError, match=r"alert: expected an OptimizationAlert, got dict"):
        new_alert_of({"alert_id": "a"}, None)  # type: ignore[arg-type]


def test_a_message_that_is_too_long_is_cut_and_says_so() -> None:
    told = new_alert_of(alert(message="é" * (1 << 20)), None)
    assert told.message.startswith("é" * MESSAGE_LIMIT + "\n[cut: the first 20,000 of 1,048,576 characters]")
    assert len(told.message) < MESSAGE_LIMIT + 100
    assert new_alert_of(alert(message="a lone \ud800, and \0"), None).message == "a lone ?, and \ufffd"


# Users' rules.


async def test_only_false_drops() -> None:
    answers: dict[str, Any] = {"none": None, "zero": 0, "empty": "", "true": True, "false": False}

    async def by_title(told: OptimizationAlert) -> Any:
        await asyncio.sleep(0)
        return answers[told.title]

    rules = [AlertFilter(lambda told: answers[told.title]), AlertFilter(by_title)]
    alerts = [alert(title=title) for title in answers]
    assert await dropped_by(rules, alerts) == {4: "test_only_false_drops.<locals>.<lambda>"}
    with pytest.raises(OptimizationValidationError, match="rule: 'no function' is not callable"):
        AlertFilter("no function")  # type: ignore[arg-type]


async def test_a_rule_gets_a_copy_and_the_next_one_what_is_left() -> None:
    asked: list[tuple[str, Any]] = []

    def changes(told: OptimizationAlert) -> bool:
        told.metadata["evidence"]["x"] = "changed"
        return told.title != "dropped"

    asks = AlertFilter(lambda told: asked.append((told.title, told.metadata["evidence"]["x"])))
    rules = [AlertFilter(changes), asks]
    alerts = [alert(title=title, metadata={"evidence": {"x": 1}}) for title in ("kept", "dropped")]
    assert list(await dropped_by(rules, alerts)) == [1]
    assert asked == [("kept", 1)]


async def test_a_rule_that_fails_has_no_opinion_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    fails = [True]

    def fails_at_times(told: OptimizationAlert) -> Any:
        if fails[0]:
            raise KeyError("x")

    async def fails_too(told: OptimizationAlert) -> Any:
        fails_at_times(told)

    rules = [AlertFilter(fails_at_times), AlertFilter(fails_too)]
    for fails[0] in (True, True, False, True):
        assert await dropped_by(rules, [alert(), alert()]) == {}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 4  # of each rule twice: it was well in between
    assert "failed and drops nothing: KeyError: 'x'" in said[0]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_rule_that_hangs_is_left_out_until_it_is_back(
    kind: str, caplog: pytest.LogCaptureFixture, async_wait_until: Callable[..., Any]
) -> None:
    released = threading.Event()
    asked: list[str] = []

    def hangs(told: OptimizationAlert) -> bool:
        asked.append(told.title)
        released.wait(10.0)
        return False

    async def hangs_in_the_loop(told: OptimizationAlert) -> bool:
        asked.append(told.title)
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:  # it does not let go
                continue
        return False

    rules = [AlertFilter(hangs if kind == "sync" else hangs_in_the_loop, seconds=0.05)]
    for title in ("first", "second"):
        assert await dropped_by(rules, [alert(title=title)]) == {}
    assert asked == ["first"]
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    released.set()
    await async_wait_until(lambda: dropped_by(rules, [alert(title="third")]))


# The file.


def test_a_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("route: {receiver: default, group_wait: 1s}\n")
    file = AlertsFile(str(path))
    assert not file.reload()  # the first one: nothing else was in force
    assert file.configuration.route.group_wait == timedelta(seconds=1)
    assert not file.reload()
    path.write_text("route: {receiver: default, group_wait: 20s}\n")
    assert file.reload()
    assert file.configuration.route.group_wait == timedelta(seconds=20)
    os.utime(path, (1, 1))
    assert not file.reload()  # touched, and still the same

    for text in ("route:\n  receiver: nobody\n  group_wait: soon\n", "route: [", "\ud800"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for moment in (7, 7, 8):  # written again as it was, it is not told again
            os.utime(path, (moment, moment))
            assert not file.reload()
        assert str(path) in file.fault
        assert file.configuration.route.group_wait == timedelta(seconds=20)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 3
    assert "line 2" in said[0]
    assert "line 3" in said[0]
    assert all("the previous configuration stays in force" in each for each in said)
    path.unlink()
    assert not file.reload()
    assert "cannot be read" in file.fault
    path.write_text("route: {receiver: default, group_wait: 20s}\n")
    assert not file.reload()  # as it was before
    assert file.fault == ""
    path.write_text("route: {receiver: default, group_wait: 3s}\n")
    assert file.reload()
    assert file.fault == ""


@pytest.mark.parametrize("text", ["", " \n\n", "# a comment\n", "null", "~\n", "---\n", "---\n...\n"])
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("route: {receiver: default, group_wait: 20s}\n")
    file = AlertsFile(str(path))
    file.reload()
    path.write_text(text)
    assert not file.reload()
    assert "line 1: the file is empty" in file.fault
    assert file.configuration.route.group_wait == timedelta(seconds=20)
    with pytest.raises(OptimizationAlertError, match="the file is empty"):
        AlertsFile(str(path)).reload()
    path.write_text("{}")
    assert file.reload()
    assert file.configuration == Configuration()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("{}")
    file = AlertsFile(str(path))
    file.reload()
    path.unlink()
    os.mkfifo(path)
    assert [file.reload() for _ in range(3)] == [False] * 3
    assert "not a regular file" in file.fault
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    with pytest.raises(OptimizationAlertError, match="not a regular file"):
        AlertsFile(str(path)).reload()


def test_a_faulty_file_in_the_beginning_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    with pytest.raises(OptimizationAlertError, match=r"O9_ALERTS_FILE: .*alerts.yaml cannot be read"):
        AlertsFile(str(path)).reload()
    path.write_text("route:\n  receiver: nobody\n")
    with pytest.raises(OptimizationAlertError, match=r"(?s)O9_ALERTS_FILE: .*line 2"):
        AlertsFile(str(path)).reload()
    assert AlertsFile(None).reload() is False


def test_what_the_node_cannot_do_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text("receivers: [{name: default, channels: ['nonsense://x']}]\n")
    reach = ChannelRegistry()

    def check(configuration: Configuration) -> None:
        reach.channels(configuration)

    with pytest.raises(OptimizationAlertError, match="Apprise"):
        AlertsFile(str(path), check).reload()


# The clock.


def test_the_clock_never_goes_back_and_follows_what_is_ahead() -> None:
    wall, steady = [AT], [100.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])

    def pass_by(seconds: float, jump: float = 0.0) -> float:
        steady[0] += seconds
        wall[0] += timedelta(seconds=seconds + jump)
        return (clock.now() - AT).total_seconds()

    assert pass_by(10) == 10
    assert pass_by(10, jump=-3600) == 20  # set back by an hour: it goes on
    assert pass_by(10) == 30
    assert pass_by(0, jump=3600) == 30  # and put right again
    assert pass_by(10, jump=7200) == 40 + 7200  # the machine slept
    assert pass_by(10, jump=1) == 50 + 7200  # small corrections are followed when they add up
    assert pass_by(10, jump=5) == 60 + 7206


# Channels.


def test_channels_are_known_by_names_without_secrets() -> None:
    address = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    name = channel_name(address)
    assert name == channel_name(address) != channel_name(address + "x")
    assert name.startswith("slack-")
    assert "T1JJ3T3L2" not in name
    assert (channel_name("log"), channel_name("block:desk")) == ("log", "block:desk")


def test_a_node_has_the_built_in_channels_the_program_s_and_the_file_s() -> None:
    reach = ChannelRegistry()
    configuration = load(
        "receivers:\n- {name: desk, channels: [mine, 'json://localhost/x', 'block:desk', ghost]}\n"
        "- {name: default, channels: ['*']}\nroute: {receiver: desk}\n"
    )
    reach.register("mine", print)
    reach.register("log", print)
    named = channel_name("json://localhost/x")
    channels = reach.channels(configuration)
    assert set(channels) == {"log", "console", "file", "mine", named, "block:desk"}
    assert type(channels["log"]).__name__ == "FunctionChannel"
    assert reach.channels(configuration)[named] is channels[named]  # which may be sending
    assert reach.own == ("log", "mine")
    assert reach.unknown(configuration) == {"ghost": "desk"}
    assert set(reach.channels(Configuration())) == {"log", "console", "file", "mine"}
    for name in ("*", "json://x", "block:x", "", "a\nb"):
        with pytest.raises(OptimizationValidationError, match="channels"):
            reach.register(name, print)
    with pytest.raises(OptimizationValidationError, match=r"channels.x.*takes \(\)"):
        reach.register("x", lambda: None)


async def test_a_block_is_loaded_when_it_is_needed() -> None:
    told: list[str] = []

    class Block:
        def notify(self, body: str, subject: str) -> None:
            told.append(subject)

    away = [True]

    def resolve(name: str) -> Any:
        if away[0]:
            raise ConnectionError("no server")
        return Block()

    from alert_samples import samples

    from o9.alerts.messages.render import Message

    notice = next(iter(samples().values()))
    channel = NamedBlock("block:desk", "desk", resolve)
    failed = await channel.send(Message(notice), notice)
    assert isinstance(failed, Failed)
    assert "the block 'desk' could not be loaded: ConnectionError: no server" in failed.reason
    away[0] = False
    assert isinstance(await channel.send(Message(notice), notice), Sent)
    assert len(told) == 1
    never = await NamedBlock("block:desk", "desk", None).send(Message(notice), notice)
    assert isinstance(never, Failed)
    assert "cannot load the block" in never.reason


# After a try.


def row(**fields: Any) -> dict[str, Any]:
    standard: dict[str, Any] = {
        "id": 7, "tries": 1, "claimed_by": "node", "created_at": AT.isoformat(), "receiver": "desk", "channel": "log",
        "kind": "firing", "reason": "new", "group_key": "g", "number": 3, "firing": ["a"], "resolved": [],
    }  # fmt: skip
    return standard | fields


@pytest.mark.parametrize(
    ("outcome", "tries", "after", "expected"),
    [
        (Sent(), 1, 0, (None, None, 0.0, "sent")),
        (Failed("no route"), 1, 0, ("no route", 5.0, 0.0, "pending")),
        (Failed("no route"), 4, 0, ("no route", 40.0, 0.0, "pending")),
        (Failed("no route"), 99, 0, ("no route", 300.0, 0.0, "pending")),
        (Failed("429", timedelta(seconds=90)), 1, 0, ("429", 90.0, 90.0, "pending")),
        (Failed("429", timedelta(seconds=1)), 3, 0, ("429", 20.0, 1.0, "pending")),
        (Failed("401", permanent=True), 1, 0, ("401 (given up: a retry cannot succeed)", None, 0.0, "failed")),
        (Failed("500"), 50, 86_399, ("500", 1.0, 0.0, "pending")),
        (Failed("500"), 50, 86_400, ("500 (given up: it was tried for 1 d)", None, 0.0, "failed")),
    ],
)
def test_what_becomes_of_a_notification(outcome: Any, tries: int, after: float, expected: tuple[Any, ...]) -> None:
    end = end_of(row(tries=tries), outcome, AT + timedelta(seconds=after), chance=0.0)
    assert (end.error, end.retry_in, end.pause, entry_of(row(), end)["status"]) == pytest.approx(expected)
    assert (end.notification_id, end.number, end.node) == (7, tries, "node")


def test_many_that_failed_together_are_not_tried_again_together() -> None:
    waits = [end_of(row(tries=5), Failed("500"), AT, chance=n / 10).retry_in for n in range(11)]
    assert waits == pytest.approx([80.0 - 4 * n for n in range(11)])


@pytest.fixture(autouse=True)
def _no_thread_is_left(wait_until: Callable[..., Any]) -> Any:
    yield
    wait_until(lambda: not [each for each in threading.enumerate() if each.name.startswith("o9-channel-")])

"""What `o9 alerts` draws and parses: pure functions, at any width, for any text."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType

from o9.alerts.channels.outcome import Failed
from o9.alerts.channels.registry import channel_name
from o9.alerts.config.schema import Configuration, load
from o9.alerts.pipeline.stages import Silence
from o9.alerts.service.repository import alert_in
from o9.cli.commands.alerts.respond import made_silence, matches
from o9.cli.commands.alerts.test import channels_for, remedy
from o9.cli.options import moment_of
from o9.cli.views.alert_config import configuration_view, interval_words
from o9.cli.views.alerts import (
    Listed,
    Notified,
    Shown,
    alert_view,
    alerts_view,
    history_view,
    silences_view,
)
from o9.model.errors import OptimizationError
from o9.store.alerts.queries import Episode
from o9.store.core.column_types import moment

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
WIDTHS = (60, 80, 200)
AWKWARD = (
    "横截面排序 🚀 回撤",
    "Risk [bold]x[/bold] :smile:",
    "far too long for any table " * 30,
    "\x1b[2J\u202eevil\nline",
)
SECRET = "geheim12token"


def episode(alert_id: str = "a-1", **fields: Any) -> Episode:
    standard: dict[str, Any] = {
        "alert_id": alert_id, "fingerprint": alert_id, "labels": json.dumps({"title": "Drawdown"}),
        "starts_at": moment(NOON - timedelta(hours=2)), "ends_at": None, "expected_end": 0,
        "last_notified_at": moment(NOON), "notifications": 1, "resolved_at": None, "resolved_by": None,
        "acknowledged_by": None,
        "began": 1, "changed": 1, "optimization_id": "opt-1", "level": "critical", "title": "Drawdown",
        "message": "it fell",
    }  # fmt: skip
    return Episode(**(standard | fields))


def send(status: str = "sent", channel: str = "log", **fields: Any) -> dict[str, Any]:
    a_try = {"number": 1, "started_at": moment(NOON), "outcome": status, "error": fields.get("error")}
    standard = {"channel": channel, "status": status, "error": None, "ended_at": moment(NOON), "tries": [a_try]}
    return standard | fields


def notice(*sends: dict[str, Any], **fields: Any) -> dict[str, Any]:
    standard = {
        "at": moment(NOON), "receiver": "desk", "kind": "firing", "reason": "first message of the group",
        "firing": ["a-1"], "resolved": [], "firing_count": 1, "resolved_count": 0, "by_name": True,
        "sends": list(sends or [send()]),
    }  # fmt: skip
    return standard | fields


def suppressed(
    reason: str = "silenced", by: str = "5f1c2d3eaaaa4bbb8ccc1234567890ab", receiver: str = "ops"
) -> dict[str, Any]:
    return {"alert_id": "a-1", "receiver": receiver, "reason": reason, "by": by, "at": moment(NOON)}


def page(listed: Listed, **fields: Any) -> Shown:
    row = {"alert_id": listed.episode.alert_id, "at": moment(NOON), "acknowledged_at": moment(NOON)}
    standard: dict[str, Any] = {
        "labels": {"title": "Drawdown", "level": "critical"}, "metadata": {}, "notices": [], "suppressed": [],
        "waits": False, "known": False, "store": "x.db",
    }  # fmt: skip
    return Shown(listed=listed, row=row, **(standard | fields))


def drawn(*renderables: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(*renderables, sep="\n")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(cell_len(line.rstrip()) <= width for line in text.splitlines()), "wider than the terminal"
    assert not any(character in text for character in "\x1b\u202e"), "it can steer a terminal"
    return text


def words_of(*renderables: RenderableType, width: int = 200) -> str:
    return " ".join(drawn(*renderables, width=width).split())


# Lists


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("title", AWKWARD)
def test_any_alert_fits_any_width_and_keeps_its_id(title: str, width: int) -> None:
    listed = Listed(
        episode(
            "5f1c2d3e-aaaa-4bbb-8ccc-1234567890ab", title=title, optimization_id=title[:20], acknowledged_by="李雷"
        ),
        (Notified("desk", moment(NOON), "sent"),),
        (suppressed(),),
    )
    told = drawn(alerts_view([listed], width, NOON), width=width)
    assert "5f1c2d3e-aaaa-4bbb-8ccc-1234567890ab" in "".join(told.split()) or width < 150
    assert "李雷" in told
    full = drawn(*alert_view(page(listed, notices=[notice()], suppressed=[suppressed()]), NOON), width=width)
    assert "5f1c2d3e-aaaa-4bbb-8ccc-1234567890ab" in full
    history = [notice() | send() | {"status": "sent"}, suppressed() | {"status": "suppressed"}]
    drawn(history_view(history, {"a-1": title}, width), width=width)
    silence = Silence(
        "5f1c2d3eaaaa4bbb8ccc1234567890ab", NOON, NOON + timedelta(days=400), pattern=title, author=title[:20],
        comment=title,
    )  # fmt: skip
    drawn(silences_view([silence], [], NOON), width=width)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (Listed(episode()), "not yet"),
        (Listed(episode(), (Notified("desk", "", "sent"),)), "desk"),
        (Listed(episode(), (Notified("desk", "", "failed"), Notified("head", "", "sent"))), "desk (failed), head"),
        (Listed(episode(), (Notified("desk", "", "pending"),)), "desk (not sent yet)"),
        (Listed(episode(), (Notified("desk", "", "no channel"),)), "desk (no channel)"),
        (
            Listed(episode(), (Notified("desk", "", "sent", (send(), send("failed", "mail"))),)),
            "desk (mail: failed)",
        ),
        (Listed(episode(), (), (suppressed(),)), "ops: silenced (5f1c2d3eaaaa…)"),
        (Listed(episode(), (), (suppressed("not_active", "", "desk"),)), "desk: outside active time intervals"),
        (
            Listed(episode(), (Notified("ops", "", "sent"),), (suppressed("inhibited", "Store away"),)),
            "ops; ops: now inhibited (Store away)",
        ),
    ],
)
def test_a_list_says_who_was_told_or_why_not(listed: Listed, told: str) -> None:
    row = words_of(alerts_view([listed], 200, NOON)).partition("─ ")[2]
    assert row == f"critical Drawdown opt-1 {_local(NOON - timedelta(hours=2))}, 2 h {told} a-1"


def _local(at: datetime) -> str:
    return f"{at.astimezone():%m-%d %H:%M}"


@pytest.mark.parametrize("width", [70, 200])
def test_what_differs_by_its_labels_is_told_apart(width: int) -> None:
    same = {"title": "Drawdown", "level": "critical", "optimization": "opt-1", "rule": "drawdown"}
    rows = [Listed(episode(labels=json.dumps({**same, "book": book}))) for book in ("a", AWKWARD[-1])]
    text = drawn(alerts_view(rows, width, NOON), width=width)
    assert "book=a" in text
    assert r"book=\x1b[2J\u202eevil line" in " ".join(text.split())
    assert "title=" not in text
    assert "rule=" not in text
    assert "labels" not in drawn(alerts_view([Listed(episode())], width, NOON), width=width)


def test_columns_that_say_nothing_are_not_there() -> None:
    assert "optimization" not in drawn(alerts_view([Listed(episode(optimization_id=""))], 200, NOON), width=200)
    assert "acknowledged" not in drawn(alerts_view([Listed(episode())], 200, NOON), width=200)
    assert "acknowledged" in drawn(alerts_view([Listed(episode(acknowledged_by="ann"))], 200, NOON), width=200)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"resolved_at": moment(NOON), "resolved_by": "ann"}, "by ann"),
        ({"resolved_at": moment(NOON), "resolved_by": "o9:not_repeated"}, "not repeated by its source"),
        ({"ends_at": moment(NOON)}, _local(NOON)),
    ],
)
def test_what_is_over_says_since_when_and_by_whom(fields: dict[str, Any], told: str) -> None:
    text = words_of(alerts_view([Listed(episode(**fields))], 200, NOON))
    assert "ended" in text
    assert f"{_local(NOON)}{', ' + told if told != _local(NOON) else ''} a-1" in text


# One alert


def test_the_page_of_an_alert_has_everything() -> None:
    listed = Listed(
        episode(
            message="it fell\nby 12 %",
            notifications=3,
            acknowledged_by="ann",
            ends_at=moment(NOON + timedelta(hours=1)),
            expected_end=1,
        ),
        (Notified("desk", moment(NOON), "sent"),),
    )
    shown = page(
        listed,
        labels={"title": "Drawdown", "level": "critical", "optimization": "opt-1", "desk": "asia"},
        metadata={"evidence": {"drawdown": 0.2341}, "remedy": "halve the leverage", "link": "https://o9.desk/1"},
        notices=[notice(send(), send("failed", "mail", error="HTTP 404"), kind="repeat", reason="still firing")],
        suppressed=[suppressed("acknowledged: no repeats", "ann")],
        known=True,
    )
    text = words_of(*alert_view(shown, NOON))
    for told in (
        "critical Drawdown firing it fell by 12 %", "desk = asia", "drawdown = 0.2341", "halve the leverage",
        "https://o9.desk/1", "3 times, last", "unless it is raised again", "by ann", "repeat: still firing",
        "log sent", "mail failed: HTTP 404", "try 1: failed: HTTP 404", "ops: acknowledged: no repeats (ann)",
        "o9 alerts resolve a-1", "o9 show opt-1",
    ):  # fmt: skip
        assert told in text, told
    assert "alerts ack" not in text


def test_what_a_rule_tells_ends_with_the_rule_and_not_in_ten_years() -> None:
    far = episode(ends_at=moment(NOON + timedelta(days=3650)), expected_end=1)
    text = words_of(*alert_view(page(Listed(far), labels={"title": "Drawdown", "rule": "failed"}), NOON))
    assert "ends when its rule clears, or when it is resolved" in text
    assert "2036" not in text


def test_who_was_not_told_hears_why_and_what_is_guessed_is_said_so() -> None:
    nobody = words_of(*alert_view(page(Listed(episode()), waits=True), NOON))
    assert "No notification was sent yet; no node delivers alerts now" in nobody
    assert "o9 show opt-1" not in nobody
    many = notice(firing_count=23, by_name=False)
    assert "among 23 alerts (presumably:" in words_of(*alert_view(page(Listed(episode()), notices=[many]), NOON))
    none = {**notice(), "sends": []}
    assert "the receiver has no channel" in words_of(*alert_view(page(Listed(episode()), notices=[none]), NOON))
    lost = send("pending", tries=[{"number": 1, "started_at": moment(NOON), "outcome": None, "error": None}])
    text = words_of(*alert_view(page(Listed(episode()), notices=[notice(lost)]), NOON))
    assert "try 1: under way, or its node died" in text


# What is typed


@pytest.mark.parametrize("lasts", ["0", "0s", "-1", "-1h", "2x", "2", "1.5h", "", "99999d", "2h\n"])
def test_a_duration_that_means_nothing_is_wrong_usage(lasts: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        made_silence(['title="x"'], NOON, lasts, NOON)
    assert refused.value.param_hint == "'--for'"


@pytest.mark.parametrize(
    ("matchers", "told"),
    [
        ([""], "it is empty"),
        (["{}", " "], "it is empty"),
        (['title=~".*"'], "matches every alert"),
        (['level="a"', "title==x"], "'title==x': character 7"),
        (['title=~"("'], "not a regular expression"),
    ],
)
def test_matchers_that_mean_nothing_or_everything_are_refused(matchers: list[str], told: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        made_silence(matchers, NOON, "2h", NOON)
    assert told in refused.value.message
    assert refused.value.param_hint == "MATCHER"


def test_a_silence_has_all_matchers_and_an_end() -> None:
    silence = made_silence(
        ['title="x"', 'level=~"info|warning", desk!="eu"'], NOON, "1h30m", NOON, comment="c", author="李"
    )
    assert [str(each) for each in silence.matchers] == ['title="x"', 'level=~"info|warning"', 'desk!="eu"']
    assert (silence.ends_at - silence.starts_at, silence.comment, silence.author) == (timedelta(minutes=90), "c", "李")
    with pytest.raises(typer.BadParameter, match="in the past"):
        made_silence(['title="x"'], NOON - timedelta(days=1), "1h", NOON)
    with pytest.raises(typer.BadParameter, match="later than the last possible date"):
        made_silence(['title="x"'], datetime.max.replace(tzinfo=UTC), "1h", NOON)


def test_a_moment_is_the_reader_s_own_unless_it_says_otherwise() -> None:
    assert moment_of("2026-01-31 18:00") == datetime(2026, 1, 31, 18).astimezone()
    assert moment_of("2026-01-31T18:00:00+00:00") == datetime(2026, 1, 31, 18, tzinfo=UTC)
    for wrong in ("gestern", "", "18:00"):
        with pytest.raises(typer.BadParameter, match="is not a time"):
            moment_of(wrong)


def test_what_a_silence_fits_is_counted_and_named() -> None:
    alerts = [alert_in(episode(f"a-{n}", title=f"T{n}")) for n in range(5)]
    assert matches([]) == "no firing alert matches it"
    assert matches(alerts[:1]) == "it matches one firing alert: T0"
    assert matches(alerts) == "it matches 5 firing alerts: T0, T1, T2, and 2 more"


# Configurations

FILE = f"""
route:
  receiver: desk
  group_wait: 5s
  routes:
    - {{receiver: head, matchers: ['level="critical"'], continue: true, escalate_after: 30m, escalate_to: spare}}
    - {{receiver: ops, matchers: [title=~"Store.*"], group_by: ['...'], mute_time_intervals: [nights]}}
receivers:
  - {{name: desk, channels: [log, 'jsons://user:{SECRET}@mail.desk.example/hook/{SECRET}', mine]}}
  - {{name: head, channels: ['*'], send_resolved: false}}
  - {{name: ops, throttle: {{messages: 5, every: 1h}}}}
  - {{name: spare, channels: [file]}}
  - {{name: unused, channels: [console]}}
inhibit_rules: [{{source_matchers: [title=Away], target_matchers: [level=info], equal: [desk]}}]
time_intervals:
  - name: nights
    time_intervals:
      - {{times: [{{start_time: "22:00", end_time: "24:00"}}], weekdays: ['monday:friday'], location: Asia/Tokyo}}
      - {{days_of_month: ['-3:-1'], months: [december], years: ['2027']}}
      - {{}}
flapping: false
throttle: {{messages: 1, every: 1m}}
rules:
  - {{name: failed, level: critical}}
  - {{name: crashed, enabled: false}}
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_a_configuration_is_told_without_its_secrets(width: int) -> None:
    configuration = load(FILE)
    text = drawn(*configuration_view(configuration), width=width)
    told = " ".join(text.split())
    for part in (
        "everything else → desk", 'level="critical" → head', "to spare if not acknowledged for 30 m",
        "continues with the routes below", "grouped by all labels", "mute: nights", "jsons://mail.desk.example/***",
        "mine (a program must register it)", "no resolved messages", "no channel: never notified",
        "at most 5 messages in 1 h", "no route leads here", "where desk is equal", "not damped",
    ):  # fmt: skip
        assert part in told.replace("│ ", "").replace("  ", " "), part
    assert text.count("(group_wait)") == 1, "a route says what differs"
    assert SECRET not in text
    assert "failed critical, each end" in told
    assert "off crashed" in told


def test_intervals_are_told_in_words() -> None:
    first, second, always = load(FILE).time_intervals["nights"]
    assert interval_words(first) == "monday to friday, 22:00 to 24:00 (Asia/Tokyo)"
    assert interval_words(second) == "day -3 to -1 of the month, december, 2027 (UTC)"
    assert interval_words(always) == "always"


# Channels


def names_for(name: str, configuration: Configuration) -> tuple[str, list[str]]:
    receiver, channels = channels_for(name, configuration)
    return receiver.name, list(map(channel_name, channels))


def test_a_channel_is_found_by_its_name_its_receiver_or_its_address() -> None:
    configuration = load(FILE)
    address = configuration.receivers["desk"].channels[1]
    name = channel_name(address)
    assert names_for(address, configuration) == names_for(name, configuration) == ("desk", [name])
    assert names_for(address, Configuration()) == ("test", [name])
    assert names_for("console", configuration)[1] == ["console"]
    assert names_for("head", configuration)[1] == ["log", "console", "file"]
    assert names_for("default", Configuration())[1] == ["log", "console", "file"]
    for wrong, told in {
        "ops": "has no channel", "consle": "did you mean console", "zz": "log, console, file",
        f"slack:/{SECRET}": "is called 'slack:…'",
    }.items():  # fmt: skip
        with pytest.raises(OptimizationError, match=told) as refused:
            channels_for(wrong, configuration)
        assert SECRET not in str(refused.value)


def test_what_several_receivers_name_is_tried_for_none_of_them() -> None:
    configuration = load("receivers: [{name: night, channels: [log]}, {name: day, channels: [log, file]}]")
    assert names_for("log", configuration) == ("test", ["log"])
    assert names_for("file", configuration) == ("day", ["file"])


def test_what_to_do_follows_from_how_it_failed() -> None:
    assert "correct the address" in remedy(Failed("HTTP 404", permanent=True))
    assert "asks to wait 1 min 30 s" in remedy(Failed("HTTP 429", retry_after=timedelta(seconds=90)))
    assert "try again" in remedy(Failed("connection refused"))

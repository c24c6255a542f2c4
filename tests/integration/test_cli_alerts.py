"""`o9 alerts …` on a store with delivered alerts: what it prints, writes and refuses, and what it never imports."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_servers import Answered, HookServer
from command_line import O9, O9Command, command_in, run_without
from o9_testing import free_port

from o9.alerts.service.system import AlertNotificationSystem
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store.store import Store

SECRET = "geheim12token"
FILE = """
route:
  receiver: desk
  group_wait: 0s
  routes: [{{receiver: ops, matchers: [title=~"Memory|Node.*"]}}]
receivers:
  - {{name: desk, channels: [file, 'json://user:{secret}@127.0.0.1:{port}/{secret}']}}
  - {{name: ops, channels: [file]}}
"""
EVIL = "Bad\x1b[2J\u202e title\nnew 回撤 🚀"


def alert(alert_id: str, title: str, minutes_ago: float, **fields: Any) -> OptimizationAlert:
    at = utc_now() - timedelta(minutes=minutes_ago)
    standard: dict[str, Any] = {"optimization_id": "动量-1", "level": "warning", "message": "it fell", "timestamp": at}
    return OptimizationAlert(alert_id=alert_id, title=title, **(standard | fields))


async def fill(url: str, file: Path) -> None:
    """Two silenced and acknowledged, one sent but to a server that is not there, one over, a group of twelve."""
    system = AlertNotificationSystem(storage_path=url, alerts_file=str(file))
    await system.initialize()
    await system.silence_alerts('title="Memory"', 7200, author="ann", comment="known")
    await system.send_alert(alert("over-1", "Stalled", 300, level="info"))
    await system.send_alert(alert("evil-1", EVIL, 200, level="error"))
    await system.send_alert(
        alert(
            "drawdown-20260131", "Drawdown limit breached", 60, level="critical",
            metadata={"evidence": {"drawdown": 0.2341}, "remedy": "halve the leverage", "labels": {"desk": "asia"}},
        )
    )  # fmt: skip
    await system.send_alert(alert("memory-1", "Memory", 3, optimization_id=""))
    for number in range(12):
        await system.send_alert(alert(f"node-{number:02}", "Node away", 30 + number, optimization_id=f"n-{number}"))
    await system.deliver_once()
    await system.send_alert(
        alert(
            "drawdown-again",
            "Drawdown limit breached",
            1,
            level="critical",
            message="worse",
            metadata={"labels": {"desk": "asia"}},
        )
    )
    await system.acknowledge_alert("evil-1", "李雷")
    await system.resolve_alert("over-1", "bob")
    await system.cleanup()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alerts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where the channel `file` writes
        (folder / "alerts.yaml").write_text(FILE.format(secret=SECRET, port=free_port()), encoding="utf-8")
        asyncio.run(fill(str(folder / "optimization_state.db"), folder / "alerts.yaml"))
    return folder


@pytest.fixture
def o9(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    """In a folder with a copy of the store."""
    for name in ("optimization_state.db", "alerts.yaml"):
        shutil.copy(world / name, tmp_path / name)
    monkeypatch.delenv("O9_ALERTS_FILE", raising=False)
    command = command_in(tmp_path, capsys, monkeypatch)

    def run(*arguments: str) -> Any:
        answer = command("alerts", *arguments)
        told = answer.out + answer.err
        assert SECRET not in told
        assert not any(character in told for character in "\x1b\u202e")
        return answer

    return run


# Lists


def test_list_has_what_fires_newest_first_and_who_was_told(o9: O9Command) -> None:
    found = {each["alert_id"]: each for each in o9("list", "--json").json()}
    assert list(found)[:1] == ["memory-1"]
    assert list(found)[-2:] == ["drawdown-20260131", "evil-1"]
    assert len(found) == 15
    silenced = found["memory-1"]
    assert silenced["notified"] == []
    ((why),) = silenced["suppressed"]
    assert (why["receiver"], why["reason"]) == ("ops", "silenced")
    (told,) = found["evil-1"]["notified"]
    assert (told["receiver"], told["status"]) == ("desk", "sent")
    assert [channel["status"] for channel in told["channels"]] == ["sent", "pending"]
    assert found["evil-1"]["acknowledged_by"] == "李雷"
    assert found["node-11"]["notified"][0]["receiver"] == "ops", "it is not among the ten that the log names"
    text = o9("list")
    assert "not sent yet)" in text.out
    assert "acknowledged by 李雷" in text.out
    assert "no node delivers alerts now" in text.err


def test_list_narrows(o9: O9Command) -> None:
    def ids(*arguments: str) -> list[str]:
        return [each["alert_id"] for each in o9("list", "--json", *arguments).json()]

    assert ids("--level", "critical") == ["drawdown-20260131"]
    assert ids("--optimization", "n-3") == ["node-03"]
    assert ids("--resolved") == ["over-1"]
    assert ids("--all")[-1] == "over-1"
    assert len(ids("--all")) == 16
    assert len(ids("--limit", "3")) == 3
    assert ids("--all", "--limit", "16")[-1] == "over-1"
    over = o9("list", "--resolved", "--json").json()[0]
    assert (over["resolved_by"], over["notified"]) == ("bob", None)
    assert "by bob" in o9("list", "--all").out
    limited = o9("list", "--limit", "2")
    assert "there are more (--limit N)" in limited.err
    assert "--all" in o9("list", "--optimization", "nothing").err
    assert o9("list", "--all", "--resolved").code == 2


@pytest.mark.parametrize("width", ["60", "120", "200"])
def test_every_page_fits(o9: O9Command, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for arguments in (
        ["list", "--all"], ["history"], ["silence", "list"], ["show", "evil-1"], ["show", "node-11"],
        ["show", "over-1"], ["config", "check", "alerts.yaml"],
    ):  # fmt: skip
        answer = o9(*arguments)
        assert answer.code == 0
        assert answer.out
        if arguments[0] != "show":
            assert all(len(line) <= int(width) for line in answer.out.splitlines())


# One


def test_show_has_the_whole_story(o9: O9Command) -> None:
    text = " ".join(o9("show", "drawdown-again").out.split())
    for told in (
        "critical Drawdown limit breached firing worse", "drawdown-again, received", "desk = asia", "2 times, last",
        "first message of the group", "file sent", "not sent yet: connection refused", "try 1: failed", "json-",
        "o9 alerts ack drawdown-20260131",
    ):  # fmt: skip
        assert told in text, told
    document = o9("show", "drawdown-20260131", "--json").json()
    assert (document["alert_id"], document["count"]) == ("drawdown-20260131", 2)
    ((first),) = document["notices"]
    assert [send["channel"].split("-")[0] for send in first["sends"]] == ["file", "json"]
    assert first["sends"][1]["tries"][0]["error"] == "connection refused"


def test_show_says_why_nobody_was_told(o9: O9Command) -> None:
    document = o9("show", "memory-1", "--json").json()
    (silence,) = o9("silence", "list", "--json").json()
    assert document["notices"] == []
    assert [(why["reason"], why["by"]) for why in document["suppressed"]] == [("silenced", silence["silence_id"])]
    assert silence["silence_id"] in o9("show", "memory-1").out


def test_of_a_large_group_it_is_said_what_is_presumed(o9: O9Command) -> None:
    by_name = {name: o9("show", name, "--json").json()["notices"][0]["by_name"] for name in ("node-11", "node-00")}
    assert by_name == {"node-11": True, "node-00": False}, "the oldest ten stay"
    assert "among 12 alerts (presumably" in " ".join(o9("show", "node-00").out.split())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("drawdown-2027", "did you mean drawdown-"),
        ("Drawdown", "did you mean drawdown-"),
        ("动量-1", "did you mean"),
        ("zz", "`o9 alerts list --all` lists them"),
        ("\x1b[2J", "there is no alert '\\x1b[2J'"),
    ],
)
def test_an_unknown_alert_is_told_with_near_ones(o9: O9Command, wrong: str, hint: str) -> None:
    for command in ("show", "ack", "resolve"):
        answer = o9(command, "--", wrong)
        assert answer.code == 1
        assert hint in answer.err.replace("\\\\", "\\")


def test_history_has_what_was_sent_and_what_was_not(o9: O9Command) -> None:
    entries = o9("history", "--json").json()
    assert {entry["status"] for entry in entries} == {"sent", "pending", "suppressed"}
    assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)
    text = o9("history")
    assert "suppressed: silenced" in text.out
    assert "firing: Node away and 11 more" in text.out
    assert len(o9("history", "--limit", "2", "--json").json()) == 2
    assert "there are more" in o9("history", "--limit", "2").err
    assert [o9("history", "--limit", limit).code for limit in ("0", "1000", "1001")] == [2, 0, 2]


# What is answered


def test_alerts_are_acknowledged_and_resolved_each_for_itself(o9: O9Command) -> None:
    answer = o9("ack", "memory-1", "nope", "over-1", "evil-1", "--by", "ann", "--json")
    assert answer.code == 1
    assert [each["outcome"] for each in answer.json()] == ["done", "unknown", "already", "already"]
    assert "already acknowledged by 李雷" in o9("ack", "evil-1").out
    answer = o9("resolve", "memory-1", "over-1", "--by", "李雷")
    assert answer.code == 0
    assert "memory-1: resolved" in answer.out
    assert "over-1: already" in answer.out
    over = o9("show", "memory-1", "--json").json()
    assert (over["resolved_by"], over["acknowledged_by"]) == ("李雷", "ann")
    assert o9("resolve", "node-01").code == 0
    assert o9("show", "node-01", "--json").json()["resolved_by"].startswith("o9, ")


def test_a_silence_is_made_listed_and_ended(o9: O9Command) -> None:
    answer = o9(
        "silence", "add", 'title=~"Draw.*"', "level=critical", "--for", "2h", "--comment", "why 🚀", "--by", "ann"
    )
    name = answer.out.strip()
    assert answer.code == 0
    assert "it matches one firing alert: Drawdown limit breached" in " ".join(answer.err.split())
    assert "no firing alert matches it" in o9("silence", "add", "title=Drawdwon", "--for", "1h").err
    (silence,) = [each for each in o9("silence", "list", "--json").json() if each["silence_id"] == name]
    assert (silence["matchers"], silence["comment"], silence["author"]) == (
        '{title=~"Draw.*",level="critical"}', "why 🚀", "ann",
    )  # fmt: skip
    lasts = datetime.fromisoformat(silence["ends_at"]) - datetime.fromisoformat(silence["starts_at"])
    assert lasts == timedelta(hours=2)
    assert "why 🚀" in o9("silence", "list").out
    later = o9("silence", "add", "title=x", "--for", "1h", "--from", "2090-01-01T00:00:00+00:00", "--json").json()
    assert datetime.fromisoformat(later["starts_at"]) == datetime(2090, 1, 1, tzinfo=UTC)
    near = o9("silence", "expire", f"{name[:6]}-")
    assert (near.code, "there is no silence" in near.err) == (1, True)
    assert o9("silence", "expire", name[:6], "--json").json()[0]["id"] == name
    assert o9("silence", "expire", name, "--json").json()[0]["outcome"] == "already"
    assert name not in o9("silence", "list").out


@pytest.mark.parametrize(
    "wrong",
    [["--for", "2h"], ["", "--for", "2h"], ["title=x"], ["title=x", "--for", "-1"], ['title=~".*"', "--for", "2h"]],
)
def test_a_silence_of_nothing_everything_or_never_is_refused(o9: O9Command, wrong: list[str]) -> None:
    answer = o9("silence", "add", *wrong)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert len(o9("silence", "list", "--json").json()) == 1


# Files


def test_check_tells_what_a_file_means(o9: O9Command) -> None:
    answer = o9("config", "check", "alerts.yaml", "--json")
    assert answer.json()["valid"]
    assert answer.json()["valid"] is True
    assert "json://127.0.0.1:" in o9("config", "check", "alerts.yaml").out


BAD = f"""
route:
  reciever: desk
  group_wait: 30
  receiver: 'slack://{SECRET}/x'
receivers:
  - {{name: desk, channels: ['slack://{SECRET}']}}
  - {{name: desk}}
"""


def test_check_has_every_fault_with_its_line(o9: O9Command) -> None:
    Path("bad.yaml").write_text(BAD, encoding="utf-8")
    answer = o9("config", "check", "bad.yaml")
    assert answer.code == 1
    assert [line.split(": ")[:2] for line in answer.out.splitlines() if line.startswith("bad.yaml:")] == [
        ["bad.yaml:3", "route.reciever"], ["bad.yaml:4", "route.group_wait"], ["bad.yaml:5", "route.receiver"],
        ["bad.yaml:7", "receivers[0].channels[0]"], ["bad.yaml:8", "receivers[1].name"],
    ]  # fmt: skip
    assert answer.err == "o9: bad.yaml has 5 faults\n"
    told = o9("config", "check", "bad.yaml", "--json")
    assert (told.code, [fault["line"] for fault in told.json()["faults"]]) == (1, [3, 4, 5, 7, 8])


def test_check_asks_apprise_about_addresses(o9: O9Command) -> None:
    Path("bad.yaml").write_text(
        f"receivers:\n  - name: default\n    channels: ['nosuch://{SECRET}']\n", encoding="utf-8"
    )
    answer = o9("config", "check", "bad.yaml")
    assert answer.code == 1
    assert answer.out.startswith("bad.yaml:3: receivers[0].channels[0]: ")
    assert SECRET not in answer.out


DOUBTFUL = """
route:
  routes:
    - {matchers: [desk=asia, rule=fialed]}
receivers:
  - {name: default, channels: [consol]}
rules:
  - {name: broken, scope: each end, when: failed == 1 and failed == 0}
"""


def test_check_warns_of_what_is_likely_a_mistake_beside_what_the_file_means(o9: O9Command) -> None:
    Path("doubtful.yaml").write_text(DOUBTFUL, encoding="utf-8")
    answer = o9("config", "check", "doubtful.yaml")
    assert (answer.code, "Routes" in answer.out) == (0, True)
    err = " ".join(answer.err.split())
    assert err.count("doubtful.yaml:") == err.count(" warning: ") == 4
    for told in (
        ":4: warning: route.routes[0].matchers[0]: neither O9 nor a rule of this file sets the label 'desk'; only",
        ":4: warning: route.routes[0].matchers[1]: no rule is called 'fialed'; did you mean failed?",
        ":6: warning: receivers[0].channels[0]: ",
        ":8: warning: rules[0].when: it never holds: no value of `failed`",
    ):
        assert told in err
    answer = o9("config", "check", "doubtful.yaml", "--json")
    assert (answer.code, answer.json()["valid"], answer.json()["faults"], answer.err) == (0, True, [], "")
    assert [(doubt["line"], doubt["field"]) for doubt in answer.json()["warnings"]] == [
        (4, "route.routes[0].matchers[0]"), (4, "route.routes[0].matchers[1]"), (6, "receivers[0].channels[0]"),
        (8, "rules[0].when"),
    ]  # fmt: skip
    Path("doubtful.yaml").write_text(DOUBTFUL + "flaping: false\n", encoding="utf-8")
    faulty = o9("config", "check", "doubtful.yaml", "--json")
    assert (faulty.code, faulty.json()["warnings"], len(faulty.json()["faults"])) == (1, [], 1)


def test_a_silence_warns_of_labels_that_no_alert_has(o9: O9Command) -> None:
    answer = o9("silence", "add", "dekc=asia", "--for", "1h")
    assert answer.code == 0
    assert " ".join(answer.err.split()).startswith(
        "o9: warning: no alert so far has the label 'dekc', and O9 sets none of that name; did you mean desk?"
    )
    assert "warning" not in o9("silence", "add", "desk=asia", "level=CRITICAL", "--for", "1h").err
    told = o9("silence", "add", "rule=fialed", "--for", "1h", "--json")
    assert told.json()["warnings"] == ["no alert so far is of the rule 'fialed'; did you mean failed?"]
    for wrong in ("level=warn", "level=info, level=error"):
        refused = o9("silence", "add", wrong, "--for", "1h")
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert "MATCHER" in refused.err


def test_what_a_template_does_wrong_is_told_with_its_field(o9: O9Command) -> None:
    Path("bad.yaml").write_text(
        "templates:\n  text: '{{ 1 / 0 }}'\n  title: '{{ titel }}'\n"
        "receivers:\n- name: default\n  templates:\n    html: '{{ alerts.__class__ }}'\n",
        encoding="utf-8",
    )
    told = o9("config", "check", "bad.yaml", "--json")
    assert (told.code, [(fault["line"], fault["field"]) for fault in told.json()["faults"]]) == (
        1, [(2, "templates.text"), (3, "templates.title"), (7, "receivers[0].templates.html")],
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [["config", "check"], ["config", "simulate"], ["config", "simulate", "script.yaml", "--config"]]
)
def test_what_is_no_file_is_said_in_a_line(o9: O9Command, command: list[str]) -> None:
    Path("script.yaml").write_text("happens: [{at: 0s, fires: {title: A}}]", encoding="utf-8")
    for name, told in {"nix.yaml": "No such file", ".": "not a regular file"}.items():
        answer = o9(*command, name)
        assert (answer.code, answer.out, told in answer.err, answer.err.count("\n")) == (1, "", True, 1)
    Path("bytes").write_bytes(b"\xff\x00")
    answer = o9(*command, "bytes")
    assert (answer.code, "UTF-8" in answer.out + answer.err) == (1, True)


def test_of_thousands_of_faults_a_hundred_are_printed(o9: O9Command) -> None:
    rules = "".join(f"  - {{name: r{number}, when: bad{number} > 1}}\n" for number in range(1_200))
    Path("many.yaml").write_text(f"rules:\n{rules}", encoding="utf-8")
    answer = o9("config", "check", "many.yaml")
    assert (answer.code, answer.out.count("many.yaml:"), "many.yaml:101:" in answer.out) == (1, 100, True)
    assert " ".join(answer.err.split()) == "o9: many.yaml has 1,200 faults; these are the first 100, --json has all"
    assert len(o9("config", "check", "many.yaml", "--json").json()["faults"]) == 1_200
    Path("script.yaml").write_text(SCRIPT, encoding="utf-8")
    answer = o9("config", "simulate", "script.yaml", "--config", "many.yaml")
    assert (answer.code, answer.err.count("line ")) == (1, 100)
    assert answer.err.endswith("o9: many.yaml has 1,100 more faults\n")


def test_a_file_that_says_nothing_is_a_fault(o9: O9Command) -> None:
    for text in ("", "# route: {receiver: desk}\n", "null"):
        Path("empty.yaml").write_text(text, encoding="utf-8")
        answer = o9("config", "check", "empty.yaml")
        assert (answer.code, answer.out.startswith("empty.yaml:1: the file is empty")) == (1, True)
    Path("empty.yaml").write_text("{}", encoding="utf-8")
    assert o9("config", "check", "empty.yaml").code == 0


def test_a_file_that_is_none_holds_up_no_command(o9: O9Command, set_o9: Callable[..., None]) -> None:
    Path("script.yaml").write_text(SCRIPT, encoding="utf-8")
    os.mkfifo("pipe.yaml")
    for command in (
        ["simulate", "script.yaml"], ["simulate", "script.yaml", "--config", "pipe.yaml"], ["simulate", "pipe.yaml"],
        ["check", "pipe.yaml"], ["test", "log"],
    ):  # fmt: skip
        set_o9(alerts_file="" if command[1] == "pipe.yaml" else "pipe.yaml")
        answer = o9("config", *command)
        assert (answer.code, answer.out, answer.err) == (1, "", "o9: pipe.yaml: not a regular file\n"), command


SCRIPT = """
happens:
  - {at: 0s, fires: {title: Drawdown, level: critical, optimization: 动量-1}}
  - {at: 1m, silence: 'title=~"Mem.*"', for: 1h, author: ana}
  - {at: 2m, fires: {title: "Mem\\e[2Jory\\nx", level: warning}}
  - {at: 3m, resolved: {title: Drawdown, level: critical, optimization: 动量-1}}
until: 10m
"""


def test_simulate_tells_who_would_be_told_and_why_not(o9: O9Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("script.yaml").write_text(SCRIPT, encoding="utf-8")
    entries = o9("config", "simulate", "script.yaml", "--config", "alerts.yaml", "--json").json()
    assert [(entry["what"], entry.get("receiver")) for entry in entries] == [
        ("fires", None), ("notified", "desk"), ("silence", None), ("fires", None), ("suppressed", "desk"),
        ("resolved", None), ("notified", "desk"),
    ]  # fmt: skip
    assert entries[4]["reason"] == "silenced"
    text = o9("config", "simulate", "script.yaml", "--config", "alerts.yaml")
    assert "→ desk" in text.out
    assert "Mem\\x1b[2Jory" in text.out
    assert "alerts.yaml" in text.err
    own = o9("config", "simulate", "script.yaml")
    assert "→ default" in own.out
    assert "by the built-in configuration" in own.err


def test_simulate_says_all_faults_of_a_script_and_of_a_configuration(o9: O9Command) -> None:
    Path("script.yaml").write_text("happens: [{at: x, fires: {}}, {at: 1s}]", encoding="utf-8")
    answer = o9("config", "simulate", "script.yaml")
    assert answer.code == 1
    assert answer.err.count("o9: script.yaml, line 1: happens[") == 3
    Path("script.yaml").write_text(SCRIPT, encoding="utf-8")
    Path("bad.yaml").write_text(BAD, encoding="utf-8")
    answer = o9("config", "simulate", "script.yaml", "--config", "bad.yaml")
    assert (answer.code, answer.err.count("o9: bad.yaml, line ")) == (1, 4)


# Sending


def test_a_channel_is_really_tried(o9: O9Command) -> None:
    hooks = HookServer()
    try:
        address = f"json://user:{SECRET}@127.0.0.1:{hooks.port}/{SECRET}"
        answer = o9("config", "test", address)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.endswith(f"(json://127.0.0.1:{hooks.port}): sent\n")
        assert json.loads(hooks.received[0].body)["title"] == "[INFO] Test of a channel"
        hooks.answers = [Answered(404), Answered(429)]
        answer = o9("config", "test", address)
        assert (answer.code, answer.out) == (1, "")
        assert "error=404" in answer.err
        (told,) = o9("config", "test", address, "--json").json()
        assert (told["outcome"], told["permanent"]) == ("failed", False)
        assert "error=429" in told["reason"]
    finally:
        hooks.close()


def test_a_receiver_s_channels_are_all_tried(o9: O9Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("O9_ALERTS_LOG")
    answer = o9("config", "test", "desk", "--config", "alerts.yaml")
    assert answer.code == 1
    assert answer.out == "file (~/.local/state/o9/alerts.log): sent\n"
    assert "connection refused" in answer.err
    assert "Test of a channel" in (tmp_path / ".local/state/o9/alerts.log").read_text(encoding="utf-8")
    assert "is registered by a program" not in answer.err
    answer = o9("config", "test", "dsk", "--config", "alerts.yaml")
    assert (answer.code, "did you mean desk?" in answer.err) == (1, True)


def test_what_only_a_program_has_is_left_out_and_named(o9: O9Command) -> None:
    Path("mixed.yaml").write_text("receivers: [{name: desk, channels: [py, log]}]", encoding="utf-8")
    answer = o9("config", "test", "desk", "--config", "mixed.yaml")
    assert (answer.code, answer.out) == (0, "log: sent\n")
    assert "o9: py: left out: the channel 'py' is registered by a program" in " ".join(answer.err.split())
    told = o9("config", "test", "desk", "--config", "mixed.yaml", "--json").json()
    assert sorted((each["channel"], each["outcome"]) for each in told) == [("log", "sent"), ("py", "left out")]
    answer = o9("config", "test", "py", "--config", "mixed.yaml")
    assert (answer.code, "can only be tried there" in " ".join(answer.err.split())) == (1, True)
    answer = o9("config", "test", f"nosuch://{SECRET}")
    told = " ".join(answer.err.split())
    assert (answer.code, "nosuch" in told, SECRET in told) == (1, True, False)
    (told,) = o9("config", "test", "slak://a", "--json").json()
    assert ("slack?" in told["reason"], told["channel"] in told["reason"]) == (True, False)


# Stores and processes


def test_a_store_that_is_not_there_is_never_made(o9: O9Command) -> None:
    for command in (
        ["list"], ["show", "x"], ["ack", "x"], ["resolve", "x"], ["history"], ["silence", "list"],
        ["silence", "expire", "x"], ["silence", "add", "title=x", "--for", "1h"],
    ):  # fmt: skip
        answer = o9(*command, "--store", "nix.db")
        assert (answer.code, "does not exist" in answer.err) == (1, True)
    assert not Path("nix.db").exists()


def test_an_empty_store_says_so(o9: O9Command) -> None:
    Store("empty.db").close()
    option = ("--store", "empty.db")
    assert "--all" in o9("list", *option).err
    assert "--all" not in o9("list", "--all", *option).err
    assert "--all" not in o9("list", "--resolved", *option).err
    assert "no notification was sent yet" in o9("history", *option).err
    assert "no active or future silences" in o9("silence", "list", *option).err
    for command in (["list"], ["history"], ["silence", "list"]):
        assert o9(*command, "--json", *option).json() == []


def test_the_same_is_read_from_postgresql(world: Path, postgres_url: str, o9: O9Command) -> None:
    asyncio.run(fill(postgres_url, world / "alerts.yaml"))
    option = ("--store", postgres_url)
    assert len(o9("list", "--all", "--json", *option).json()) == 16
    assert o9("show", "node-00", "--json", *option).json()["notices"][0]["by_name"] is False
    (notice,) = o9("show", "drawdown-again", "--json", *option).json()["notices"]
    assert len(notice["sends"]) == 2
    assert o9("list", *option).code == o9("history", *option).code == 0


def test_neither_prefect_nor_the_channels_are_imported(o9: O9Command) -> None:
    Path("script.yaml").write_text(SCRIPT, encoding="utf-8")
    Path("plain.yaml").write_text("receivers: [{name: default, channels: [log]}]", encoding="utf-8")
    commands = [
        ["list", "--all"], ["show", "evil-1"], ["history"], ["silence", "list"], ["ack", "memory-1"],
        ["resolve", "memory-1"], ["silence", "add", "title=x", "--for", "1h"],
        ["config", "simulate", "script.yaml"], ["config", "check", "plain.yaml"],
    ]  # fmt: skip
    run_without(("prefect", "apprise", "requests"), *[["alerts", *each] for each in commands])


def test_piped_and_without_utf_8_it_is_plain(o9: O9Command) -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    plain.pop("COLUMNS")
    told = subprocess.run(
        [sys.executable, *O9, "alerts", "list"], capture_output=True, text=True, timeout=60, env=plain, check=False
    )
    assert told.returncode == 0
    assert len(told.stdout.splitlines()) == 17, "one line for each where nothing says how wide"
    assert all(line == line.rstrip() for line in told.stdout.splitlines())

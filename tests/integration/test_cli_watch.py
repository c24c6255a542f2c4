"""`watch`: one optimization until it ends, and all of them; the events, their authors and times."""

from __future__ import annotations

import json
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zygote
from command_line import O9, O9Command, command_in, create, filled_store
from sqlalchemy import Connection

from o9.cli.views.history import EventFeed
from o9.model.states import Intent, OptimizationStatus
from o9.store import queries
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


def test_watch_of_an_ended_one_answers_at_once(o9: O9Command, filled: Path) -> None:
    answer = o9("watch", "done-1")
    assert answer.code == 0
    assert "completed (hook): as told" in answer.err
    assert "done-1" in answer.out
    *events, record = [json.loads(line) for line in o9("watch", "done-1", "--json").out.splitlines()]
    assert [event["to_status"] for event in events] == ["created", "initializing", "running", "completed"]
    assert record == o9("show", "done-1", "--json").json()


def test_watch_follows_another_process_to_the_end(filled: Path) -> None:
    with Store(str(filled)) as store:
        watcher = zygote.start([*O9, "watch", "busy-1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watcher.stderr is not None
        told = ""
        while "running (hook)" not in told:
            told = watcher.stderr.readline()
            assert watcher.poll() is None
        store.write(Transition("busy-1", OptimizationStatus.FAILED, Cause.HOOK, issue="the exchange was closed"))
        out, err = watcher.communicate(timeout=20)
    assert watcher.returncode == 3
    assert "failed (hook)" in err
    assert "busy-1" in out


def test_watch_says_how_a_paused_one_goes_on_and_ctrl_c_leaves_it_alone(filled: Path) -> None:
    watcher = zygote.start([*O9, "watch", "paused-1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watcher.stderr is not None
    while "o9 resume --here paused-1" not in watcher.stderr.readline():
        assert watcher.poll() is None
    watcher.send_signal(2)
    _, err = watcher.communicate(timeout=20)
    assert watcher.returncode == 130
    assert err.splitlines()[-1] == "o9: stopped watching; paused-1 was not affected"
    with Store(str(filled)) as store:
        state = store.read(queries.get, "paused-1")
    assert state is not None
    assert state.status is OptimizationStatus.PAUSED


@pytest.fixture
def watcher(filled: Path) -> Iterator[zygote.Process]:
    process = zygote.start([*O9, "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    overdue = threading.Timer(30, process.kill)  # so that a line that never comes ends the test
    overdue.start()
    yield process
    overdue.cancel()
    process.kill()
    process.communicate()


def test_watching_all_shows_each_change_and_who_asked(filled: Path, watcher: zygote.Process) -> None:
    assert watcher.stderr is not None
    assert watcher.stdout is not None
    first = watcher.stderr.readline()
    assert "1 completed, 1 created, 1 paused, 1 running; showing changes until Ctrl-C" in first
    with Store(str(filled)) as store:
        store.write(SetIntent("busy-1", Intent.PAUSE, "ann"))
        store.write(SetIntent("busy-1", Intent.RUN, "ben"))
        store.write(SetIntent("paused-1", Intent.RUN, "\u202ecy"))
        create(store, "new one")
        store.write(Transition("busy-1", OptimizationStatus.FAILED, Cause.HOOK, "it\nbroke", issue="it broke"))
    lines = [watcher.stdout.readline().partition("  ")[2].rstrip() for _ in range(5)]
    assert lines == [
        "busy-1  pause requested by ann",
        "busy-1  run requested by ben",
        "paused-1  paused → created (person): resume requested by \\u202ecy",
        "new one  created (submission)",
        "busy-1  running → failed (hook): it",
    ]
    watcher.send_signal(2)
    _, err = watcher.communicate(timeout=20)
    assert watcher.returncode == 130
    assert err.splitlines()[-1] == "o9: stopped watching; nothing was affected"


def test_what_happens_during_a_look_keeps_its_order(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(str(filled)) as store:
        news, read = EventFeed(store), queries.changes
        happened: list[Any] = []

        def changes(connection: Connection, after: int, **more: int) -> Any:
            rows = read(connection, after, **more)
            if not happened:
                happened.append(store.write(SetIntent("busy-1", Intent.PAUSE, "ann")))
                store.write(Transition("busy-1", OptimizationStatus.FAILED, Cause.HOOK, "it broke", issue="it broke"))
            return rows

        monkeypatch.setattr(queries, "changes", changes)
        assert [event.get("by", event.get("to_status")) for _ in range(3) for event in news.read()] == ["ann", "failed"]


def test_watching_all_as_json_is_a_document_a_line(filled: Path) -> None:
    process = zygote.start([*O9, "watch", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with Store(str(filled)) as store:
            end = time.monotonic() + 20
            while not select.select([process.stdout], [], [], 0.2)[0]:  # as JSON, nothing announces that it listens
                assert time.monotonic() < end
                store.write(SetIntent("busy-1", Intent.PAUSE, "ann"))
                store.write(SetIntent("busy-1", Intent.RUN, "ann"))
        event = json.loads(process.stdout.readline())
        assert event["optimization_id"] == "busy-1"
        assert (event["intent"], event["by"]) in (("pause", "ann"), ("run", "ann"))
    finally:
        process.kill()
        process.communicate()

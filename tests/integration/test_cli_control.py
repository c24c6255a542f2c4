"""`pause`, `resume`, `cancel`, `start`, `retry`: what they write and print, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zygote
from command_line import O9, O9Command, command_in, create, filled_store, run_without, work

from o9.cli.answers import who
from o9.lifecycle.processes import PROCESS, identity
from o9.model.specification import new_optimization
from o9.model.states import OptimizationStatus
from o9.store import queries
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Heartbeat
from o9.store.store import Store


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


def status_of(name: str) -> str:
    with Store("optimization_state.db") as store:
        state = store.read(queries.get, name)
    assert state is not None
    return state.status.value


def wishes(name: str) -> list[tuple[str, str]]:
    with Store("optimization_state.db") as store:
        return [(row["intent"], row["by"]) for row in store.read(queries.intents, name)]


def test_what_runs_is_asked_and_what_rests_is_moved(o9: O9Command, filled: Path) -> None:
    answer = o9("pause", "busy-1", "waiting-1", "paused-1")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        "busy-1: running; it will pause when its step is committed",
        "waiting-1: paused",
        "paused-1: already paused",
    ]
    assert [status_of(name) for name in ("busy-1", "waiting-1", "paused-1")] == ["running", "paused", "paused"]
    assert wishes("busy-1") == [("pause", who())]
    assert "pause requested by " + who() in o9("show", "busy-1").out


def test_each_command_twice_is_no_error_and_changes_nothing_more(o9: O9Command, filled: Path) -> None:
    for command, name in (("pause", "busy-1"), ("resume", "paused-1"), ("start", "waiting-1"), ("cancel", "busy-1")):
        first = o9(command, name, "--json").json()
        before = wishes(name), o9("show", name, "--json").json()["transitions"]
        again = o9(command, name, "--json")
        assert again.code == 0
        assert again.json()[0]["outcome"] == "already"
        assert again.json()[0]["status"] == first[0]["status"]
        assert (wishes(name), o9("show", name, "--json").json()["transitions"]) == before


def test_a_pause_can_be_taken_back_and_a_cancel_cannot(o9: O9Command, filled: Path) -> None:
    o9("pause", "busy-1")
    assert o9("resume", "busy-1").out == "busy-1: running; it continues\n"
    assert o9("cancel", "busy-1").code == 0
    for command in ("resume", "pause"):
        answer = o9(command, "busy-1")
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("o9: busy-1: cancel ")


def test_one_that_has_ended_is_refused_in_one_line_that_names_its_status(o9: O9Command, filled: Path) -> None:
    for command in ("pause", "resume", "cancel", "start"):
        answer = o9(command, "done-1")
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("o9: done-1: it has ended (completed)")
        assert len(answer.err.splitlines()) == 1


def test_an_unknown_id_keeps_nothing_from_the_others(o9: O9Command, filled: Path) -> None:
    answer = o9("pause", "wating-1", "waiting-1", "nothing like it")
    assert answer.code == 1
    assert answer.out == "waiting-1: paused\n"
    assert "there is no optimization 'wating-1'" in answer.err
    assert "did you mean waiting-1?" in answer.err
    assert "there is no optimization 'nothing like it'" in answer.err
    assert len(answer.err.splitlines()) == 2


def test_json_is_one_array_whatever_happens(o9: O9Command, filled: Path) -> None:
    answer = o9("pause", "busy-1", "done-1", "nix", "busy-1", "--json")
    assert answer.code == 1
    rows = answer.json()
    assert [(row["id"], row["outcome"], row["status"]) for row in rows] == [
        ("busy-1", "asked", "running"),
        ("done-1", "refused", "completed"),
        ("nix", "unknown", None),
    ]
    assert set(rows[0]) == {"id", "outcome", "status", "message"}


@pytest.mark.parametrize("name", ["my id's", '"double" quotes', "横截面 🚀", "a;b $(c)", "30"])
def test_awkward_ids(o9: O9Command, name: str) -> None:
    with Store("optimization_state.db") as store:
        create(store, name)
    for command, status in (("pause", "paused"), ("resume", "created"), ("cancel", "cancelled")):
        answer = o9(command, "--", name)
        assert (answer.code, answer.err) == (0, "")
        assert status_of(name) == status
    assert o9("pause", "--json", "--", name).json()[0]["id"] == name
    assert o9("retry", "--id", f"{name} again", "--", name).code == 0
    assert status_of(f"{name} again") == "created"


@pytest.mark.parametrize(
    "arguments",
    [
        ["pause"], ["pause", "a", "--wait", "--timeout=soon"], ["pause", "a", "--timeout", "5"],
        ["cancel", "--bogus", "a"],
        ["pause", "a", "--wait", "--timeout", "-1"], ["resume", "--here", "--wait", "a"],
        ["retry"], ["retry", "a", "b"], ["retry", "a", "--from-step", "-1"], ["retry", "a", "--from-step", "x"],
    ],
)  # fmt: skip
def test_wrong_usage_is_code_2_and_touches_nothing(o9: O9Command, filled: Path, arguments: list[str]) -> None:
    answer = o9(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["pause", "resume", "cancel", "start", "retry"])
def test_a_store_that_is_not_there_is_not_created(o9: O9Command, command: str) -> None:
    answer = o9(command, "a")
    assert (answer.code, answer.out) == (1, "")
    assert "does not exist" in answer.err
    assert list(Path().iterdir()) == []
    assert o9(command, "a", "--store", "no/where.db").code == 1


def test_the_outlook_depends_on_who_is_there(o9: O9Command, filled: Path) -> None:
    told = o9("resume", "paused-1").out
    assert "no node runs queued optimizations now; `o9 resume --here paused-1`" in told
    with Store(str(filled)) as store:
        store.write(Heartbeat("elsewhere", "another-host", 7, 0.0, 30.0, {"limit": 10}))
    assert o9("start", "paused-1").out == "paused-1: already queued; it starts when a slot is free\n"
    with Store(str(filled)) as store:
        store.write(Heartbeat("node-1", os.uname().nodename, 2**22 + 1, 1.0, 30.0, {PROCESS: identity(os.getpid())}))
    assert "busy-1: running, but its node node-1 has been gone since" in o9("pause", "busy-1").out


def test_what_was_held_back_waits_for_its_start(o9: O9Command) -> None:
    first = "{optimization_id: first, metadata: {objective: branin}}"
    second = "{optimization_id: second, metadata: {objective: branin, after: [first]}}"
    Path("one.yaml").write_text(f"[{second}, {first}]")  # in whichever order
    answer = o9("submit", "--hold", "one.yaml")
    assert (answer.code, answer.err) == (0, "")
    assert "takes them." not in answer.out
    assert "o9 start first second" in answer.out
    assert "held back until `o9 start`" in o9("show", "first").out
    assert "Next: o9 start first" in o9("show", "first").out
    told = o9("start", "first", "second").out.splitlines()
    assert told[0].startswith("first: queued; it starts when a slot is free")
    assert told[1].startswith("second: queued; it starts when another has completed")
    assert "waits for 1 other" in o9("show", "second").out
    assert o9("show", "second", "--json").json()["unmet"] == 1


def test_submitting_what_is_recorded_says_how_it_is_and_what_makes_it_go_on(o9: O9Command) -> None:
    Path("one.yaml").write_text("{optimization_id: it, metadata: {objective: branin}}")
    first = o9("submit", "one.yaml").out
    assert "already recorded" not in first
    assert "No node runs" in first
    for command, told in (
        ("resume", ("it  created  already recorded", "; `o9 resume --here it`")),
        ("pause", ("it  paused  already recorded", "; `o9 resume --here it`")),
        ("cancel", ("it  cancelled  already recorded", "; `o9 retry it`")),
    ):
        o9(command, "it")
        again = o9("submit", "one.yaml").out
        assert all(part in again for part in told), again
        assert ("No node runs" in again) == (command == "resume")


def test_what_is_only_watched_is_not_steered(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        state = new_optimization({"optimization_id": "watched", "metadata": {"strategy": "mirrored"}})
        store.write(Adopt(state, "run-1", "node-1", 30.0))
        store.write(Transition("watched", OptimizationStatus.INITIALIZING, Cause.HOOK))
        store.write(Transition("watched", OptimizationStatus.RUNNING, Cause.HOOK))
    for command in ("pause", "resume", "start"):
        answer = o9(command, "watched")
        assert (answer.code, answer.out) == (1, "")
        assert "watched: O9 only watches this flow; " in answer.err
    assert wishes("watched") == []
    told = o9("cancel", "watched").out
    assert told.startswith("watched: running; O9 only watches it; ")
    assert wishes("watched") == [("cancel", who())]
    assert "run it again in Prefect" in o9("retry", "watched").err


def test_on_postgresql_too(o9: O9Command, postgres_url: str) -> None:
    with Store(postgres_url) as store:
        create(store, "one")
        create(store, "two")
        work(store, "two", 1)
        store.write(Heartbeat("node-1", "another-host", 7, 1.0, 30.0, {"limit": 10}))
    here = ("--store", postgres_url)
    assert o9("pause", "one", *here).out == "one: paused\n"
    assert o9("resume", "one", *here).out == "one: queued; it starts when a slot is free\n"
    assert "two: running; it will pause when its step is committed" in o9("pause", "two", *here).out
    assert o9("cancel", "one", "two", "--json", *here).json()[1]["outcome"] == "asked"
    assert [row["intent"] for row in o9("show", "two", "--json", *here).json()["intents"]] == ["pause", "cancel"]
    assert o9("retry", "one", "--id", "again", *here).code == 0
    assert [state["status"] for state in o9("list", "--json", *here).json()] == ["created", "running", "cancelled"]


# Waiting


Later = Callable[[Callable[[Store], Any]], threading.Thread]


@pytest.fixture
def later(wait_until: Callable[..., Any]) -> Later:
    """Starts a thread that acts once somebody has asked something of `busy-1`."""

    def start(action: Callable[[Store], Any]) -> threading.Thread:
        before = len(wishes("busy-1"))

        def run() -> None:
            wait_until(lambda: len(wishes("busy-1")) > before)
            with Store("optimization_state.db") as store:
                action(store)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return start


def to(status: OptimizationStatus) -> Callable[[Store], Any]:
    return lambda store: store.write(Transition("busy-1", status, Cause.HOOK))


def test_waiting_ends_when_the_wish_is_carried_out(o9: O9Command, filled: Path, later: Later) -> None:
    thread = later(to(OptimizationStatus.PAUSED))
    answer = o9("pause", "busy-1", "paused-1", "--wait", "--timeout", "20")
    thread.join()
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == "busy-1: paused"
    thread = later(lambda store: work(store, "busy-1", 0))
    answer = o9("resume", "busy-1", "--wait", "--timeout=20", "--json")
    thread.join()
    assert answer.code == 0
    (row,) = answer.json()
    assert (row["outcome"], row["status"] in ("initializing", "running")) == ("done", True)
    thread = later(to(OptimizationStatus.CANCELLED))
    assert o9("cancel", "--wait", "busy-1").code == 0
    thread.join()


def test_waiting_too_long_or_for_what_never_comes_is_code_1(o9: O9Command, filled: Path, later: Later) -> None:
    began = time.monotonic()
    answer = o9("pause", "busy-1", "--wait", "--timeout", "0.5")
    assert 0.5 <= time.monotonic() - began < 15.0
    assert (answer.code, "still running after 0.5 s" in answer.err) == (1, True)
    assert o9("resume", "busy-1").code == 0
    thread = later(to(OptimizationStatus.COMPLETED))
    answer = o9("pause", "busy-1", "--wait", "--timeout", "20", "--json")
    thread.join()
    assert answer.code == 1
    assert answer.json()[0]["outcome"] == "too late"
    assert "it ended as completed before it could pause" in answer.err


def test_ctrl_c_stops_the_waiting_and_not_the_wish(filled: Path) -> None:
    waiter = zygote.start([*O9, "pause", "busy-1", "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert waiter.stdout is not None
    assert waiter.stdout.readline().startswith("busy-1: running")
    time.sleep(0.3)
    waiter.send_signal(2)
    _, err = waiter.communicate(timeout=20)
    assert (waiter.returncode, len(err.splitlines())) == (130, 1)
    assert [intent for intent, _ in wishes("busy-1")] == ["pause"]


# Again


def test_retry_begins_where_it_is_told_to(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        create(store, "origin", metadata={"objective": "branin", "seed": 3})
        work(store, "origin", 2, "failed")
    answer = o9("retry", "origin", "--id", "second life")
    assert (answer.code, answer.err) == (0, "")
    assert "second life: queued; it continues after step 2 of origin, with its trials" in answer.out
    assert "o9 resume --here 'second life'" in answer.out
    assert "Next: o9 watch 'second life'" in answer.out
    assert [trial["step"] for trial in o9("trials", "second life", "--json").json()] == [0, 0, 1, 1]
    state = o9("retry", "origin", "--from-step", "0", "--json").json()
    assert (state["status"], state["completed_steps"], state["metadata"]["seed"]) == ("created", 0, 3)
    assert o9("trials", state["optimization_id"], "--json").json() == []


def test_what_retry_refuses(o9: O9Command, filled: Path) -> None:
    refusals = {
        ("busy-1",): "'busy-1' is running",
        ("done-1", "--from-step", "3"): "metadata.retry_from_step",
        ("done-1", "--from-step", "9"): "metadata.retry_from_step",
        ("done-1", "--id", "busy-1"): "'busy-1' already exists",
        ("done-2",): "did you mean done-1?",
        ("done-1", "--id", "a/b"): "optimization_id",
    }
    for arguments, told in refusals.items():
        answer = o9("retry", *arguments)
        assert (answer.code, answer.out) == (1, ""), arguments
        assert told in answer.err
        assert len(answer.err.splitlines()) == 1
    assert len(o9("list", "--json").json()) == 4


# Processes


def test_no_control_command_imports_prefect(filled: Path) -> None:
    run_without(("prefect",), ["pause", "busy-1"], ["resume", "paused-1"], ["cancel", "busy-1"], ["retry", "done-1"])


def test_everybody_asks_at_once_and_all_of_it_is_recorded(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        store.write(Create(new_optimization({"optimization_id": "one", "metadata": {"objective": "branin"}})))
    asking = [zygote.start([*O9, command, "one"], stdout=subprocess.PIPE) for command in ["pause", "resume"] * 3]
    assert {process.wait(60) for process in asking} == {0}
    for process in asking:
        process.communicate()
    assert status_of("one") in ("paused", "created")

"""Commands that read: what they print, as text and as JSON, what they refuse, and what they never import or create."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import O9, O9Command, command_in, create, filled_store, run_without, work

from o9.cli.main import root
from o9.lifecycle.processes import PROCESS, identity
from o9.lifecycle.submission import record_refused
from o9.mirror.spool import Spool
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationStatus, TrialState
from o9.model.trial import Trial
from o9.store.migrations import HEAD
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Heartbeat
from o9.store.store import Store
from o9.text import escape


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


# What is printed


def test_list_is_newest_first_and_narrowed(o9: O9Command, filled: Path) -> None:
    names = [line.split()[0] for line in o9("list").out.splitlines()[2:]]
    assert names == ["waiting-1", "paused-1", "busy-1", "done-1"]
    assert [one["optimization_id"] for one in o9("list", "--json").json()] == names
    assert [one["optimization_id"] for one in o9("list", "--json", "--status", "paused").json()] == ["paused-1"]
    several = o9("list", "--json", "--status", "paused", "--status", "running").json()
    assert [one["optimization_id"] for one in several] == ["paused-1", "busy-1"]
    assert o9("list", "--json", "--type", "risk_optimization").json() == []
    limited = o9("list", "--limit", "2")
    assert len(limited.out.splitlines()) == 4
    assert "there are more" in limited.err
    assert len(o9("list", "--json", "--limit", "3").json()) == 3
    assert len(o9("list", "--json", "--limit", str(2**63)).json()) == 4
    assert len(o9("trials", "done-1", "--json", "--limit", str(2**63)).json()) == 6


def test_list_json_has_the_fields_and_reads_every_page(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        for number in range(603):
            create(store, f"many-{number}")
    found = o9("list", "--json").json()
    assert len({one["optimization_id"] for one in found}) == 603
    assert set(found[0]) == {*OptimizationState.__dataclass_fields__, "grade"}


def test_show_tells_the_whole_story(o9: O9Command, filled: Path) -> None:
    text = " ".join(o9("show", "done-1").out.split())
    for told in (
        "completed",
        "(3 of 3 steps)",
        "2.0000 (higher is better)",
        "best trial 4",
        "x = 2",
        "6 (3 failed)",
        "submission",
        "run-1",
        "as told",
    ):
        assert told in text
    document = o9("show", "done-1", "--json").json()
    assert set(OptimizationState.__dataclass_fields__) <= set(document)
    assert document["status"] == "completed"
    assert document["best_trial"] == 4
    assert document["trial_counts"] == {"completed": 3, "failed": 3}
    assert [row["to_status"] for row in document["transitions"]] == ["created", "initializing", "running", "completed"]


def test_trials_json_is_the_whole_ledger_in_order(o9: O9Command, filled: Path) -> None:
    trials = o9("trials", "done-1", "--json").json()
    assert [trial["number"] for trial in trials] == list(range(6))
    assert set(trials[0]) == set(Trial(0, 0, TrialState.FAILED, {}).to_dict())
    assert [trial["number"] for trial in o9("trials", "done-1", "--json", "--limit", "2").json()] == [4, 5]
    assert o9("trials", "waiting-1", "--json").json() == []


def test_logs_of_a_trial_that_is_not_there_are_an_error(o9: O9Command, filled: Path) -> None:
    assert o9("logs", "done-1", "--trial", "5").code == 0
    answer = o9("logs", "done-1", "--trial", "99")
    assert (answer.code, answer.err) == (1, "o9: done-1 has no trial 99; its trials are 0 to 5\n")
    assert "it has none yet" in o9("logs", "waiting-1", "--trial", "0").err


def test_list_is_filtered_and_sorted(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        create(store, "b-1", name="Beta", metadata={"objective": "desk:edge"}, baseline_performance=1.0)
        create(store, "a-1", name="alpha", metadata={"objective": "branin"}, baseline_performance=4.0)
        create(store, "c-1", name="gamma", metadata={"objective": "branin", "series": "nightly"})
        work(store, "b-1", 2, "completed")
        work(store, "a-1", 3, "failed")

    def ids(*arguments: str) -> list[str]:
        return [one["optimization_id"] for one in o9("list", "--json", *arguments).json()]

    assert ids() == ["c-1", "a-1", "b-1"]
    assert ids("--name", "ALPH") == ["a-1"]
    assert ids("--objective", "desk") == ["b-1"]
    assert ids("--since", "1h") == ["c-1", "a-1", "b-1"]
    assert ids("--since", "2999-01-31") == []
    assert ids("--sort", "name") == ["a-1", "b-1", "c-1"]
    assert ids("--sort", "best") == ["a-1", "b-1", "c-1"]  # what has none comes last
    assert ids("--sort", "ended", "--limit", "1") == ["a-1"]
    assert ids("--family", "nobody's") == []
    assert ids("--series", "nightly") == ["c-1"]
    soon = o9("list", "--since", "soon")
    assert (soon.code, "7d" in soon.err) == (2, True)
    assert o9("list", "--sort", "luck").code == 2
    assert "no optimization matches" in o9("list", "--status", "paused").err


def test_a_series_has_its_changes_in_json_too(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        for name, steps in (("first", 2), ("second", 4)):
            create(store, name, metadata={"objective": "branin", "series": "nightly"})
            work(store, name, steps, "completed")

    def changes(*options: str) -> list[tuple[str, float | None]]:
        found = o9("list", "--series", "nightly", "--json", *options).json()
        return [(each["optimization_id"], each["change"]) for each in found]

    assert changes() == [("second", 2.0), ("first", None)]
    assert changes("--limit", "1") == [("second", 2.0)]
    assert changes("--sort", "best") == [("second", 2.0), ("first", None)]
    assert "+2.0000" in o9("list", "--series", "nightly", "--sort", "best").out


def test_what_was_refused_is_mended_and_not_retried(o9: O9Command) -> None:
    refusal = OptimizationValidationError("metadata.objective", "no module named 'desk'")
    with Store("optimization_state.db") as store:
        name = asyncio.run(record_refused(store, {"metadata": {"objective": "desk:carry"}}, refusal, "a-run"))
    told = o9("show", name).out
    assert (f"o9 open {name}" in told, "o9 retry" in told) == (True, False), told
    assert o9("retry", name).code == 1


def test_trials_are_sorted_and_printed_as_csv(o9: O9Command, filled: Path) -> None:
    def numbers(*arguments: str) -> list[int]:
        return [trial["number"] for trial in o9("trials", "done-1", "--json", *arguments).json()]

    assert numbers("--top", "2") == numbers("--sort", "value", "--limit", "2") == [4, 2]
    assert numbers("--sort", "value") == [4, 2, 0, 1, 3, 5]
    assert len(numbers("--sort", "time", "--limit", "3")) == 3
    heading, *rows = o9("trials", "done-1", "--csv", "--top", "1").out.splitlines()
    assert {"number", "value", "parameter.x", "metric.turnover"} <= set(heading.split(","))
    assert [row.split(",")[1] for row in rows] == ["4"]
    assert o9("trials", "done-1", "--csv", "--json").code == 2
    assert o9("trials", "done-1", "--top", "2", "--limit", "3").code == 2


def test_the_beginning_of_an_id_will_do(o9: O9Command, filled: Path) -> None:
    with Store(str(filled)) as store:
        create(store, "done-11")
        create(store, "done-10")
    assert o9("show", "bus", "--json").json()["optimization_id"] == "busy-1"
    assert o9("show", "done-1", "--json").json()["optimization_id"] == "done-1"  # whole, though others begin so
    ambiguous = o9("show", "done-")
    assert ambiguous.code == 1
    assert "several ids: done-10, done-11, done-1;" in ambiguous.err
    assert o9("pause", "wait", "--json").json()[0]["id"] == "waiting-1"


def test_ids_are_completed(filled: Path) -> None:
    environment = {**os.environ, "_O9_COMPLETE": "complete_bash", "COMP_WORDS": "o9 show pa", "COMP_CWORD": "2"}
    told = subprocess.run(
        [sys.executable, *O9], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == ["paused-1"]


def test_quiet_leaves_remarks_out_and_keeps_errors(o9: O9Command, filled: Path) -> None:
    assert o9("list", "--limit", "1").err
    assert o9("list", "--limit", "1", "--quiet").err == ""
    assert o9("-q", "list", "--limit", "1").err == ""
    assert o9("show", "nobody", "-q").err


def test_trials_shows_the_last_and_the_best(o9: O9Command, filled: Path) -> None:
    answer = o9("trials", "done-1", "--limit", "1")
    rows = [line for line in answer.out.splitlines()[2:] if line.strip()]
    assert rows[0].split()[:2] == ["★", "4"]
    assert rows[1].split()[:3] == ["5", "2", "failed"]
    assert "the last 1 of 6" in answer.err
    assert "no trials yet" in o9("trials", "waiting-1").err


def test_the_store_is_named_by_option_or_environment(o9: O9Command, filled: Path, set_o9: Callable[..., None]) -> None:
    filled.rename("other.db")
    assert o9("list").code == 1
    assert len(o9("list", "--json", "--store", "other.db").json()) == 4
    set_o9(store_url="other.db")
    assert len(o9("list", "--json").json()) == 4
    assert "--store other.db" in o9("show", "busy-1", "--store", "other.db").out


# What is refused


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["show", "a"],
        ["trials", "a"],
        ["watch", "a"],
        ["db", "check"],
        ["db", "upgrade"],
        ["db", "backup", "b"],
    ],
)
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_store_that_is_not_there_is_named_and_not_created(
    o9: O9Command, command: list[str], json_option: list[str]
) -> None:
    answer = o9(*command, *json_option)
    assert (answer.code, answer.out) == (1, "")
    assert "the store optimization_state.db does not exist; create one with `o9 demo`" in answer.err
    assert list(Path().iterdir()) == []


def test_stores_that_are_none_are_left_as_they_are(o9: O9Command) -> None:
    Path("text.db").write_text("not a database, but rather long for a line of text")
    Path("empty.db").touch()
    Path("folder").mkdir()
    with sqlite3.connect("foreign.db") as foreign:
        foreign.execute("CREATE TABLE ledger (a)")
    foreign.close()
    before = {path: path.read_bytes() for path in Path().glob("*.db")}
    refusals = {
        "text.db": "not a SQLite file",
        "empty.db": "is empty",
        "folder": "is a folder",
        "foreign.db": "another program",
        "no/where.db": "does not exist",
        "ftp://x": "ftp://",
    }
    for name, told in refusals.items():
        answer = o9("list", "--store", name)
        assert answer.code == 1
        assert told in answer.err
        assert len(answer.err.splitlines()) == 1
        assert "Traceback" not in answer.err
    assert {path: path.read_bytes() for path in Path().glob("*.db")} == before


@pytest.mark.parametrize("typed", ["done-2", "DONE-1", "don-1"])
def test_an_unknown_id_gets_suggestions(o9: O9Command, filled: Path, typed: str) -> None:
    for command in ("show", "trials", "watch"):
        answer = o9(command, typed)
        assert answer.code == 1
        assert f"there is no optimization {typed!r}" in answer.err
        assert "did you mean done-1" in answer.err


@pytest.mark.parametrize("words", [[], ["alerts"], ["db"]])
def test_without_a_command_there_is_the_help_as_it_stands(o9: O9Command, words: list[str]) -> None:
    answer, help_ = o9(*words), o9(*words, "--help")
    assert (answer.code, answer.out, answer.err.strip()) == (2, "", help_.out.strip())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bogus"], "no such command 'bogus'"),
        (["show"], "missing argument 'ID'"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--status", "urgent"], "'urgent' is not one of 'created'"),
        (["list", "--nonsense"], "--nonsense"),
        (["run"], "missing argument"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(o9: O9Command, arguments: list[str], told: str) -> None:
    answer = o9(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("o9: ")
    assert told in answer.err
    assert "--help`)" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_setting_that_cannot_be_read_is_named(o9: O9Command, filled: Path, set_o9: Callable[..., None]) -> None:
    set_o9(lease_seconds="soon")
    answer = o9("list")
    assert answer.code == 1
    assert all(each in answer.err for each in ("O9_LEASE_SECONDS", "'soon'"))


def test_debug_shows_the_traceback(o9: O9Command) -> None:
    assert "Traceback" not in o9("list").err
    answer = o9("list", "--verbose")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert answer.err.splitlines()[-1].startswith("o9: the store")


# db, doctor, version and help


def test_db_upgrade_check_and_backup(o9: O9Command, filled: Path) -> None:
    assert "already" in o9("db", "upgrade").out
    assert o9("db", "check").out == "optimization_state.db: ok\n"
    assert o9("db", "check", "--json").json()["findings"] == []
    backup = o9("db", "backup", "copy.db", "--json").json()
    assert backup["bytes"] == Path("copy.db").stat().st_size
    assert len(o9("list", "--json", "--store", "copy.db").json()) == 4
    again = o9("db", "backup", "copy.db")
    assert again.code == 1
    assert "exists already" in again.err


def test_db_check_says_what_is_damaged(o9: O9Command, filled: Path) -> None:
    with sqlite3.connect(filled) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_trial_family'").fetchone()
    connection.close()
    with filled.open("r+b") as file:
        file.seek((root - 1) * page_size + 8)
        file.write(b"\xff" * 64)
    answer = o9("db", "check")
    assert answer.code == 1
    assert "damaged" in answer.out + answer.err


def test_doctor_finds_nothing_wrong_and_creates_nothing(o9: O9Command) -> None:
    answer = o9("doctor", "--json")
    document = answer.json()
    assert (answer.code, document["ok"]) == (0, True), answer.out
    assert {"python", "o9", "prefect", "store", "disk", "folder", "prefect server"} <= {
        f["name"] for f in document["findings"]
    }
    assert list(Path().iterdir()) == []


def test_doctor_names_problems_with_remedies_and_keeps_secrets(o9: O9Command, set_o9: Callable[..., None]) -> None:
    Path("folder").mkdir()
    set_o9(store_url="postgresql://me:hush@localhost:1/none", lease_second=3)
    answer = o9("doctor", "--store", "folder")
    assert answer.code == 1
    assert "folder is a folder" in answer.out
    assert "did you mean O9_LEASE_SECONDS?" in answer.out
    assert "hush" not in answer.out
    set_o9(log_level="LOUD")
    unreadable = o9("doctor", "--store", "x.db", "--json")
    assert unreadable.code == 1
    assert any("O9_LOG_LEVEL: 'LOUD'" in finding["detail"] for finding in unreadable.json()["findings"])


def test_doctor_counts_what_waits_to_be_written(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        create(store, "large", description="x" * 3_000_000)
        assert Path("optimization_state.db").stat().st_size < 2 * 2**20
        (told,) = [each["detail"] for each in o9("doctor", "--json").json()["findings"] if each["name"] == "store"]
    size = float(told.partition(f"schema {HEAD}, ")[2].partition(" MiB")[0])
    assert size >= 3.0


def test_doctor_looks_at_the_file_of_alerts(o9: O9Command, set_o9: Callable[..., None]) -> None:
    Path("alerts.yaml").write_text("route: {receiver: nobody, group_wait: soon}\n", encoding="utf-8")
    lists = "2 faults → `o9 alerts config check alerts.yaml` lists them"
    for file, said in (("alerts.yaml", lists), ("gone.yaml", "gone.yaml: No such file")):
        set_o9(alerts_file=file)
        answer = o9("doctor")
        assert answer.code == 1
        assert said in " ".join(answer.out.split())
    Path("gone.yaml").write_text("route: {receiver: default}\n", encoding="utf-8")
    answer = o9("doctor")
    assert answer.code == 0
    assert "gone.yaml has no fault" in answer.out


def test_doctor_shows_what_a_store_refused(o9: O9Command, filled: Path, set_o9: Callable[..., None]) -> None:
    set_o9(spool_folder=Path("spool").absolute())
    spool = Spool(str(filled))
    spool.append(Transition("nobody", OptimizationStatus.RUNNING, Cause.HOOK))
    with Store(str(filled)) as store:
        assert spool.deliver(store) == 1
    (refused,) = Path("spool").absolute().iterdir()
    answer = o9("doctor", "--json")
    assert answer.code == 0
    (found,) = [finding for finding in answer.json()["findings"] if finding["name"] == "spool"]
    assert found["level"] == "warning"
    assert str(refused) in found["detail"]
    assert "'nobody'" in found["detail"]
    assert str(refused.with_suffix(".jsonl")) in found["remedy"]


def test_doctor_sees_that_nothing_can_be_kept(o9: O9Command, set_o9: Callable[..., None]) -> None:
    Path("file").touch()
    set_o9(spool_folder=Path("file/spool").absolute())
    answer = o9("doctor", "--json")
    assert answer.code == 1
    (found,) = [each for each in answer.json()["findings"] if each["name"] == "spool folder"]
    assert found["level"] == "problem"


def test_doctor_and_show_know_work_whose_process_is_gone(o9: O9Command, filled: Path) -> None:
    with Store(str(filled)) as store:
        store.write(Heartbeat("node-1", os.uname().nodename, 2**22 + 1, 1.0, 30.0, {PROCESS: identity(os.getpid())}))
    answer = o9("doctor")
    assert answer.code == 0
    assert "busy-1" in answer.out
    assert "o9 resume --here busy-1" in answer.out


def test_what_a_dead_node_holds_is_not_shown_as_running(o9: O9Command, filled: Path) -> None:
    assert "running?" not in o9("list").out
    with Store(str(filled)) as store:
        store.write(Heartbeat("node-1", "another-host", 7, 1.0, 30.0))
        assert "running?" not in o9("list").out
        with sqlite3.connect(filled) as connection:
            connection.execute("UPDATE node SET heartbeat_at = heartbeat_at - 100")
        connection.close()
    answer = o9("list")
    assert "running?" in answer.out
    assert "its node node-1 has been gone since " in answer.err
    assert "o9 resume --here busy-1" in answer.err
    assert "running?, its node node-1 has been gone since " in o9("show", "busy-1").out
    assert "Next: o9 resume --here busy-1" in o9("show", "busy-1").out


def test_doctor_says_which_store_counts(o9: O9Command, filled: Path) -> None:
    assert "--store" not in o9("doctor").out
    told = " ".join(o9("doctor", "--store", "other.db").out.split())
    assert "optimization_state.db (default; --store overrides it here)" in told


AWKWARD_IDS = ("my id's", "横截面 🚀", '"quoted"', "a;rm -rf *", "tab\u200eless", "\u202egnp.exe")


@pytest.mark.parametrize("name", AWKWARD_IDS)
def test_what_is_suggested_can_be_typed_and_steers_no_terminal(o9: O9Command, name: str) -> None:
    with Store("optimization_state.db") as store:
        create(store, name, name=f"named {name}", description=f"described {name}")
    pages = [o9("list"), o9("show", "--", name), o9("trials", "--", name), o9("list", "--json"), o9("show", name + "x")]
    told = "".join(answer.out + answer.err for answer in pages)
    assert not any(character in told for character in "\u202e\u200e")
    suggested = next(line for line in pages[1].out.splitlines() if line.startswith("Next: "))
    command = suggested.removeprefix("Next: ").partition("   ")[0]
    assert o9("list", "--json").json()[0]["optimization_id"] == name
    if name == escape.shown(name):  # else it shows what cannot be typed
        assert shlex.split(command)[-1] == name


def test_version_and_help(o9: O9Command) -> None:
    answer = o9("--version")
    assert (answer.code, answer.out[:3]) == (0, "o9 ")
    told = o9("--help").out
    assert told.splitlines()[2].startswith("  Optimize trading strategies")
    assert [line for line in told.splitlines() if line in ("Run:", "Inspect:", "Judge:", "Operate:")] == [
        "Run:",
        "Inspect:",
        "Judge:",
        "Operate:",
    ]


def _leaves(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, *path, name)
        else:
            yield *path, name


@pytest.mark.parametrize("command", list(_leaves(root())), ids=" ".join)
def test_each_command_has_a_page_of_help_without_types_of_python(o9: O9Command, command: tuple[str, ...]) -> None:
    answer = o9(*command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: o9 {' '.join(command)} [OPTIONS]")
    assert "--quiet" in answer.out
    assert not re.search(r"<\w+|\[\[|None", answer.out)


# Processes


def test_reading_never_imports_prefect(filled: Path) -> None:
    run_without(
        ("prefect",), ["--version"], ["list"], ["show", "done-1", "--json"], ["trials", "done-1"], ["watch", "done-1"],
        ["db", "check"],
    )  # fmt: skip


def test_help_imports_next_to_nothing() -> None:
    script = "import sys; from o9.cli.main import main; main(['--help']); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"prefect", "sqlalchemy", "sqlmodel", "optuna", "numpy", "pydantic", "rich", "yaml", "asyncio"}
    assert not heavy & set(told.stdout.splitlines()[-1].split())


HELP_OF_ALL = """
import sys
sys.argv.append("--help")
from o9.cli.main import COMMANDS, main

def commands_in(named, *before):
    for name, command in named.items():
        if isinstance(command.of, str):
            yield [*before, name]
        else:
            yield from commands_in(command.of, *before, name)

for typed in [typed for panel in COMMANDS.values() for typed in commands_in(panel)]:
    assert main([*typed, "--help"]) == 0, typed
print(*sys.modules)
"""


def test_help_of_a_command_imports_no_store() -> None:
    told = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    heavy = {"prefect", "sqlalchemy", "sqlmodel", "optuna", "numpy", "rich", "yaml", "o9.store"}
    assert not heavy & set(told.stdout.splitlines()[-1].split())


def test_a_reader_that_has_had_enough_is_no_error(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        for number in range(400):
            create(store, f"many-{number}", description="x" * 1000)
    script = "set -o pipefail; " + " ".join([sys.executable, *O9]) + " list --json | head -c 100 > head; echo $?"
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (told.stdout, told.stderr) == ("0\n", "")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_plain_where_no_terminal_is(filled: Path, environment: dict[str, str]) -> None:
    told = subprocess.run(
        [sys.executable, *O9, "show", "done-1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert "\x1b[3" not in told.stdout
    if not environment:
        assert "\x1b" not in told.stdout
        assert all(line == line.rstrip() for line in told.stdout.splitlines())


def test_names_survive_a_terminal_without_utf_8(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        create(store, "wide-1", name="横截面排序 🚀")
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    told = subprocess.run(
        [sys.executable, *O9, "list"], capture_output=True, text=True, timeout=60, env=plain, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert "wide-1" in told.stdout

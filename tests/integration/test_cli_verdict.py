"""The verdict through the command line: the same grade, reason and figures in every command, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import O9Command, command_in, create, filled_store, work
from sqlalchemy import Connection
from verdicts import keep_verdict, verdict

from o9.health.grades import Grade
from o9.health.wording import forecast_sentence, headline
from o9.store import queries
from o9.store.core.unit import Row
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


@pytest.mark.parametrize("grade", Grade)
def test_the_commands_that_read_say_one_verdict(o9: O9Command, filled: Path, grade: Grade) -> None:
    made = verdict(grade)
    with Store("optimization_state.db") as store:
        keep_verdict(store, "done-1", made)
    listed = {one["optimization_id"]: one["grade"] for one in o9("list", "--json").json()}
    assert listed == {"done-1": grade.value, "busy-1": None, "paused-1": None, "waiting-1": None}
    shown = o9("show", "done-1", "--json").json()
    assert (shown["grade"], shown["verdict"]) == (grade.value, made.to_dict())
    for command in (["show", "done-1"], ["watch", "done-1"]):
        text = " ".join(o9(*command).out.split())
        assert headline(made) in text
        assert forecast_sentence(made)[1:] in text
    (report,) = o9("health", "--json").json()
    assert (report["grade"], report["verdict"]) == (grade.value, made.to_dict())
    assert grade.value in o9("health").out.splitlines()[2].split()
    row = next(line.split() for line in o9("list").out.splitlines() if line.startswith("done-1"))
    assert grade.value in row


def test_what_was_judged_before_it_moved_on_is_no_verdict_on_it_now(o9: O9Command, filled: Path) -> None:
    with Store("optimization_state.db") as store:
        create(store, "moved")
        fence = work(store, "moved", 2)
        keep_verdict(store, "moved", verdict())
        store.write(Transition("moved", store.read(queries.get, "done-1").status, Cause.HOOK, fence=fence))
    assert o9("show", "moved", "--json").json()["verdict"] is None
    assert {one["grade"] for one in o9("list", "--json").json()} == {None}
    assert "not judged yet; `o9 health moved` judges it" in o9("show", "moved").out


def test_one_that_failed_has_no_result_in_a_list(o9: O9Command) -> None:
    with Store("optimization_state.db") as store:
        create(store, "failed-1")
        work(store, "failed-1", 2, "failed")
        keep_verdict(store, "failed-1", verdict(Grade.UNPROVEN))
    assert [one["grade"] for one in o9("list", "--json").json()] == [None]
    assert "unproven" not in o9("list").out


def test_a_list_reads_its_verdicts_page_by_page(o9: O9Command, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = queries.health_verdicts

    def counted(connection: Connection, ids: Sequence[str]) -> dict[str, Row]:
        read.append(len(ids))
        return original(connection, ids)

    monkeypatch.setattr(queries, "health_verdicts", counted)
    with Store("optimization_state.db") as store:
        for number in range(603):
            create(store, f"many-{number}")
        keep_verdict(store, "many-1", verdict(Grade.LOST))
    assert [one["grade"] for one in o9("list", "--json").json()].count("lost") == 1
    assert read == [500, 103]
    assert "lost" not in o9("list", "--limit", "9").out
    assert read[2:] == [10]

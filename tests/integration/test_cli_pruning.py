"""`o9 db prune`: what it announces, the question, what it deletes, and what it refuses."""

from __future__ import annotations

import io
import sqlite3
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import O9Command, command_in, create, filled_store, work

from o9.model.optimization import utc_now
from o9.store.optimizations.prefect_runs import CloseRun, RegisterRun
from o9.store.store import Store

DAY = "1.5"


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    """Beside what is under way one that completed and one that failed, both two days ago."""
    path = filled_store()
    with Store(str(path)) as store:
        create(store, "failed-1")
        work(store, "failed-1", 2, "failed")
        create(store, "last")
    make_old(path)
    return path


def make_old(path: Path) -> None:
    """As if all that have ended had done so two days ago, one after the other."""
    with sqlite3.connect(path) as direct:
        ended = direct.execute("SELECT optimization_id FROM optimization WHERE completed_at IS NOT NULL ORDER BY 1")
        for number, (name,) in enumerate(ended.fetchall()):
            at = (utc_now() - timedelta(days=2, seconds=-number)).isoformat(timespec="microseconds")
            direct.execute("UPDATE optimization SET completed_at = ? WHERE optimization_id = ?", (at, name))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def names(o9: O9Command) -> set[str]:
    return {one["optimization_id"] for one in o9("list", "--json").json()}


def test_it_says_what_goes_and_deletes_it(o9: O9Command, filled: Path) -> None:
    before = names(o9)
    planned = o9("db", "prune", "--older-than", DAY, "--dry-run")
    assert (planned.code, planned.err, names(o9)) == (0, "", before)
    assert "2 optimizations that ended before" in planned.out
    assert "1 completed, 1 failed" in planned.out
    done = o9("db", "prune", "--older-than", DAY, "--yes")
    assert done.code == 0
    assert "2 optimizations that ended before" in done.err
    assert done.out.startswith("deleted: 2 optimizations with ")
    assert names(o9) == before - {"done-1", "failed-1"}
    assert "there is no optimization 'done-1'" in o9("show", "done-1").err
    again = o9("db", "prune", "--older-than", DAY, "--yes", "--json").json()
    assert (again["optimizations"], again["deleted"]["optimizations"], again["kept"]) == (0, 0, {})
    assert "nothing to delete" in o9("db", "prune", "--older-than", DAY, "--yes").err
    statistics = o9("stats", "--json").json()
    assert (statistics["pruned_optimizations"], statistics["success_rate"]) == (2, 0.5)


def test_the_plan_and_the_deed_as_json(o9: O9Command, filled: Path) -> None:
    planned = o9("db", "prune", "--older-than", DAY, "--dry-run", "--json").json()
    assert planned["deleted"] is None
    assert (planned["optimizations"], planned["by_status"]) == (2, {"completed": 1, "failed": 1})
    assert planned["first_ended"] < planned["last_ended"] < planned["before"]
    with Store(str(filled)) as store:
        store.write(RegisterRun("run-9", "failed-1", 1))
    done = o9("db", "prune", "--older-than", DAY, "--yes", "--json").json()
    assert (done["optimizations"], done["kept"], done["deleted"]["kept"]) == (1, {"open_run": 1}, {"open_run": 1})
    with Store(str(filled)) as store:
        store.write(CloseRun("run-9"))
    done = o9("db", "prune", "--older-than", DAY, "--yes", "--json").json()
    assert (done["deleted"]["optimizations"], done["deleted"]["rows"] > 10, done["older_than_days"]) == (1, True, 1.5)


@pytest.mark.parametrize(("typed", "left"), [("n\n", 2), ("y\n", 0)])
def test_on_a_terminal_it_asks(
    o9: O9Command, filled: Path, monkeypatch: pytest.MonkeyPatch, typed: str, left: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    answer = o9("db", "prune", "--older-than", DAY)
    assert answer.code == 0
    assert "Delete them permanently? [y/N]" in answer.err
    assert ("nothing was deleted" in answer.err) == bool(left)
    assert len(names(o9) & {"done-1", "failed-1"}) == left


def test_ctrl_c_at_the_question_deletes_nothing(o9: O9Command, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert o9("db", "prune", "--older-than", DAY).code == 130
    assert "done-1" in names(o9)
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert o9("db", "prune", "--older-than", DAY, "--yes").code == 0
    assert "done-1" not in names(o9)


def test_vacuum_gives_the_space_back(o9: O9Command, filled: Path) -> None:
    with Store(str(filled)) as store:
        create(store, "large", total_steps=400)
        work(store, "large", 400, "completed")
        create(store, "another")
    make_old(filled)
    done = o9("db", "prune", "--older-than", DAY, "--yes", "--vacuum", "--json").json()
    assert done["deleted"]["optimizations"] == 3
    assert done["bytes"] < done["bytes_before"] - 50_000
    assert done["bytes"] == filled.stat().st_size
    assert o9("db", "check").code == 0
    assert "bytes" in o9("db", "prune", "--older-than", DAY, "--yes", "--vacuum").err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 1, "use --older-than DAYS, or set O9_RETENTION_DAYS"),
        (["--older-than", "0"], 2, "0 days: must be greater than 0"),
        (["--older-than", "-1"], 2, "-1 days: must be greater than 0"),
        (["--older-than", "nan"], 2, "nan days: must be greater than 0"),
        (["--older-than", "0.000001"], 2, "use --yes to delete"),
        (["--older-than", "1", "--dry-run", "--vacuum"], 2, "--dry-run deletes nothing"),
        (["--older-than", "1", "--vacuum", "--store", "postgresql://nobody@localhost/x"], 2, "--vacuum is for SQLite"),
    ],
)
def test_what_it_refuses(o9: O9Command, filled: Path, options: list[str], code: int, words: str) -> None:
    answer = o9("db", "prune", *options)
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err
    assert "done-1" in names(o9)


def test_the_setting_says_what_is_old(o9: O9Command, filled: Path, set_o9: Callable[..., None]) -> None:
    def prune_with(days: str) -> Any:
        set_o9(retention_days=days)
        return o9("db", "prune", "--yes", "--json")

    assert prune_with("30").json()["optimizations"] == 0
    for wrong in ("-1", "nan", "soon"):
        refused = prune_with(wrong)
        assert (refused.code, "O9_RETENTION_DAYS" in refused.err, wrong in refused.err) == (1, True, True), refused.err
    assert prune_with(DAY).json()["deleted"]["optimizations"] == 2


def test_a_store_that_is_not_there_is_not_created(o9: O9Command) -> None:
    answer = o9("db", "prune", "--older-than", "1")
    assert (answer.code, "does not exist" in answer.err, list(Path().iterdir())) == (1, True, [])

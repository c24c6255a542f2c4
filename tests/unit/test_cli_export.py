"""`o9 export`: which file it writes, what it refuses, and that it needs no Prefect."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from command_line import O9Command, command_in, create, filled_store

from o9.store.store import Store

TRIALS_OF_DONE = 6


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    command = command_in(tmp_path, capsys, monkeypatch)
    filled_store()
    return command


def test_it_says_where_the_file_is(o9: O9Command) -> None:
    answer = o9("export")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{Path('o9-optimizations.csv').absolute()}\n"
    with Path("o9-optimizations.csv").open(encoding="utf-8", newline="") as file:
        assert {row["optimization_id"] for row in csv.DictReader(file)} == {
            "done-1", "busy-1", "paused-1", "waiting-1",
        }  # fmt: skip
    told = o9("export", "trials", "done-1", "--json").json()
    assert told["file"] == str(Path("o9-trials-done-1.csv").absolute())
    assert told["rows"] == TRIALS_OF_DONE
    assert {"optimization_id", "number", "value", "parameter.x", "metric.turnover"} <= set(told["columns"])


def test_another_id_never_gives_the_same_file(o9: O9Command) -> None:
    names = ("a/b", "a:b", "双均线", "-")
    with Store("optimization_state.db") as store:
        for name in names:
            create(store, name)
    files = {o9("export", "transitions", "--json", "--", name).json()["file"] for name in names}
    assert len(files) == len(names)
    assert {Path(file).parent for file in files} == {Path.cwd()}


def test_the_format_is_what_the_file_ends_in(o9: O9Command) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    told = o9("export", "-o", "a.parquet", "--json").json()
    assert len(pd.read_parquet(told["file"])) == told["rows"] == 4
    assert o9("export", "rankings", "--metric", "performance_improvement", "-o", "a.csv").code == 0
    assert Path("a.csv").read_text(encoding="utf-8").startswith("rank,optimization_id,value")


def test_csv_to_a_pipe(o9: O9Command) -> None:
    answer = o9("export", "optimizations", "-o", "-", "--status", "running")
    assert [row["optimization_id"] for row in csv.DictReader(io.StringIO(answer.out))] == ["busy-1"]
    assert sorted(path.name for path in Path().iterdir() if path.suffix in (".csv", ".parquet")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tables"], 2, "KIND"),
        (["trials"], 2, "ID"),
        (["rankings"], 2, "--metric"),
        (["statistics", "done-1"], 2, "ID"),
        (["optimizations", "--days", "3"], 2, "--days"),
        (["-o", "a.xlsx"], 1, ".parquet"),
        (["-o", "-", "--json"], 2, "-o -"),
        (["trials", "done-2"], 1, "done-1"),
        (["rankings", "--metric", "speed"], 1, "speed"),
        (["-o", "nowhere/a.csv"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_written_is_one_line(o9: O9Command, arguments: list[str], code: int, told: str) -> None:
    answer = o9("export", *arguments)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (code, "", 1)
    assert told in answer.err


def test_parquet_without_pyarrow_names_the_extra(o9: O9Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    answer = o9("export", "-o", "a.parquet")
    assert (answer.code, answer.out) == (1, "")
    assert "prefect-o9[parquet]" in answer.err
    assert not list(Path().glob("*.parquet"))

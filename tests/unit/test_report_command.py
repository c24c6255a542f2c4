"""`o9 report`: what it writes and where, what it refuses, and what it never imports."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest
from command_line import O9Command, command_in, create, filled_store, run_without
from traded import CHINESE, noise, trade

from o9.report.write import report_of, report_of_all
from o9.store.store import Store


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


def test_it_says_where_the_report_is(o9: O9Command, filled: Path) -> None:
    answer = o9("report", "done-1")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{Path('o9-report-done-1.html').resolve()}\n"
    assert "done-1" in Path("o9-report-done-1.html").read_text(encoding="utf-8")
    everything = o9("report", "--json").json()
    assert everything["report"] == str(Path("o9-report.html").resolve())
    assert everything["bytes"] == Path("o9-report.html").stat().st_size
    named = o9("report", "done-1", "busy-1", "done-1", "-o", "both.html", "--json").json()
    assert named["optimizations"] == ["done-1", "busy-1"]
    assert o9("report", "done-1", "--output", "both.html").code == 0  # written over


def test_what_cannot_be_written_or_read_is_one_line(o9: O9Command, filled: Path) -> None:
    Path("notes.html").write_text("mine", encoding="utf-8")
    for arguments, told in (
        (["done-2"], "did you mean done-1"),
        (["done-1", "nothing"], "there is no optimization 'nothing'"),
        (["done-1", "-o", "notes.html"], "notes.html: it exists, and is not an O9 report; name another file"),
        (["done-1", "-o", "nowhere/r.html"], "its folder does not exist"),
        (["--store", "none.db"], "none.db does not exist"),
        (["done-1", "-o", "/proc/r.html"], "/proc/r.html: "),
    ):
        answer = o9("report", *arguments)
        assert answer.code == 1
        assert told in answer.err
        assert len(answer.err.splitlines()) == 1
        assert answer.out == ""
    assert Path("notes.html").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in Path().iterdir() if path.suffix == ".html") == ["notes.html"]


def test_an_empty_store_is_a_report_of_nothing(o9: O9Command) -> None:
    Store("optimization_state.db").close()
    assert o9("report").code == 0
    assert "Nothing has ended yet" in Path("o9-report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["my id's", "动量/一号 🚀", "-dash", "\u202egnp"])
def test_an_awkward_id_has_a_file_of_its_own(o9: O9Command, name: str) -> None:
    with Store("optimization_state.db") as store:
        create(store, name)
    answer = o9("report", "--json", "--", name)
    assert answer.code == 0, answer.err
    assert Path(json.loads(answer.out)["report"]).parent == Path().resolve()
    assert "\u202e" not in answer.out


def test_it_is_shown_where_asked(o9: O9Command, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    assert o9("report", "done-1").code == 0
    assert shown == []
    assert o9("report", "done-1", "--open").code == 0
    assert shown == [Path("o9-report-done-1.html").resolve().as_uri()]


@pytest.mark.slow
def test_it_never_imports_prefect(filled: Path) -> None:
    run_without(("prefect", "plotly.graph_objects"), ["report", "done-1"], ["report"])


@pytest.mark.slow
def test_it_reads_postgresql_too(postgres_url: str) -> None:
    with Store(postgres_url) as store:
        trade(store, "one", noise(200), 40, name=CHINESE)
        for page in (report_of(store, ["one"]), report_of_all(store)):
            assert CHINESE in page
            assert "read from <bdi>postgresql" in page

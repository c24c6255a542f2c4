"""`stats`, `trends`, `rankings` and `health` on real stores: the same answers as from Python, refusals, exit codes."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import O9Command, command_in, create, filled_store, run_without, work

from o9.health import wording
from o9.health.checker import OptimizationHealthChecker
from o9.statistics.statistics import OptimizationStatistics
from o9.store.store import Store


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.fixture
def filled(o9: O9Command) -> Path:
    return filled_store()


def said(answer: Any) -> str:
    return " ".join(answer.out.split())


def test_json_is_what_python_answers(o9: O9Command, filled: Path) -> None:
    with Store(str(filled)) as store:
        statistics = OptimizationStatistics(store=store)
        ranking = asyncio.run(statistics.get_optimization_rankings("current_performance", 3))
        trends = asyncio.run(statistics.get_performance_trends(timedelta(hours=12)))
        stats = asyncio.run(statistics.get_global_statistics())
    assert o9("rankings", "current_performance", "-n", "3", "--json").json() == ranking
    assert o9("trends", "--days", "0.5", "--json").json() == trends
    told = o9("stats", "--json").json()
    assert told.keys() == stats.keys()
    told.pop("now")  # how long, at this moment
    stats.pop("now")
    assert told == stats


def test_stats_counts_and_says_what_runs_and_waits(o9: O9Command, filled: Path) -> None:
    told = said(o9("stats"))
    assert "4 optimizations: 1 active, 1 waiting" in told
    assert "Of 1 that ended: 100% completed, 0% failed or timed out, 0% cancelled" in told
    assert re.search(r"running 1 \d", told.partition("Now")[2])
    assert re.search(r"created 1 \d", told.partition("Now")[2])


def test_rankings_are_the_best_first_with_ties_and_without_a_metric_their_names(o9: O9Command, filled: Path) -> None:
    lines = o9("rankings", "current_performance").out.splitlines()[4:]
    assert [line.split()[:2] for line in lines if line.strip()] == [["1", "done-1"], ["2", "paused-1"]]
    assert o9("rankings", "--json").json()[0] == "current_performance"
    assert "current_performance" in o9("rankings").out


def test_trends_name_the_reason_where_there_is_no_slope(o9: O9Command, filled: Path) -> None:
    told = said(o9("trends"))
    assert "The last 7 days, by day (UTC): 2" in told
    assert "No slopes: 0 " in told


def test_health_judges_now_and_the_exit_code_is_asked_for(o9: O9Command, filled: Path) -> None:
    answer = o9("health", "done-1")
    assert answer.code == 0
    assert "health: critical, because of completeness (0.00)" in said(answer)
    assert o9("health", "done-1", "--exit-code").code == 3
    document = o9("health", "done-1", "--json").json()
    with Store(str(filled)) as store:
        checker = OptimizationHealthChecker(store=store)
        report = asyncio.run(checker.check_optimization_health("done-1")).to_dict()
        checks = asyncio.run(checker.get_health_checks("done-1"))
        verdict = asyncio.run(checker.get_verdict("done-1"))
    told = report | {"timestamp": None, "checks": checks} | wording.document(verdict)
    assert document | {"timestamp": None} == told
    with Store(str(filled)) as store:
        create(store, "fine", baseline_performance=1.0)
        work(store, "fine", 3, "completed")
    assert o9("health", "fine", "--exit-code").code == 3  # half of its trials failed
    with Store(str(filled)) as store:
        create(store, "new")
    assert o9("health", "new", "--exit-code").code == 0  # unknown is not critical


def test_health_lets_the_objective_run_where_it_is_asked_to(o9: O9Command, filled: Path) -> None:
    assert "Next: o9 health --evaluate done-1 " in o9("health", "done-1").out
    assert "Next" not in o9("health", "busy-1").out
    answer = o9("health", "--evaluate", "done-1")
    assert "Next" not in answer.out
    repeatable = next(
        c for c in o9("health", "done-1", "--json").json()["checks"] if c["name"] == "validity.repeatable"
    )
    assert "not re-evaluated" not in repeatable["words"]


def test_the_last_reports_are_listed_newest_first(o9: O9Command, filled: Path) -> None:
    for name in ("done-1", "paused-1", "busy-1"):
        o9("health", name)
    listed = [line.split() for line in o9("health").out.splitlines()[2:]]
    assert [row[0] for row in listed] == ["busy-1", "paused-1", "done-1"]
    assert "critical" in listed[2]
    with Store(str(filled)) as store:
        reports = asyncio.run(OptimizationHealthChecker(store=store).get_all_health_reports())
    said = o9("health", "--json").json()
    assert [{name: one[name] for name in reports[0].to_dict()} for one in said] == [one.to_dict() for one in reports]
    limited = o9("health", "--limit", "2")
    assert len(limited.out.splitlines()) == 4
    assert "there are more" in limited.err
    assert len(o9("health", "--json", "--limit", "1").json()) == 1


def test_before_anything_there_is_nothing_to_say(o9: O9Command) -> None:
    Store("optimization_state.db").close()
    for command in (["stats"], ["trends"], ["rankings"], ["rankings", "current_performance"], ["health"]):
        answer = o9(*command)
        assert (answer.code, answer.out) == (0, "")
        assert "yet" in answer.err
    assert o9("stats", "--json").json()["total_optimizations"] == 0
    assert o9("trends", "--json").json()["windows"] == []
    assert o9("rankings", "--json").json() == o9("health", "--json").json() == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["rankings", "curent_performance"], 1, "did you mean current_performance or"),
        (["rankings", "x" * 50], 1, "(`o9 rankings` lists "),
        (["rankings", "current_performance", "--limit", "0"], 2, "'--limit'"),
        (["rankings", "current_performance", "--limit", "1001"], 2, "less than or equal to 1000"),
        (["export", "rankings", "--metric", "current_performance", "--limit", "1001"], 2, "--limit: 1001"),
        (["trends", "--days", "0"], 2, "0 days: must be greater than 0"),
        (["trends", "--days", "-1"], 2, "-1 days: must be greater than 0"),
        (["trends", "--days", "nan"], 2, "nan days: must be greater than 0"),
        (["trends", "--days", "1e300"], 2, "at most 36600"),
        (["trends", "--days", "week"], 2, "valid number"),
        (["health", "done-2"], 1, "did you mean done-1?"),
        (["health", "--exit-code"], 2, "--exit-code requires an ID"),
        (["health", "--evaluate"], 2, "--evaluate requires an ID"),
        (["health", "done-1", "--limit", "3"], 2, "--limit"),
    ],
)
def test_bad_input_is_refused_with_what_there_is(
    o9: O9Command, filled: Path, command: list[str], code: int, said: str
) -> None:
    answer = o9(*command)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("command", [["stats"], ["trends"], ["rankings"], ["health"], ["health", "a"]])
def test_a_store_that_is_not_there_is_not_created(o9: O9Command, command: list[str]) -> None:
    answer = o9(*command, "--store", "other.db")
    assert (answer.code, answer.out) == (1, "")
    assert "the store other.db does not exist" in answer.err
    assert list(Path().iterdir()) == []


def test_reading_imports_no_prefect_and_is_plain_where_no_terminal_is(filled: Path) -> None:
    printed = run_without(
        ("prefect",), ["stats"], ["trends"], ["rankings", "current_performance"], ["health"], ["health", "done-1"],
        ["health", "--evaluate", "done-1"],
    )  # fmt: skip
    assert "\x1b" not in printed
    assert all(line == line.rstrip() for line in printed.splitlines())

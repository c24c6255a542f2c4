"""`run`, `submit`, `resume --here` and `demo` for real: processes, a Prefect server, Ctrl-C, exit codes, a terminal."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import o9_testing
import pytest
import zygote
from command_line import O9

from o9.cli.answers import who
from o9.cli.main import main
from o9.health.grades import Grade, GradeReason, Verdict
from o9.health.wording import GRADES, forecast_sentence, headline
from o9.model.dates import iso_dates
from o9.model.trial import Trial
from o9.store import queries
from o9.store.store import Store
from o9.text.format import number

pytestmark = pytest.mark.slow  # each starts processes that import Prefect
OBJECTIVES = """
import time
from OptimizationStateAggregator import Evaluation, Infeasible, objective

@objective("crossover-of-desk", search_space={"x": {"type": "float", "low": -5, "high": 5}})
def crossover(parameters):
    return -(parameters["x"] - 1) ** 2

def quick(parameters):
    print("said by the objective")
    return -(parameters["x"] - 1) ** 2

def measured(parameters):
    import numpy as np
    import pandas as pd
    from OptimizationStateAggregator import Evaluation

    days = pd.date_range("1990-01-02", periods=60, freq="B")
    returns = pd.Series(np.random.default_rng(1).normal(parameters["x"] / 1000, 0.01, 60), days)
    return Evaluation(parameters["x"], returns, 252, metrics={"turnover": round(parameters["x"], 3)})

def slow(parameters):
    time.sleep(0.05)
    return parameters["x"]

def broken(parameters):
    raise ValueError("the exchange was closed")

def sometimes_late(parameters):
    time.sleep(600 if parameters["x"] > 2 else 0.05)
    return parameters["x"]

def traded(parameters):
    import numpy as np
    market = np.random.default_rng(1).normal(0.001, 0.01, 250)
    own = market + np.random.default_rng(2).normal(parameters["x"] / 1e4, 0.001, 250)
    value = own.mean() / own.std() * 252**0.5
    return Evaluation(value, returns=own, baseline_returns=market, periods_per_year=252)

def never(parameters):
    raise Infeasible("fast >= slow")

def half(parameters):
    if parameters["x"] > 0:
        raise Infeasible("x > 0")
    return parameters["x"]
"""
DOUBTFUL = """
import numpy as np
from OptimizationStateAggregator import Evaluation, objective

MARKET = np.random.default_rng(1).normal(0.0002, 0.01, 300)

def evaluation(returns):
    return Evaluation(float(returns.mean() / returns.std()), returns=returns, periods_per_year=252)

@objective("ahead", truncatable=True)
def ahead(parameters, *, periods=None):
    known, days = MARKET[:periods], parameters["days"] + 1
    return evaluation(np.sign([known[i : i + days].sum() for i in range(len(known))]) * known)

@objective("dice")
def dice(parameters):
    return evaluation(np.random.default_rng().normal(0.0, 0.01, 300))
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "desk", raising=False)
    Path("desk.py").write_text(OBJECTIVES)


def entry(optimization_id: str, objective: str = "quick", steps: int = 3, **fields: Any) -> dict[str, Any]:
    space = {"x": {"type": "float", "low": -5, "high": 5}}
    metadata = {"objective": f"desk:{objective}", "search_space": space, "seed": 3, "sampler": "random"}
    return {"optimization_id": optimization_id, "total_steps": steps, "metadata": metadata, **fields}


def write(*entries: dict[str, Any]) -> str:
    Path("batch.yaml").write_text(json.dumps(list(entries), ensure_ascii=False))  # JSON is YAML
    return "batch.yaml"


def o9(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return zygote.run([*O9, *arguments], env={**os.environ, **environment})


def checks_of(name: str, *options: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in answered("health", name, *options)["checks"]}


def begin(*arguments: str) -> zygote.Process:
    """In a process group of its own, as a shell starts it."""
    return zygote.start([*O9, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def statuses() -> dict[str, str]:
    with Store("optimization_state.db") as store:
        return {state.optimization_id: state.status.value for state in store.read(queries.page).items}


def ledger(name: str) -> list[Trial]:
    with Store("optimization_state.db") as store:
        return store.read(queries.trials, name)


def steps_of(name: str) -> int:
    if not Path("optimization_state.db").exists():
        return 0
    with Store("optimization_state.db") as store:
        state = store.read(queries.get, name)
    return state.completed_steps if state else 0


def test_run_waits_shows_progress_and_says_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", write(entry("of-others", "slow", 100))]) == 0
    capsys.readouterr()
    told = o9("run", write(entry("one", name="抛物线 🚀"), entry("two")))
    assert told.returncode == 0, told.stderr
    rows = [line.split()[:4] for line in told.stdout.splitlines() if line.startswith(("one ", "two "))]
    assert rows == [["one", "completed", "?", "unproven"], ["two", "completed", "?", "unproven"]]
    assert told.stdout.count("UNPROVEN") == 2  # before the table, with the reason
    assert told.stdout.index("UNPROVEN") < told.stdout.index("completed")
    assert "o9 show one" in told.stdout
    assert "o9 trials one" in told.stdout
    assert "抛物线 🚀  completed  3/3" in told.stderr
    assert "\x1b" not in told.stdout + told.stderr
    said = [line for line in told.stderr.splitlines() if "said by the objective" in line]
    assert sorted(said) == sorted(
        f"{name}, trial {n}: said by the objective" for name in ("抛物线 🚀", "desk:quick") for n in range(3)
    )
    assert "said by the objective" not in told.stdout
    assert statuses() == {"one": "completed", "two": "completed", "of-others": "created"}
    assert len(ledger("one")) == 3
    with Store("optimization_state.db") as store:
        assert store.read(queries.holding, "of-others").attempt == 0, "what others have queued was begun"
    assert main(["logs", "one"]) == 0
    assert capsys.readouterr().out == "".join(f"trial {number}: said by the objective\n" for number in range(3))
    assert main(["logs", "one", "--trial", "2"]) == 0
    assert capsys.readouterr().out == "said by the objective\n"
    assert main(["logs", "one", "--trial", "2", "--json"]) == 0
    printed = [{"step": 2, "trial": 2, "text": "said by the objective\n", "cut": 0}]
    assert json.loads(capsys.readouterr().out) == printed
    assert main(["logs", "one", "--trial", "7"]) == 1
    assert "one has no trial 7; its trials are 0 to 2" in capsys.readouterr().err


def test_what_it_searched_is_recorded_and_its_best_was_evaluated_once_more_at_its_end() -> None:
    metadata = {"objective": "desk:crossover", "trials_per_step": 40, "seed": 3, "sampler": "random"}
    told = o9("run", write({"optimization_id": "one", "total_steps": 1, "metadata": metadata, "name": "crossover"}))
    assert told.returncode == 0, told.stderr
    Path("desk.py").rename("away.py")
    known = checks_of("one")
    assert known["security.search_space"]["score"] == 1.0, known["security.search_space"]
    assert known["validity.neighbours"]["score"] is not None, known["validity.neighbours"]
    assert known["validity.repeatable"]["score"] == 1.0, known["validity.repeatable"]


def test_what_is_void_is_told_at_once_and_everywhere() -> None:
    Path("doubtful.py").write_text(DOUBTFUL)
    space = {"days": {"type": "int", "low": 1, "high": 9}}
    entries = [
        {"optimization_id": name, "name": name, "total_steps": 2,
         "metadata": {"objective": f"doubtful:{name}", "search_space": space, "sampler": "random", "seed": 1}}
        for name in ("ahead", "dice")
    ]  # fmt: skip
    told = o9("run", write(*entries))
    assert told.returncode == 0, told.stderr
    for name, reason in (("ahead", GradeReason.LOOK_AHEAD), ("dice", GradeReason.NOT_REPEATABLE)):
        made = Verdict.from_dict(answered("show", name)["verdict"])
        assert (made.grade, made.reason, made.forecast) == (Grade.VOID, reason, None)
        assert f"{name}  {headline(made)}" in told.stdout
        assert answered("health", name)["verdict"] == made.to_dict()
    assert {one["grade"] for one in answered("list")} == {"void"}


def test_what_does_not_complete_is_code_3_and_says_why_once() -> None:
    told = o9("run", write(entry("good"), entry("bad", "broken"), entry("no", "never")), O9_LOG_LEVEL="INFO")
    assert told.returncode == 3
    assert "no: all 3 trials were infeasible; the first: fast >= slow\n" in told.stdout
    assert "bad: none of the 3 trials succeeded; first error: ValueError: the exchange was closed\n" in told.stdout
    assert "attempt 1 of desk:quick" in told.stderr
    assert not any(said in told.stderr for said in ("Beginning flow run", "Finished in state", "View at"))
    assert "Traceback" not in told.stdout + told.stderr
    assert statuses() == {"good": "completed", "bad": "failed", "no": "failed"}


def test_what_hangs_fails_or_cannot_be_does_not_end_like_the_rest() -> None:
    def with_metadata(name: str, objective: str, steps: int, **metadata: Any) -> dict[str, Any]:
        one = entry(name, objective, steps)
        return one | {"metadata": one["metadata"] | metadata}

    batch = write(
        with_metadata("late", "sometimes_late", 3, trials_per_step=4, trial_timeout_seconds=0.8),
        with_metadata("cut", "sometimes_late", 1, trials_per_step=8, timeout_seconds=4),
        with_metadata("doomed", "broken", 50, trials_per_step=3),
        with_metadata("impatient", "broken", 50, stop_after_failures=2),
        with_metadata("half", "half", 20, sampler="tpe"),
        with_metadata("market", "traded", 2),
        with_metadata("over-0", "traded", 1) | {"baseline_performance": 0},
    )
    told = o9("run", batch)
    assert told.returncode == 3, told.stderr
    assert statuses() == {
        "late": "completed", "cut": "timeout", "doomed": "failed", "impatient": "failed", "half": "completed",
        "market": "completed", "over-0": "completed",
    }  # fmt: skip
    for trial in ledger("late"):
        assert trial.state.value == ("failed" if trial.parameters["x"] > 2 else "completed")
    finished = [trial for trial in ledger("cut") if trial.state.value == "completed"]
    best = max((trial.value or 0.0 for trial in finished), default=0.0)
    hung = [trial for trial in ledger("cut") if trial.parameters["x"] > 2]
    assert finished, "what had finished before the step was cut off is not in the ledger"
    assert {trial.state.value for trial in hung} == {"cancelled"}
    assert [len(ledger(name)) for name in ("cut", "doomed", "impatient")] == [8, 12, 2]
    with Store("optimization_state.db") as store:
        assert store.read(queries.get, "cut").current_performance == best
        assert store.read(queries.get, "cut").results["best_value"] == best
        for name in ("doomed", "impatient"):
            assert "the exchange was closed" in store.read(queries.get, name).issues[-1]
        market = np.random.default_rng(1).normal(0.001, 0.01, 250)
        assert store.read(queries.get, "market").baseline_performance == pytest.approx(
            market.mean() / market.std() * 252**0.5
        )
        assert store.read(queries.get, "over-0").baseline_performance == 0.0
        counts = store.read(queries.trial_counts, "half")
        assert counts.keys() == {"completed", "infeasible"}
        family = ledger("half")[0].family
        assert store.read(queries.family_trials, family, "half").counts == {"completed": counts["completed"]}
    assert answered("show", "half")["trial_counts"] == counts
    reasons = {trial["error"] for trial in answered("trials", "half") if trial["state"] == "infeasible"}
    assert reasons == {"x > 0"}


def test_ctrl_c_pauses_and_resume_goes_on_to_the_same_end(capsys: pytest.CaptureFixture[str]) -> None:
    running = begin("run", write(entry("a", "slow", 40), entry("b", "slow", 40)), "--max-concurrent", "1")
    o9_wait(lambda: steps_of("a") >= 2, running)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "o9 resume --here a b" in out
    assert "pausing" in err
    assert "Traceback" not in err
    assert statuses() == {"a": "paused", "b": "paused"}
    with Store("optimization_state.db") as store:
        assert [
            row["by"].startswith("Ctrl-C, ") for row in store.read(queries.intents, "a") if row["intent"] == "pause"
        ] == [True]
    resumed = o9("resume", "--here", "a", "b")
    assert resumed.returncode == 0, resumed.stderr
    with Store("optimization_state.db") as store:
        assert [row["by"] for row in store.read(queries.intents, "a")][-1] == who()
    trials = ledger("a")
    assert [trial.number for trial in trials] == list(range(40))
    assert {trial.attempt for trial in trials} == {1, 2}
    assert main(["resume", "--here", "a"]) == 1
    assert "a has ended (completed)" in capsys.readouterr().err


def test_a_second_ctrl_c_leaves_at_once_and_loses_nothing() -> None:
    running = begin(
        "run", write(entry("a", "slow", 200, metadata=entry("", "slow")["metadata"] | {"trials_per_step": 40}))
    )
    o9_wait(lambda: steps_of("a") >= 1, running)
    os.killpg(running.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    began = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - began < 40.0, "it finished the step"
    assert running.returncode == 130
    assert "o9 resume --here ID" in err
    before = len(ledger("a"))
    assert before >= 40
    resumed = begin("resume", "--here", "a")
    o9_wait(lambda: steps_of("a") > before // 40, resumed)
    resumed.send_signal(signal.SIGTERM)  # a service that is stopped: nobody will come to resume what it ran
    assert resumed.wait(60) == 130
    resumed.communicate()
    assert statuses() == {"a": "created"}


def test_ctrl_c_before_the_start_is_said_and_nothing_is_submitted() -> None:
    starting = begin("run", write(entry("one")))
    assert starting.stderr is not None
    assert starting.stderr.readline() == "starting\n"
    os.killpg(starting.pid, signal.SIGINT)
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == 130
    assert err.splitlines()[-1] == "o9: interrupted before anything started"
    assert statuses() == {}


def test_what_is_refused_leaves_no_store_behind(capsys: pytest.CaptureFixture[str]) -> None:
    for entries in (
        [entry("same"), entry("same")],
        [entry("a"), entry("b", "missing")],
        [entry("a", priority="urgent")],
    ):
        for command in ("run", "submit"):
            assert main([command, write(*entries)]) == 1
            refusal = capsys.readouterr().err
            assert refusal.startswith("o9: batch.yaml, entry ")
            assert len(refusal.splitlines()) == 1
    assert not Path("optimization_state.db").exists()


def test_submit_records_and_whoever_runs_next_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", write(entry("later", priority="high"))]) == 0
    told = capsys.readouterr().out
    assert "No node runs" in told
    assert "o9 serve" in told
    assert "o9 resume --here later" in told
    assert statuses() == {"later": "created"}
    assert main(["submit", "batch.yaml"]) == 0
    for command in ("submit", "run"):
        assert main([command, write(entry("new"), entry("later", steps=4))]) == 1
        assert "'later' exists with other content" in capsys.readouterr().err
    assert statuses() == {"later": "created"}
    assert o9("run", write(entry("later", priority="high"))).returncode == 0
    again = o9("run", "batch.yaml")
    assert (again.returncode, "has already ended (completed)" in again.stderr) == (0, True)
    assert len(ledger("later")) == 3


def test_resume_refuses_what_could_only_fail_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", write(entry("later"))]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    told = o9("resume", "--here", "later", "--store", "../optimization_state.db")
    assert told.returncode == 1
    assert "later cannot be resumed here: metadata.objective" in told.stderr
    monkeypatch.chdir(tmp_path)
    assert statuses() == {"later": "created"}
    assert main(["resume", "--here", "latr"]) == 1
    assert "did you mean later?" in capsys.readouterr().err


def test_on_a_terminal_there_are_bars_and_the_cursor_comes_back() -> None:
    screen = on_a_terminal("run", write(entry("one", "slow", 30, name="Slow one")))
    assert "Slow one" in screen
    assert "━" in screen
    assert "\x1b[?25l" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
    assert "30/30" in screen


def test_a_prefect_server_that_is_away_is_one_line() -> None:
    told = o9("run", write(entry("one")), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith("o9: Prefect's server at http://127.0.0.1:9/api did not answer")
    assert statuses() == {}


def test_the_demonstration_says_the_same_of_each_strategy_everywhere() -> None:
    told = o9("demo", "--small", "--seed", "5")
    assert told.returncode == 0, told.stderr
    assert "Equal weight (baseline)" in told.stdout
    assert "Buy and hold" in told.stdout
    assert str(Path("optimization_state.db").absolute()) in told.stdout
    assert "o9 list" in told.stdout
    assert f"The report:       {Path('o9-report-demo.html').absolute()}" in told.stdout
    assert Path("o9-report-demo.html").read_text(encoding="utf-8").count("<article") == 4
    assert sorted(statuses().values()) == ["completed"] * 4
    said, page = _flat(told.stdout), _flat(html.unescape(Path("o9-report-demo.html").read_text(encoding="utf-8")))
    for name in statuses():
        shown, judged = answered("show", name), answered("health", name)
        assert shown["verdict"] == judged["verdict"]
        made = Verdict.from_dict(shown["verdict"])
        assert made.forecast is not None
        for text in (headline(made), made.words, forecast_sentence(made)[1:]):
            assert _flat(text) in said, (name, text)
        for text in (GRADES[made.grade].word, made.headline, made.words, forecast_sentence(made)[1:]):
            assert _flat(text) in page, (name, text)


def answered(*command: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command, "--json"]) == 0
    return json.loads(out.getvalue())


def _flat(text: str) -> str:
    return " ".join(text.split())


def o9_wait(condition: Callable[[], bool], process: zygote.Process, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def on_a_terminal(*arguments: str) -> str:
    """What a terminal of 80 columns gets to see, control sequences included; the command must exit 0."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    process = zygote.start([*O9, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # Linux says so when the last writer has closed it
                break
        elif process.poll() is not None:
            break
    assert process.wait(10) == 0, seen.decode(errors="replace")
    os.close(leader)
    return seen.decode()


def test_what_a_run_need_not_load_is_not_loaded_before_its_first_trial() -> None:
    heavy = "{'fastapi', 'uvicorn', 'apprise', 'optuna', 'pandas', 'scipy'}"
    code = f"import sys, o9.cli.commands.run, o9.aggregator.aggregator; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_and_dates_are_shown_ranked_and_exported(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*command: str) -> str:
        assert main(list(command)) == 0, command
        return capsys.readouterr().out

    told = o9("run", write(entry("one", "measured"), entry("two", "measured", steps=2)))
    assert told.returncode == 0, told.stderr
    best = max(ledger("one"), key=lambda trial: trial.value or 0.0)
    turnover = best.metrics["turnover"]
    assert f"{number(turnover)} (of the best trial)" in printed("show", "one")
    heading, *rows = printed("trials", "one", "--csv").splitlines()
    assert "metric.turnover" in heading.split(",")
    assert len(rows) == len(ledger("one"))
    assert printed("export", "trials", "one", "-o", "-").splitlines()[0] == heading
    ranked = json.loads(printed("rankings", "turnover", "--json"))
    first = ranked[0]
    assert (first["optimization_id"], first["family"], first["rank"]) == ("one", "desk:measured", 1)
    assert ranked[0]["value"] == turnover
    assert "turnover of desk:measured" in printed("rankings", "turnover")
    with Store("optimization_state.db") as store:
        kept = store.read(queries.trial, "one", best.number)
    assert kept is not None
    assert iso_dates(kept.dates or ())[::59] == ("1990-01-02", "1990-03-26")
    printed("report", "one", "-o", "report.html")
    page = Path("report.html").read_text()
    assert "1990-03-26" in page
    assert "turnover" in page

"""`metadata.hold_out` from the command line: who sees what, what the record keeps, what is refused, and kill -9."""

from __future__ import annotations

import json
import os
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

from o9.cli.main import main
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.model.dates import iso_dates
from o9.model.trial import Trial
from o9.store import queries
from o9.store.core.column_types import unpack_returns
from o9.store.optimizations.pruning import PruneOne, PruneReason
from o9.store.store import Store
from o9.workers.scores import score_of

pytestmark = pytest.mark.slow  # each starts processes that import Prefect
DESK = """
import time
from pathlib import Path
import numpy as np
from OptimizationStateAggregator import Evaluation, objective, register_score

DAYS = np.datetime64("2019-01-01") + np.arange(500)
MARKET = np.random.default_rng(5).normal(0.0005, 0.01, 500)

def returns_of(parameters):
    generator = np.random.default_rng(int(parameters["x"]))
    return generator.choice([0.0, 1.0], 500) * MARKET

def alone(parameters):
    return Evaluation(returns=returns_of(parameters), periods_per_year=252, baseline_returns=MARKET)

async def waits(parameters):
    return alone(parameters)

@objective("known", truncatable=True)
def known(parameters, *, periods=None):
    with open("calls.txt", "a") as file:
        print(periods, file=file)
    returns = returns_of(parameters)[:periods]
    return Evaluation(float(returns.sum()), returns, 252, dates=DAYS[:periods], baseline_returns=MARKET[:periods])

def uneven(parameters):
    return Evaluation(returns=returns_of(parameters)[: 500 - int(parameters["x"]) % 2], periods_per_year=252)

def gives_a_value(parameters):
    return Evaluation(1.0, returns_of(parameters), 252)

def by_hand(parameters):
    returns = returns_of(parameters)
    return Evaluation(returns=returns[:400], hold_out_returns=returns[400:], periods_per_year=252)

def slow(parameters):
    time.sleep(0.1)
    return alone(parameters)

def worst_day(returns, periods_per_year):
    return returns.min()
"""
JUDGED = """
import numpy as np
from OptimizationStateAggregator import Evaluation, objective

DAY, PAST, ALL = 0.01, 2520, 3780  # ten years to search, five held out
MARKET = np.random.default_rng(1).normal(0.0003, DAY, ALL)

def returns_of(parameters, edge, later):
    # Annual Sharpe ratios before the cut and behind it, of strategies that hold none of the market.
    noise = np.random.default_rng([2, int(parameters["x"])]).normal(0.0, DAY, ALL)
    yearly = np.where(np.arange(ALL) < PAST, edge, later)
    return noise + yearly * DAY / 252**0.5

def persists(parameters):
    return Evaluation(returns=returns_of(parameters, 2.0, 2.0), periods_per_year=252, baseline_returns=MARKET)

def without_baseline(parameters):
    return Evaluation(returns=returns_of(parameters, 2.0, 2.0), periods_per_year=252)

def neutral(parameters):
    return without_baseline(parameters)

def dies(parameters):
    return Evaluation(returns=returns_of(parameters, 2.0, -1.0), periods_per_year=252, baseline_returns=MARKET)

def mute(parameters):
    return Evaluation(returns=returns_of(parameters, 0.0, -1.5), periods_per_year=252, baseline_returns=MARKET)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "desk", raising=False)
    Path("desk.py").write_text(DESK)


def entry(name: str, objective: str, steps: int = 6, **metadata: Any) -> dict[str, Any]:
    space = {"x": {"type": "int", "low": 0, "high": 1000}}
    chosen = {"objective": f"desk:{objective}", "search_space": space, "seed": 3, "hold_out": 0.3, "sampler": "random"}
    return {"optimization_id": name, "total_steps": steps, "metadata": chosen | metadata}


def write(*entries: dict[str, Any], name: str = "batch.yaml") -> str:
    Path(name).write_text(json.dumps(list(entries)))  # JSON is YAML
    return name


def o9(*arguments: str) -> subprocess.CompletedProcess[str]:
    return zygote.run([*O9, *arguments])


def ledger(name: str) -> list[Trial]:
    with Store("optimization_state.db") as store:
        found = [store.read(queries.trial, name, trial.number) for trial in store.read(queries.trials, name)]
    return [trial for trial in found if trial is not None]


def rows(name: str) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.parameters, t.value, t.returns, t.hold_out_returns) for t in ledger(name)]


def returns_of(trial: Trial) -> Any:
    market = np.random.default_rng(5).normal(0.0005, 0.01, 500)
    return np.random.default_rng(int(trial.parameters["x"])).choice([0.0, 1.0], 500) * market


def check_ledger(name: str, before: int) -> None:
    """Each trial ends at the cut, and only the best has the part after it."""
    trials = ledger(name)
    best = max(trials, key=lambda trial: trial.value or -np.inf)
    for trial in trials:
        assert trial.returns == tuple(returns_of(trial)[:before])
        assert trial.hold_out_returns == (tuple(returns_of(trial)[before:]) if trial is best else None)
    with Store("optimization_state.db") as store:
        baseline = store.read(queries.baseline, name)
    assert baseline is not None
    assert baseline.hold_out is not None
    market = np.random.default_rng(5).normal(0.0005, 0.01, 500)
    assert unpack_returns(baseline.returns) == tuple(market[:before])
    assert unpack_returns(baseline.hold_out) == tuple(market[before:])


def test_only_the_best_is_evaluated_on_the_hold_out() -> None:
    told = o9(
        "run",
        write(
            entry("alone", "alone"),
            entry("waits", "waits", trials_per_step=2, steps=3),
            entry("known", "known", hold_out="2020-01-01"),
            entry("own", "alone", score="desk:worst_day", hold_out="1y"),
            entry("uneven", "uneven"),
            entry("value", "gives_a_value"),
            entry("hand", "by_hand"),
        ),
    )
    assert told.returncode == 3, told.stdout + told.stderr
    with Store("optimization_state.db") as store:
        ends = {state.optimization_id: state for state in store.read(queries.page).items}
        why = {name: store.read(queries.transitions, name)[-1]["message"] for name in ends}
    refused = {"value", "hand"}
    assert {name for name, state in ends.items() if state.status.value == "failed"} == refused, why
    for name in refused:
        assert ledger(name) == []
        assert "metadata.hold_out" in why[name]
    for name in ("alone", "waits"):
        check_ledger(name, 350)
        assert [trial.value for trial in ledger(name)] == [
            score_of(list(returns_of(trial)[:350]), 252.0) for trial in ledger(name)
        ]
    check_ledger("known", 365)
    best = next(trial for trial in ledger("known") if trial.hold_out_returns is not None)
    assert iso_dates([(best.dates or ())[-1], *(best.hold_out_dates or ())[:1]]) == ("2019-12-31", "2020-01-01")
    calls = Path("calls.txt").read_text().split()
    assert calls[:8] == ["None", *["365"] * 6, "None"]
    assert "None" not in calls[8:]  # the health check evaluates it once more, without what is held out
    check_ledger("own", 248)
    assert [trial.value for trial in ledger("own")] == [returns_of(trial)[:248].min() for trial in ledger("own")]
    completed = [trial for trial in ledger("uneven") if trial.state.value == "completed"]
    assert 0 < len(completed) < 6
    assert {len(trial.returns or ()) for trial in completed} <= {350, 349}


def test_an_impossible_hold_out_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for metadata, field in (
        ({"hold_out": 1.5}, "metadata.hold_out"),
        ({"score": "sharp"}, "metadata.score"),
        ({"score": "sharpe", "direction": "minimize"}, "metadata.direction"),
        ({"market_neutral": "yes"}, "metadata.market_neutral"),
    ):
        assert main(["submit", write(entry("a", "alone", **metadata))]) == 1
        assert field in capsys.readouterr().err
    built_in = entry("a", "alone")
    built_in["metadata"] |= {"objective": "branin"}
    assert main(["submit", write(built_in)]) == 1
    assert "metadata.hold_out" in capsys.readouterr().err
    assert not Path("optimization_state.db").exists()


@pytest.mark.long  # the kills of `tests/chaos` are of searches without a hold-out
def test_a_killed_run_resumes_with_the_same_ledger_and_hold_out() -> None:
    search = {"sampler": "tpe", "trials_per_step": 2}
    command = [*O9, "run", write(entry("a", "slow", 8, **search), name="a.yaml")]
    quiet, short = subprocess.DEVNULL, {**os.environ, "O9_LEASE_SECONDS": "2"}
    killed = zygote.start(command, stdout=quiet, stderr=quiet, start_new_session=True, env=short)
    wait_until(lambda: Path("optimization_state.db").exists() and len(rows("a")) >= 6)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(30)
    assert 6 <= len(rows("a")) < 16
    assert o9("run", write(entry("a", "slow", 8, **search), entry("b", "slow", 8, **search))).returncode == 0
    assert len(rows("a")) == 16
    assert rows("a") == rows("b")
    assert sum(trial.hold_out_returns is not None for trial in ledger("a")) == 1
    assert {trial.attempt for trial in ledger("a")} == {1, 2}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds * o9_testing.PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def verdict_of(name: str) -> dict[str, Any]:
    with Store("optimization_state.db") as store:
        found: dict[str, Any] = store.read(queries.health_verdicts, [name])[name]["verdict"]
    return found


def test_the_hold_out_decides_and_a_second_look_halves_the_level() -> None:
    Path("judged.py").write_text(JUDGED)
    space = {"x": {"type": "int", "low": 0, "high": 99}}
    search = {"search_space": space, "hold_out": "5y", "trials_per_step": 25}

    def judged(name: str, objective: str, steps: int = 1, **metadata: Any) -> dict[str, Any]:
        found = entry(name, "", steps, **search)
        found["metadata"] |= {"objective": f"judged:{objective}"} | metadata
        return found

    told = o9(
        "run",
        write(
            judged("persists", "persists"),
            judged("none", "without_baseline"),
            judged("neutral", "neutral", market_neutral=True),
            judged("dies", "dies"),
            judged("mute", "mute", 4, sampler="grid"),
        ),
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert len(ledger("mute")) == 100
    found = {name: verdict_of(name) for name in ("persists", "none", "neutral", "dies", "mute")}
    assert {name: verdict["grade"] for name, verdict in found.items()} == {
        "persists": "confirmed", "none": "unproven", "neutral": "confirmed", "dies": "lost", "mute": "lost",
    }  # fmt: skip
    assert found["none"]["reason"] == "no_baseline"
    assert {found[name]["reason"] for name in ("dies", "mute")} == {"hold_out_negative"}
    assert found["persists"]["figures"]["hold_out_observations"] == 1260
    levels = [(found["persists"]["figures"][name]) for name in ("looks", "hold_out_level")]
    assert levels == [1, pytest.approx(0.95)]
    assert o9("run", write(judged("again", "persists", seed=4, family="another name"))).returncode == 0
    figures = verdict_of("again")["figures"]
    assert (figures["looks"], figures["hold_out_level"]) == (2, pytest.approx(0.975))
    assert main(["health", "again"]) == 0  # a report once more is no new look
    assert verdict_of("again")["figures"]["looks"] == 2


def test_data_that_a_search_has_seen_are_no_hold_out_even_if_it_is_pruned() -> None:
    Path("judged.py").write_text(JUDGED)
    space = {"x": {"type": "int", "low": 0, "high": 99}}

    def search(name: str, **metadata: Any) -> dict[str, Any]:
        found = entry(name, "", 1, trials_per_step=25, search_space=space)
        found["metadata"] |= {"objective": "judged:persists"} | metadata
        return found

    first = search("first", sampler="tpe", hold_out=None, seed=5, after=["before"])
    told = o9("run", write(search("before"), first, search("second", after=["first"])))
    assert told.returncode == 0, told.stdout + told.stderr
    assert main(["health", "before"]) == 0
    verdict = verdict_of("before")
    assert (verdict["grade"], verdict["figures"]["hold_out_seen"]) == ("confirmed", 0)
    with Store("optimization_state.db") as store:  # nobody knows any more when its trials were made
        assert store.write(PruneOne("first", sharpe_ratios_of)) is PruneReason.LONG_AGO
    assert main(["health", "before"]) == 0
    assert verdict_of("before")["grade"] == "confirmed"
    verdict = verdict_of("second")
    assert (verdict["grade"], verdict["reason"]) == ("unproven", "hold_out_seen")
    assert (verdict["figures"]["hold_out_seen"], verdict["figures"]["kept"]) == (25, 75)
    assert main(["db", "prune", "--older-than", "0.000001", "--yes"]) == 0
    assert o9("run", write(search("third", seed=4))).returncode == 0
    assert verdict_of("third")["reason"] == "hold_out_seen"

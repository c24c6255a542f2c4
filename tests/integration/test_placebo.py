"""`o9 placebo`: of a real edge and of none, killed in the middle, and out of everybody's way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import o9_testing
import pytest
import zygote
from command_line import O9
from store_backend import Requests

from o9.cli.main import main
from o9.store import queries
from o9.store.store import Store

pytestmark = pytest.mark.slow  # each starts processes that import Prefect
DESK = """
import numpy as np
from OptimizationStateAggregator import Evaluation, objective

def load(keeps, seed):
    shocks = np.random.default_rng(seed).normal(0.0, 0.01, 400)
    for row in range(1, 400):
        shocks[row] += keeps * shocks[row - 1]
    return shocks

def trending():
    return load(0.5, 8)

def walk():
    return load(0.0, 11)  # 84 % of shuffled ones are as good

SPACE = {"days": {"type": "int", "low": 1, "high": 20}}

def follow(parameters, data):
    mean = np.convolve(data, np.ones(parameters["days"]) / parameters["days"])[: len(data)]
    return Evaluation(returns=np.append(0.0, np.sign(mean[:-1]) * data[1:]), periods_per_year=252)

@objective("edge", data=trending, search_space=SPACE)
def edge(parameters, data):
    return follow(parameters, data)

@objective("none", data=walk, search_space=SPACE)
async def none(parameters, *, data):
    return follow(parameters, data)

@objective("blind", data="prices-v1", search_space=SPACE)
def blind(parameters):
    return float(parameters["days"])
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "desk", raising=False)
    Path("desk.py").write_text(DESK)
    batch = [
        {
            "optimization_id": name,
            "total_steps": 2,
            "metadata": {"objective": f"desk:{name}", "seed": 5, "sampler": "tpe", "trials_per_step": 3},
        }
        for name in ("edge", "none", "blind")
    ]
    Path("batch.yaml").write_text(json.dumps(batch))
    told = o9("run", "batch.yaml")
    assert told.returncode == 0, told.stdout + told.stderr


def o9(*arguments: str) -> subprocess.CompletedProcess[str]:
    return zygote.run([*O9, *arguments])


def finished(store: Store, name: str) -> list[float]:
    return store.read(queries.placebos, name).finished


def best_of(store: Store, name: str) -> float:
    return max(trial.value or 0.0 for trial in store.read(queries.trials, name))


def test_the_placebo_p_value_is_small_only_for_a_real_edge(capsys: pytest.CaptureFixture[str]) -> None:
    killed = zygote.start(
        [*O9, "placebo", "edge", "--runs", "9", "--here"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, "O9_LEASE_SECONDS": "2"},
    )  # fmt: skip
    with Store("optimization_state.db") as store:
        tried = store.read(queries.family_trials, store.read(queries.trials, "edge")[0].family, "edge").counts
        end = time.monotonic() + 60 * o9_testing.PATIENCE
        while len(finished(store, "edge")) < 3:
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.05)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(30)
        told = json.loads(o9("placebo", "edge", "--runs", "9", "--here", "--json").stdout)
        assert (told["finished"], told["waiting"], told["p_value"]) == (9, 0, 1 / 10)
        assert told["grade"] == "unproven"  # of nine runs; `tests/unit/test_placebo.py` has the nineteen of the default
        runs = store.read(queries.placebos, "edge").run_ids
        assert (sorted(runs), len(set(runs.values()))) == (list(range(1, 10)), 9)
        assert all(len(store.read(queries.trials, name)) == 6 for name in runs.values())
        assert len({best_of(store, name) for name in runs.values()}) > 6  # each has data and a seed of its own
        assert finished(store, "edge") == [best_of(store, runs[number]) for number in range(1, 10)]
        # Out of everybody's way:
        assert store.read(queries.family_trials, store.read(queries.trials, "edge")[0].family, "edge").counts == tried
        assert {state.optimization_id for state in store.read(queries.page).items} == {"edge", "none", "blind"}
        ranked = store.read(queries.ranked, "current_performance", "maximize", 50)
        assert {row["optimization_id"] for row in ranked} == {"edge", "none", "blind"}
        figures = store.read(queries.health_verdicts, ["edge"])["edge"]["verdict"]["figures"]
        names = ("p_value", "runs", "as_good", "without_result", "requests", "others")
        assert [figures[f"placebo_{name}"] for name in names] == [0.1, 9, 0, 0, 1, 0]

    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["stats", "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)
    assert (statistics["total_optimizations"], statistics["placebo_runs"]) == (3, 9)
    assert sum(statistics["by_status"].values()) == sum(day["count"] for day in statistics["by_day"].values()) == 3
    assert main(["list", "--json", "--all"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 12
    told = json.loads(o9("placebo", "none", "--runs", "4", "--here", "--json").stdout)
    with Store("optimization_state.db") as store:
        values, own = finished(store, "none"), best_of(store, "none")
    assert len(values) == 4
    assert told["p_value"] == (1 + sum(value >= own for value in values)) / 5 > 0.2
    assert main(["placebo", "none", "--runs", "6"]) == 0  # asked again: all count, and it says so
    assert main(["health", "none"]) in (0, 1)
    with Store("optimization_state.db") as store:
        verdict = store.read(queries.health_verdicts, ["none"])["none"]["verdict"]
    assert [verdict["figures"][f"placebo_{name}"] for name in ("runs", "without_result", "requests")] == [4, 2, 2]
    assert verdict["figures"]["placebo_p_value"] == (3 + sum(value >= own for value in values)) / 7
    assert "in 2 requests" in verdict["words"]
    capsys.readouterr()
    assert main(["placebo", "blind"]) == 1
    assert "metadata.placebo_of" in capsys.readouterr().err
    assert main(["placebo", "edge-placebo-1"]) == 1
    forged = {"objective": "desk:edge", "placebo_of": "none", "placebo_number": 5}  # a search of one step, say
    Path("own.yaml").write_text(json.dumps({"total_steps": 1, "metadata": forged}))
    capsys.readouterr()
    assert main(["submit", "own.yaml"]) == 1
    assert "metadata.placebo_" in capsys.readouterr().err
    with Store("optimization_state.db") as store, asyncio.Runner() as runner:
        requests = Requests(store, runner)
        # From outside its objective may be named only where O9_ALLOWED_IMPORTS says so.
        for name, body, code in (("none", b"{}", 422), ("none", b'{"runs": 0}', 422), ("ghost", b"{}", 404)):
            assert requests.send(f"/optimizations/{name}/placebo", "POST", body=body)[0] == code
        assert len(store.read(queries.placebos, "none").run_ids) == 6
        assert store.read(queries.placebos, "blind").run_ids == {}

"""Grades end to end: run files whose truth is known, and what `o9 show` says of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from command_line import O9

from o9.cli.main import main
from o9.health.grades import Grade, GradeReason, Verdict

pytestmark = pytest.mark.slow  # it starts processes that import Prefect
DESK = """
import numpy as np
from OptimizationStateAggregator import Evaluation, objective

DAYS, HELD_OUT = 1000, 750

def noise(parameters, days=DAYS, seed=1):
    drawn = np.random.default_rng([seed, int(parameters["x"])]).normal(0.0, 0.01, days)
    return drawn - drawn.mean()

def of(sharpe, drawn):
    return drawn + sharpe / 252**0.5 * drawn.std()

def evaluation(returns, hold_out=None):
    value = float(returns.mean() / returns.std() * 252**0.5)
    return Evaluation(value, returns.tolist(), 252, hold_out_returns=None if hold_out is None else hold_out.tolist())

@objective("ahead", truncatable=True)
def ahead(parameters, *, periods=None):
    market = np.random.default_rng(3).normal(0.0005, 0.01, 400)[:periods]
    return evaluation(np.append(np.sign(market[1:]), 0.0) * market * (1 + parameters["x"]))

def chance(parameters):
    return evaluation(np.random.default_rng().normal(0.001, 0.01, DAYS))

def edge(parameters):
    return evaluation(of(3.0 - parameters["x"], noise(parameters)), of(2.0, noise(parameters, HELD_OUT, 2)))

def not_held_out(parameters):
    return evaluation(of(3.0 - parameters["x"], noise(parameters)))

def lost(parameters):
    return evaluation(of(3.0 - parameters["x"], noise(parameters)), of(-0.5, noise(parameters, HELD_OUT, 2)))

def mute(parameters):
    # Most lose, so that luck is expected to give the best more than it has.
    return evaluation(of(-0.05 * parameters["x"], noise(parameters)), of(-1.5, noise(parameters, HELD_OUT, 2)))

def premium(parameters):
    def returns(days):
        paid = 0.001 + noise(parameters, days) / 50
        paid[::100] -= 0.01
        return paid * (1 + parameters["x"])
    return evaluation(returns(DAYS), returns(HELD_OUT))
"""


def entry(name: str, objective: str, high: int = 3, **metadata: Any) -> dict[str, Any]:
    chosen = {
        "objective": f"desk:{objective}",
        "search_space": {"x": {"type": "int", "low": 0, "high": high}},
        "sampler": "grid",
        "trials_per_step": high + 1,
        "family": name.rstrip("2"),
    }
    return {"optimization_id": name, "metadata": chosen | metadata}


def test_each_known_truth_has_its_grade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)
    Path("desk.py").write_text(DESK)
    neutral = {"market_neutral": True}
    batches = [
        [
            entry("ahead", "ahead"), entry("chance", "chance"), entry("lost", "lost", **neutral),
            entry("mute", "mute", high=99, **neutral), entry("premium", "premium", **neutral),
            entry("unmeasured", "edge"), entry("edge", "edge", **neutral), entry("blind", "not_held_out", **neutral),
            entry("adaptive", "not_held_out", **neutral, sampler="tpe", trials_per_step=1) | {"total_steps": 4},
        ],
        [entry("edge2", "edge", **neutral, sampler="random", seed=1) | {"total_steps": 1}],
    ]  # fmt: skip
    for number, batch in enumerate(batches):
        Path(f"{number}.json").write_text(json.dumps(batch))
        told = zygote.run([*O9, "run", f"{number}.json"])
        assert told.returncode == 0, told.stderr

    def shown(name: str) -> Verdict:
        assert main(["show", name, "--json"]) == 0
        return Verdict.from_dict(json.loads(capsys.readouterr().out)["verdict"])

    found = {each["optimization_id"]: shown(each["optimization_id"]) for batch in batches for each in batch}
    assert {name: (verdict.grade, verdict.reason) for name, verdict in found.items()} == {
        "ahead": (Grade.VOID, GradeReason.LOOK_AHEAD),
        "chance": (Grade.VOID, GradeReason.NOT_REPEATABLE),
        "lost": (Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        "mute": (Grade.LOST, GradeReason.HOLD_OUT_NEGATIVE),
        "premium": (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        "unmeasured": (Grade.UNPROVEN, GradeReason.NO_BASELINE),
        "edge": (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
        "blind": (Grade.PLAUSIBLE, GradeReason.FAMILY),
        "adaptive": (Grade.UNPROVEN, GradeReason.ADAPTIVE_SEARCH),
        "edge2": (Grade.CONFIRMED, GradeReason.HOLD_OUT_AND_FAMILY),
    }
    assert found["mute"].figures["luck"] > found["mute"].figures["sharpe"]
    crash = {name: verdict.forecast.hidden_crash for name, verdict in found.items() if verdict.forecast}
    assert [name for name, hint in crash.items() if hint] == ["premium"]
    assert (found["ahead"].forecast, found["chance"].forecast) == (None, None)
    looks = {name: (found[name].figures["looks"], found[name].figures["hold_out_level"]) for name in ("edge", "edge2")}
    assert looks == {"edge": (1, 0.95), "edge2": (2, 0.975)}

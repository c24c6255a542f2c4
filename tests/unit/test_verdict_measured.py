"""The short form of `benchmarks/verdict.py`: the error rates of the verdict, and whether a worse rule would be seen."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from o9.health.grades import Grade

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = (
    "verdict",
    "verdict_families",
    "verdict_placebo",
    "verdict_prices",
    "verdict_rivals",
    "verdict_tables",
    "measure",
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("verdict")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tests judge the same evidence."""
    return tmp_path_factory.mktemp("verdict")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("verdict")
    for name in MODULES:
        sys.modules.pop(name, None)


def test_no_target_is_missed_in_the_short_form(benchmark: ModuleType, results: Path) -> None:
    assert benchmark.main(["--short", "--results", str(results)]) == 0
    rates = {path.stem: _mean(path, "confirmed 5") for path in results.glob("*/*.json")}
    assert len(rates) == len(benchmark.SHORT)
    assert rates["edges edge 1.5 that persists"] > 0.8
    assert rates["timing simulated, no baseline"] == 0.0
    assert rates["fixed normal"] < 0.04


def test_a_rule_that_confirms_every_hold_out_above_zero_misses_its_targets(
    benchmark: ModuleType, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def credulous(evidence: Any) -> Any:
        verdict = judge(evidence)
        return verdict if verdict.grade is Grade.LOST else replace(verdict, grade=Grade.CONFIRMED)

    judge = benchmark.judge
    monkeypatch.setattr(benchmark, "judge", credulous)
    monkeypatch.setattr(benchmark, "verdict_mark", lambda: "credulous")
    assert benchmark.main(["--short", "--only", "normal", "--results", str(results)]) == 1


def _mean(path: Path, name: str) -> float:
    figures = json.loads(path.read_text())
    return float(sum(each[name] for each in figures) / len(figures))

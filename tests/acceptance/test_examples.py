"""The scripts of `examples/`, one for each feature, run as they stand in an empty folder, and what they print."""

from __future__ import annotations

import re
from pathlib import Path

import o9_testing
import pytest
import zygote

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow
# Of each script what it must print, in this order.
PRINTS: dict[str, tuple[str, ...]] = {
    "monitor.py": (
        r"^running: \d+ of 15 steps, best 0\.\d+, \d+\.\d s left$",
        r"^completed: 15 of 15 steps, best (1\.0|0\.9\d+), unknown left$",
        r"^15 steps measured, the last at \d+ trials a second$",
    ),
    "coordinator.py": (
        r"^completed: ",
        r"^halving: completed, 12 steps, x = 1\.20$",
        r"^descent: completed, 12 steps, x = 1\.2\d$",
    ),
    "lifecycle.py": (
        r"^created: carry$",
        r"^paused$",
        r"^because: .*the exchange is closed",
        r"^paused$",
        r"^completed$",
        r"^- -> created \(submission, attempt 0\)$",
        r"^running -> completed \(hook, attempt 3\)$",
        r"^12 trials, each once: True$",
        r"^suspended: the best trial has drawdown -0\.3, the limit is 0\.2$",
        r"^the limit is now 0\.5$",
        r"^it went on by itself, and has completed with 15 steps$",
    ),
    "performance_statistics.py": (
        r"^3 in all, 100% of what ended completed$",
        r"^1\. reversal, seed \d: [01]\.\d+$",
        r"^ended by the hour: \[(\d+, )*[123]\]$",
        r"^days explains \d+% of the values$",
        r"completed +[01]\.\d+",
        r"^5 days are the best$",
        r"^written: trials\.csv$",
    ),
    "health.py": (
        r"^coin flips: Sharpe ratio \d\.\d+, (lost|unproven): ",
        r"^an edge: Sharpe ratio \d\.\d+, confirmed: ",
    ),
    "hold_out.py": (
        r"^(confirmed|plausible|unproven): look 1 at the hold-out$",
        r"^(confirmed|plausible|unproven): look 2 at the hold-out$",
        r"^of 4 placebo runs: p = 0\.20$",
    ),
    "api.py": (
        *(
            pattern
            for door in ("over-http", "in-process")
            for pattern in (
                rf"^{door}: branin once more: completed, the best is 0\.\d+$",
                r"^the first 3 trials: \[",
                r"^completeness: healthy$",
                r"^the best of all: 0\.\d+$",
                r"^GET /optimizations/nothing: 404: ",
                r"^POST /optimizations: 422: .*total_steps",
                r"^GET /weather: 404: ",
            )
        ),
        r"^both found the same: True$",
        r"^answered: \d+ requests, refused: 4 with 404$",
    ),
    "synchronizer.py": (
        r"^2 nodes on the record$",
        r"^every node has read the state: True$",
        r"^the other node heard, in order: \[None, \{'leverage': 1\.5\}, \{'leverage': 1\.0\}\]$",
        r"^active nodes: 2, changes to publish: 0$",
        r"^the other node sees it: (running|created), \d+ steps$",
        r"^completed by attempt 2, on 2 nodes$",
        r"^40 trials, each once: True$",
    ),
    "alerts.py": (
        r"^critical: Drawdown: the book has lost 3% since noon$",
        r"^over: Drawdown: ",
        r"^Feed maintenance: firing$",
        r"^Drawdown: resolved$",
        r"^history: sent",
    ),
    "errors_and_logs.py": (
        r"^refused: total_steps: ",
        r"^refused: .*did you mean.*fragile",
        r'^\{.*"message": "evaluating \{\\"x\\": \d\}".*"optimization": ".*"attempt": 1, "step": \d',
        r"^completed: \{'completed': 5, 'failed': 1\}, the best \{'x': 3\}$",
        r"^trial 2 at \{'x': 2\}: ZeroDivisionError",
        r"^refused: .*ended",
        r"^refused: the aggregator is not running",
    ),
    "documentation.py": (
        r"^OptimizationCoordinator: ",
        r"^    events: .*optimization_completed",
        r"^objective: Register the ",
        r"^Return a part of the record as a pandas frame",
    ),
}


def test_there_is_one_for_each_feature_and_the_table_has_them() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    rows = re.findall(r"^\| .+? \| \[(\w+\.py)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 11
    assert scripts == set(rows) == PRINTS.keys()


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_runs_and_prints(name: str, tmp_path: Path) -> None:
    with o9_testing.no_process_left() as environment:
        done = zygote.run([str(EXAMPLES / name)], cwd=tmp_path, env=environment | o9_testing.prefect_environment())
    assert done.returncode == 0, done.stderr
    at = 0
    for pattern in PRINTS[name]:
        found = re.compile(pattern, re.MULTILINE).search(done.stdout, at)
        assert found is not None, f"{pattern!r} is not in what follows:\n{done.stdout[at:]}\n{done.stderr}"
        at = found.end()

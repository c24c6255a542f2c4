"""`init`: an example to begin with: an objective and a run file that run as they are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import Json
from o9.model.errors import OptimizationError

if not help_only:
    from o9.cli.console import answer, show
    from o9.cli.views.words import Next


OBJECTIVE, RUN_FILE = "crossover.py", "crossover.yaml"

PYTHON = '''"""A moving-average crossover, to begin with: put your prices and your rule here."""

import numpy as np

from OptimizationStateAggregator import Evaluation, objective


@objective(
    "crossover",
    search_space={
        "fast": {"type": "int", "low": 2, "high": 40},
        "slow": {"type": "int", "low": 20, "high": 200},
    },
)
def crossover(parameters: dict) -> Evaluation:
    """The daily returns of holding while the fast average is above the slow one; O9 makes their Sharpe ratio of it."""
    prices = np.exp(np.cumsum(np.random.default_rng(1).normal(0.0002, 0.01, 2000)))  # put your prices here

    def average(days: int) -> np.ndarray:
        return np.convolve(prices, np.ones(days) / days, "full")[: len(prices)]

    held = (average(parameters["fast"]) > average(parameters["slow"]))[:-1]
    market = np.diff(prices) / prices[:-1]
    return Evaluation(returns=held * market, baseline_returns=market, periods_per_year=252)
'''

YAML = """# The fields are those that `o9 show ID --json` prints; all but the objective may be left out.
name: Crossover search
total_steps: 20            # each evaluates trials_per_step trials, and is recorded whole
metadata:
  objective: crossover:crossover   # the function `crossover` in crossover.py
  hold_out: 0.3            # the last 30 % of the data, which no trial sees: the result is judged by them
  sampler: tpe             # or random, grid, qmc, cmaes, nsga2, gp
  seed: 7                  # the same seed gives the same trials
  trials_per_step: 4
"""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write them.")] = Path(),
    json: Json = False,
) -> None:
    """Writes crossover.py and crossover.yaml, which run as they are, and overwrites no file."""
    files = {folder / OBJECTIVE: PYTHON, folder / RUN_FILE: YAML}
    if there := [str(file) for file in files if file.exists()]:
        exist = "exists" if len(there) == 1 else "exist"
        raise OptimizationError(f"{' and '.join(there)} {exist} already; give another FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    answer({"files": [str(file) for file in files]}, "\n".join(f"wrote {file}" for file in files), as_json=json)
    if not json:
        enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
        show("", Next([(f"{enter}o9 run {RUN_FILE}", "runs it, and says what may be believed of the result")]))

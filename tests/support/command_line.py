"""What the tests of the command line share: a command run in this process, and a store to run it on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import o9_testing
import pytest

from o9.cli.main import main
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Trial
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


O9Command = Callable[..., Answer]
O9 = ["-m", "o9.cli.main"]  # for `zygote.start`


_EACH = """
import sys
from o9.cli.main import main
for command in {commands!r}:
    code = main(command)
    print("ran", *command, code, *[name for name in {never!r} if name in sys.modules], file=sys.stderr)
"""


def run_without(never: tuple[str, ...], *commands: list[str]) -> str:
    """What the commands print in one new process; each must succeed, and import none of `never`."""
    script = _EACH.format(commands=commands, never=never)
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    ran = [line for line in told.stderr.splitlines() if line.startswith("ran ")]
    assert ran == [f"ran {' '.join(command)} 0" for command in commands]
    return told.stdout


def create(store: Store, optimization_id: str, **fields: Any) -> OptimizationState:
    given: dict[str, Any] = {
        "name": optimization_id, "description": "", "optimization_type": OptimizationType.PARAMETER_TUNING,
        "priority": OptimizationPriority.NORMAL, "total_steps": 3, "metadata": {"objective": "branin"},
    }  # fmt: skip
    state = OptimizationState(
        optimization_id=optimization_id, status=OptimizationStatus.CREATED, created_at=utc_now(), updated_at=utc_now(),
        **(given | fields),
    )  # fmt: skip
    store.write(Create(state))
    return state


def work(store: Store, name: str, steps: int, end: str | None = None, family: str = "") -> int:
    """As an attempt does: claim, start, commit `steps` steps of two trials, and perhaps end."""
    claimed = store.write(Claim("node-1", 100, 30.0, name))
    assert claimed is not None
    for status in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
        store.write(Transition(name, status, Cause.HOOK, fence=claimed.fence, prefect_run_id="run-1"))
    for step in range(steps):
        number = 2 * step
        parameters = {"x": float(step)}
        trials = [
            Trial(
                number,
                step,
                TrialState.COMPLETED,
                parameters,
                float(step),
                {"turnover": 1.0},
                family=family,
                started_at=utc_now(),
            ),
            Trial(number + 1, step, TrialState.FAILED, {"x": -1.0}, error="ValueError: no data"),
        ]
        best = float(step)
        store.write(
            CommitStep(
                name,
                claimed.fence,
                step,
                trials,
                {},
                performance=best,
                improvement=best,
                optimized_parameters=parameters,
            )
        )
    if end is not None:
        store.write(Transition(name, OptimizationStatus(end), Cause.HOOK, "as told", fence=claimed.fence))
    return claimed.fence


def command_in(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    """Runs a command line in this process, in `folder`, on the store there."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("O9_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return run


def filled_store() -> Path:
    """One completed, one running, one paused and one waiting optimization; of nodes that nobody has heard of."""
    shutil.copyfile(o9_testing.empty_store(), "optimization_state.db")
    with Store("optimization_state.db") as store:
        for name in ("done-1", "busy-1", "paused-1", "waiting-1"):
            create(store, name)
        work(store, "done-1", 3, "completed")
        work(store, "busy-1", 1)
        work(store, "paused-1", 2, "paused")
    return Path("optimization_state.db")

"""One seed, one ledger: however often an optimization is interrupted, its trials are those of the uninterrupted run."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType, TrialState
from o9.model.trial import Evaluation, Trial
from o9.strategies import asking, optuna_strategy, registry
from o9.strategies.asking import HistoryAsker, RandomAsker, ReplayAsker, make_asker
from o9.strategies.factory import create_strategy, settle
from o9.strategies.optuna_strategy import OptunaStrategy
from o9.strategies.plan import SAMPLERS, make_plan
from o9.strategies.registry import objective, resolve_objective

SPACE: dict[str, Any] = {
    "x": {"type": "float", "low": -5.0, "high": 10.0},
    "stop": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
    "band": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "fast": {"type": "int", "low": 2, "high": 60},
    "side": {"type": "categorical", "choices": ["long", "both", None, 1, 1.0]},
}
GRID: dict[str, Any] = {
    "band": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "fast": {"type": "int", "low": 2, "high": 11},
}
GP: dict[str, Any] = {"x": SPACE["x"], "fast": {"type": "int", "low": 2, "high": 6}}
Row = tuple[int, int, str, str, float | None, str | None]

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="gp needs PyTorch: pip install 'prefect-o9[gp]'")
EACH_SAMPLER = [pytest.param(name, marks=needs_torch if name == "gp" else ()) for name in SAMPLERS]


@pytest.fixture(autouse=True)
def _objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_objectives", {})
    monkeypatch.setattr(registry, "_strategies", {})

    @objective("uneven", data="prices-v1")
    async def uneven(parameters: dict[str, Any]) -> float:
        if parameters["fast"] % 7 == 3:
            raise ValueError(f"no data for {parameters['fast']}")
        sides = {"long": 3.0, "both": 1.0}
        return (
            -((parameters.get("x", 0.0) - 2.0) ** 2)
            - abs(parameters["fast"] - 20) / 7
            + parameters.get("band", 0.0)
            - parameters.get("stop", 0.0) * 30
            + sides.get(parameters.get("side", ""), 0.0)
        )


def make_state(total_steps: int = 0, parameters: dict[str, Any] | None = None, **metadata: Any) -> OptimizationState:
    now = datetime.now(UTC)
    space = {"grid": GRID, "gp": GP}.get(str(metadata.get("sampler")), SPACE)
    return OptimizationState(
        "id",
        "name",
        "",
        OptimizationType.PARAMETER_TUNING,
        OptimizationStatus.CREATED,
        OptimizationPriority.NORMAL,
        now,
        now,
        total_steps=total_steps,
        parameters=parameters or {},
        metadata={"objective": "uneven", "seed": 11, "search_space": space} | metadata,
    )


def rows(trials: Sequence[Trial]) -> list[Row]:
    """What has to be equal, floats to the last bit."""
    return [
        (t.number, t.step, t.state.value, json.dumps(t.parameters), t.value, (t.error or "").split("\n")[0])
        for t in trials
    ]


def stored(trials: Sequence[Trial]) -> list[Trial]:
    """The trials as a fresh process reads them: through JSON, with the keys in another order."""
    read: list[Trial] = []
    for trial in trials:
        fields = json.loads(json.dumps(trial.to_dict(), sort_keys=True))
        fields["started_at"] = None
        fields["state"] = TrialState(fields["state"])
        read.append(Trial(**fields))
    return read


async def run(
    state: OptimizationState,
    steps: range,
    ledger: Sequence[Trial] = (),
    checkpoint: dict[str, Any] | None = None,
) -> tuple[list[Trial], list[dict[str, Any]]]:
    """One attempt from a fresh object: the whole ledger after it, and the checkpoint of each of its steps."""
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, stored(ledger))
    whole, checkpoints = list(ledger), []
    try:
        for step in steps:
            result = await attempt.step(state, step, checkpoint)
            checkpoint = json.loads(json.dumps(result.checkpoint, sort_keys=True))
            whole += result.trials
            checkpoints.append(checkpoint)
    finally:
        await attempt.close()
    return whole, checkpoints


STEPS = {"nsga2": 60, "gp": 14}  # past the first generation, past the random start


@pytest.mark.parametrize("trials_per_step", [1, 4])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
async def test_resumed_after_any_step_the_ledger_is_the_same(
    sampler: str, direction: str, trials_per_step: int
) -> None:
    state = make_state(sampler=sampler, direction=direction, trials_per_step=trials_per_step)
    steps = STEPS.get(sampler, 24) // trials_per_step + 2
    whole, checkpoints = await run(state, range(steps))
    expected = rows(whole)
    assert len(expected) == steps * trials_per_step
    assert {row[2] for row in expected} == {"completed", "failed"}, "the run must have failures among its trials"
    for prefix in range(1, steps):
        committed = whole[: prefix * trials_per_step]
        # To look one step ahead would miss what a sampler does later with what it was given.
        ahead = range(prefix, min(prefix + 6, steps) if prefix % 5 else steps)
        resumed, _ = await run(state, ahead, committed, checkpoints[prefix - 1])
        assert rows(resumed) == expected[: len(resumed)], f"after {prefix} steps"


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc", "nsga2", "grid"])
async def test_an_attempt_for_every_step_gives_the_same_ledger(sampler: str) -> None:
    state = make_state(sampler=sampler, trials_per_step=3)
    whole, _ = await run(state, range(12))
    ledger: list[Trial] = []
    checkpoint = None
    for step in range(12):
        ledger, (checkpoint,) = await run(state, range(step, step + 1), ledger, checkpoint)
    assert rows(ledger) == rows(whole)


async def test_another_seed_gives_another_ledger() -> None:
    for sampler in ("random", "tpe", "cmaes", "qmc", "nsga2"):
        one, _ = await run(make_state(sampler=sampler, seed=1), range(5))
        other, _ = await run(make_state(sampler=sampler, seed=2), range(5))
        assert rows(one) != rows(other), sampler
    assert asking.mix(1, 2) != asking.mix(2, 1)
    assert len({asking.mix(7, number) for number in range(10_000)}) > 9_990


async def test_without_a_seed_one_is_drawn_and_kept() -> None:
    state = make_state(sampler="random")
    del state.metadata["seed"]
    whole, checkpoints = await run(state, range(6))
    resumed, _ = await run(state, range(3, 6), whole[:3], checkpoints[2])
    assert rows(resumed) == rows(whole)
    other, _ = await run(state, range(6))
    assert rows(other) != rows(whole)
    settled = settle(state)
    assert isinstance(settled.metadata["seed"], int)
    assert settled.metadata["seed"] != settle(state).metadata["seed"]
    assert "seed" not in state.metadata


# Real processes, killed


KILLED = """
import asyncio, json, os, sys
from datetime import UTC, datetime
from pathlib import Path
from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.model.trial import Trial
from o9.strategies.factory import create_strategy
from o9.strategies.registry import objective

record = Path(sys.argv[1])
now = datetime.now(UTC)
state = OptimizationState("id", "name", "", "parameter_tuning", "created", 2, now, now, total_steps=int(sys.argv[3]),
                          metadata=json.loads(sys.argv[2]))

@objective("uneven")
def uneven(parameters):
    import time
    time.sleep(0.02)
    if parameters["fast"] % 7 == 3:
        raise ValueError("no data")
    return -(parameters["x"] - 2.0) ** 2 - abs(parameters["fast"] - 20)

async def main():
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    ledger = [Trial(**row | {"state": TrialState(row["state"]), "started_at": None})
              for line in lines for row in line["trials"]]
    checkpoint = lines[-1]["checkpoint"] if lines else None
    attempt = create_strategy(state)
    attempt.open(state, ledger)
    for step in range(len(lines), attempt.total_steps):
        result = await attempt.step(state, step, checkpoint)
        checkpoint = result.checkpoint
        line = json.dumps({"trials": [t.to_dict() for t in result.trials], "checkpoint": checkpoint}) + "\\n"
        with open(record, "r+b" if record.exists() else "wb") as file:  # a step commits once, whole
            file.seek(0, 2)
            file.write(line.encode())
    await attempt.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_kill_9_in_the_middle_of_steps_leaves_the_ledger_the_same(tmp_path: Path, sampler: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    space = {"x": SPACE["x"], "fast": SPACE["fast"]}
    metadata = json.dumps(
        {"objective": "uneven", "search_space": space, "sampler": sampler, "seed": 5, "trials_per_step": 2}
    )

    def start(record: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(record), metadata, "30"])

    undisturbed = tmp_path / "undisturbed"
    assert start(undisturbed).wait(60) == 0
    disturbed = tmp_path / "disturbed"
    moments, kills, progress = random.Random(3), 0, 0
    while True:
        process = start(disturbed)
        if kills == 5:
            process.wait(120)
            break
        end = time.monotonic() + 60
        while process.poll() is None and _lines(disturbed) <= progress and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.1))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        progress = _lines(disturbed)
    assert process.returncode == 0
    assert kills == 5
    assert _recorded(disturbed) == _recorded(undisturbed)


def _lines(record: Path) -> int:
    return record.read_bytes().count(b"\n") if record.exists() else 0


def _recorded(record: Path) -> list[tuple[Any, ...]]:
    return [
        (row["number"], row["parameters"], row["value"], row["state"])
        for line in record.read_text().splitlines()
        for row in json.loads(line)["trials"]
    ]


# What a ledger shows, and what is refused


async def test_no_pickle_is_ever_read_from_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """CMA-ES keeps pickles in its study; the study is never stored, so that none can come from there."""
    state = make_state(sampler="cmaes")
    _, checkpoints = await run(state, range(12))
    assert "attrs" not in json.dumps(checkpoints)
    assert all(set(checkpoint) == set(checkpoints[0]) for checkpoint in checkpoints)
    assert len(json.dumps(checkpoints[-1])) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": "random"}, "metadata.sampler was 'tpe'"),
        ({"seed": 12}, "metadata.seed was 11 when this optimization began and is 12 now"),
        ({"direction": "minimize"}, "metadata.direction was 'maximize'"),
        ({"trials_per_step": 2}, "metadata.trials_per_step was 1"),
        ({"search_space": SPACE | {"fast": GRID["fast"]}}, "metadata.search_space"),
    ],
)
async def test_what_was_changed_in_between_is_named(change: dict[str, Any], said: str) -> None:
    whole, checkpoints = await run(make_state(sampler="tpe"), range(4))
    with pytest.raises(OptimizationStrategyError) as caught:
        await run(make_state(**({"sampler": "tpe"} | change)), range(4, 5), whole, checkpoints[-1])
    assert said in str(caught.value)
    assert "submit a new optimization" in str(caught.value)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc", "nsga2", "grid"])
async def test_a_ledger_that_the_seed_does_not_give_is_refused(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(sampler=sampler)
    whole, checkpoints = await run(state, range(9))
    whole[-1] = replace(whole[-1], parameters=whole[-1].parameters | {"fast": 9 if sampler == "grid" else 60})
    with pytest.raises(OptimizationStrategyError, match=r"trial 8 of the ledger .* and the same seed now gives"):
        await run(state, range(9, 10), whole, checkpoints[-1])
    monkeypatch.setattr(optuna_strategy, "_versions", lambda: checkpoints[-1]["versions"] | {"optuna": "1.2.3"})
    with pytest.raises(OptimizationStrategyError, match=r"optuna \S+ is now 1\.2\.3: install what it began with"):
        await run(state, range(9, 10), whole, checkpoints[-1])


async def test_a_ledger_with_a_hole_is_refused() -> None:
    state = make_state(sampler="random")
    whole, checkpoints = await run(state, range(4))
    with pytest.raises(OptimizationStrategyError, match="trial 2 where number 1 belongs"):
        await run(state, range(4, 5), [whole[0], *whole[2:]], checkpoints[-1])
    with pytest.raises(OptimizationStrategyError, match=r"the number of trials in the ledger was 4 .* is 3 now"):
        await run(state, range(4, 5), whole[:3], checkpoints[-1])
    with pytest.raises(OptimizationStrategyError, match="there is no checkpoint"):
        await run(state, range(4, 5), whole)


async def test_the_best_is_the_first_of_equals_and_never_a_failed_one() -> None:
    values = iter([3.0, float("nan"), 5.0, 5.0, 1.0, 1.0, 2.0, 4.0])

    @objective("listed", search_space=GRID)
    async def listed(parameters: dict[str, Any]) -> float:
        return next(values)

    for direction, best in (("maximize", 2), ("minimize", 4)):
        values = iter([3.0, float("nan"), 5.0, 5.0, 1.0, 1.0, 2.0, 4.0])
        state = make_state(objective="listed", sampler="grid", direction=direction, trials_per_step=2)
        attempt = create_strategy(state)
        assert isinstance(attempt, OptunaStrategy)
        attempt.open(state, [])
        results = [await attempt.step(state, step, None) for step in range(4)]
        trials = [trial for result in results for trial in result.trials]
        assert results[-1].best_value == trials[best].value
        assert results[-1].best_parameters == trials[best].parameters
        resumed = create_strategy(state)
        assert isinstance(resumed, OptunaStrategy)
        resumed.open(state, stored(trials))
        values = iter([2.5, 2.5])
        result = await resumed.step(state, 4, results[-1].checkpoint)
        assert (result.best_value, result.best_parameters) == (trials[best].value, trials[best].parameters)


async def test_the_same_step_asked_again_is_not_evaluated_again() -> None:
    calls = itertools.count()

    @objective("counted", search_space=GRID)
    async def counted(parameters: dict[str, Any]) -> float:
        return float(next(calls))

    state = make_state(objective="counted", sampler="random")
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, [])
    first = await attempt.step(state, 0, None)
    assert await attempt.step(state, 0, None) is first
    assert next(calls) == 1


async def test_a_grid_ends_where_it_is_exhausted() -> None:
    state = make_state(sampler="grid", trials_per_step=4, total_steps=100)
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, [])
    results = []
    checkpoint = None
    while not results or not results[-1].done:
        results.append(await attempt.step(state, len(results), checkpoint))
        checkpoint = results[-1].checkpoint
    trials = [trial for result in results for trial in result.trials]
    assert len(trials) == 110
    assert len({json.dumps(trial.parameters) for trial in trials}) == 110
    assert [len(result.trials) for result in results][-2:] == [4, 2]
    assert (await attempt.step(state, len(results), checkpoint)).trials == []


async def test_trials_carry_what_the_objective_gave_and_their_family() -> None:
    @objective("rich", search_space=GRID, data="prices-v1")
    async def rich(parameters: dict[str, Any]) -> Evaluation:
        own = "prices-v2" if parameters["fast"] == 3 else None
        return Evaluation(parameters["base"], [0.1, 0.2], 252, {"turnover": 3.0}, own)

    async def families(**metadata: Any) -> list[Trial]:
        state = make_state(objective="rich", sampler="grid", parameters={"base": 7.0, "fast": -1}, **metadata)
        return (await run(state, range(2)))[0]

    first, second = await families()
    assert (first.value, first.returns, first.periods_per_year, first.metrics) == (
        7.0,
        (0.1, 0.2),
        252,
        {"turnover": 3},
    )
    assert first.parameters == {"band": 0.0, "fast": 2}, "the suggested ones; the optimization's own lie beneath"
    assert (first.family, second.family) == ("rich@prices-v1", "rich@prices-v2")
    assert {trial.family for trial in await families(family="mine")} == {"mine"}


async def test_a_step_that_is_cut_off_leaves_cancelled_trials() -> None:
    import asyncio

    reached = asyncio.Event()

    @objective("stuck", search_space=GRID, data="d")
    async def stuck(parameters: dict[str, Any]) -> float:
        reached.set()
        await asyncio.Event().wait()
        return 1.0

    state = make_state(objective="stuck", sampler="grid", trials_per_step=2)
    attempt = create_strategy(state)
    assert isinstance(attempt, OptunaStrategy)
    attempt.open(state, [])
    assert attempt.interrupted() == ()
    task = asyncio.ensure_future(attempt.step(state, 0, None))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cut = attempt.interrupted()
    assert [(t.number, t.state, t.value, t.family) for t in cut] == [
        (number, TrialState.CANCELLED, None, "stuck@d") for number in (0, 1)
    ]
    assert all(trial.started_at is not None and trial.duration_seconds >= 0 for trial in cut)
    with pytest.raises(OptimizationStrategyError, match="next attempt"):
        await attempt.step(state, 0, None)
    await attempt.close()


# What is asked for


@pytest.mark.parametrize(
    ("metadata", "field", "said"),
    [
        ({"strategy": "optunna"}, "metadata.strategy", "did you mean optuna?"),
        ({"strategy": 3}, "metadata.strategy", "expected a name"),
        ({"objective": "unevn"}, "metadata.objective", "did you mean uneven?"),
        ({"objective": None}, "metadata.objective", "missing"),
        ({"objective": "a.b:c"}, "metadata.objective", "O9_ALLOWED_IMPORTS"),
        ({"search_space": None}, "metadata.search_space", "brings none"),
        ({"search_space": {}}, "metadata.search_space", "empty"),
        ({"direction": "maximise"}, "metadata.direction", "did you mean maximize?"),
        ({"direction": None}, "metadata.direction", "not one of maximize, minimize"),
        ({"sampler": "tpee"}, "metadata.sampler", "did you mean tpe?"),
        ({"sampler": ["tpe"]}, "metadata.sampler", "not one of"),
        ({"sampler": "grid", "search_space": SPACE}, "metadata.search_space.stop.step", "grid sampler needs a step"),
        ({"sampler": "cmaes", "search_space": {"side": SPACE["side"]}}, "metadata.sampler", "searches numbers"),
        ({"seed": -1}, "metadata.seed", "from 0 to"),
        ({"seed": True}, "metadata.seed", "got True"),
        ({"seed": "7"}, "metadata.seed", "got '7'"),
        ({"seed": 2**63}, "metadata.seed", "from 0 to"),
        ({"trials_per_step": 0}, "metadata.trials_per_step", "from 1 to"),
        ({"trials_per_step": 1.5}, "metadata.trials_per_step", "got 1.5"),
        ({"family": " "}, "metadata.family", "not empty"),
        ({"total_steps": -1}, "total_steps", "got -1"),
        ({"total_steps": True}, "total_steps", "got True"),
        (
            {"sampler": "grid", "search_space": {"n": {"type": "int", "low": 1, "high": 2_000_000}}},
            "total_steps",
            "2,000,000 points",
        ),
    ],
)
def test_what_can_never_run_is_refused_at_submission(metadata: dict[str, Any], field: str, said: str) -> None:
    state = make_state(**metadata)
    for check in (settle, create_strategy):
        with pytest.raises(OptimizationValidationError) as caught:
            check(state, allowed_imports=())
        assert caught.value.field == field
        assert said in caught.value.problem


def test_gp_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("o9.strategies.plan.find_spec", lambda name: None)
    with pytest.raises(OptimizationValidationError, match=r"metadata\.sampler: gp needs .*prefect-o9\[gp\]"):
        settle(make_state(sampler="gp"))


@pytest.mark.parametrize(
    ("metadata", "steps"),
    [
        ({}, 100),
        ({"trials_per_step": 8}, 13),
        ({"total_steps": 7}, 7),
        ({"sampler": "grid"}, 110),
        ({"sampler": "grid", "trials_per_step": 4}, 28),
        ({"objective": "branin", "search_space": None}, 50),
    ],
)
def test_total_steps_have_a_default(metadata: dict[str, Any], steps: int) -> None:
    assert create_strategy(make_state(**metadata)).total_steps == steps


def test_a_submission_without_anything_gets_a_demonstration_and_says_so() -> None:
    state = make_state(objective=None, search_space=None)
    settled = settle(state)
    assert settled.metadata["objective"] == "branin"
    assert "built-in demonstration objective 'branin'" in settled.warnings[0]
    assert settled.metadata["direction"] == "maximize"
    assert settle(settled, allowed_imports=()) == settled


# What it costs


def _ledger(asker: Any, count: int) -> Iterator[Trial]:
    for number in range(count):
        (parameters,) = asker.ask(1)
        value = -abs(parameters["x"])
        asker.tell([value])
        yield Trial(number, number, TrialState.COMPLETED, parameters, value)


def test_the_random_sampler_costs_the_same_at_any_number() -> None:
    plan = make_plan(make_state(sampler="random"), resolve_objective("uneven"))
    asker = make_asker(plan, 1)
    assert isinstance(asker, RandomAsker)

    def seconds() -> float:
        began = time.perf_counter()
        ledger.extend(_ledger(asker, 300))
        return time.perf_counter() - began

    ledger: list[Trial] = []
    early = min(seconds() for _ in range(5))
    for _ in range(20):
        seconds()
    late = min(seconds() for _ in range(5))
    assert late < 1.5 * early
    assert not any(hasattr(asker, name) for name in ("_study", "_trials"))


@pytest.mark.parametrize(("sampler", "kind"), [("tpe", HistoryAsker), ("random", RandomAsker)])
def test_a_ledger_of_ten_thousand_trials_is_taken_up_in_seconds(sampler: str, kind: type) -> None:
    state = make_state(sampler=sampler)
    plan = make_plan(state, resolve_objective("uneven"))
    ledger = list(_ledger(make_asker(replace(plan, sampler="random"), 1), 10_000))
    asker = make_asker(plan, 1)
    assert isinstance(asker, kind)
    began = time.perf_counter()
    if sampler == "random":
        asker.resume(ledger)
    else:  # its last trial is the random sampler's: everything before the check has been done by then
        with pytest.raises(OptimizationStrategyError):
            asker.resume(ledger)
    assert time.perf_counter() - began < 20  # measured: 2 s on an idle machine


def test_samplers_that_carry_a_state_are_replayed() -> None:
    for sampler in ("cmaes", "nsga2", "qmc"):
        plan = make_plan(make_state(sampler=sampler), resolve_objective("uneven"))
        assert isinstance(make_asker(plan, 1), ReplayAsker)


def test_optuna_says_nothing_and_keeps_its_settings(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    for sampler in ("tpe", "qmc", "cmaes", "nsga2"):
        list(_ledger(make_asker(make_plan(make_state(sampler=sampler), resolve_objective("uneven")), 1), 12))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before

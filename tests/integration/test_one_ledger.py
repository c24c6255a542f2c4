"""One seed, one ledger: however often an optimization is interrupted, its trials are those of the uninterrupted run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
from ledgers import GRID, SPACE, make_state, register_objective, rows, run

from o9.model.errors import OptimizationStrategyError, OptimizationValidationError
from o9.model.specification import SAMPLERS
from o9.model.states import TrialState
from o9.model.trial import Infeasible, Trial
from o9.strategies import optuna_strategy, registry, samplers
from o9.strategies.factory import settle
from o9.strategies.plan import make_plan
from o9.strategies.registry import resolve_objective
from o9.strategies.samplers import HistoryAsker, NumberAsker, ReplayAsker, make_asker

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="gp needs PyTorch: pip install 'prefect-o9[gp]'")
MARKS: dict[str, Any] = {"gp": needs_torch, "tpe": pytest.mark.slow, "nsga2": pytest.mark.slow}
EACH_SAMPLER = [pytest.param(name, marks=MARKS.get(name, ())) for name in SAMPLERS]


@pytest.fixture(autouse=True)
def _objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "objective", {})
    monkeypatch.setitem(registry._registered, "strategy", {})
    register_objective()


STEPS = {"nsga2": 60, "gp": 14}  # past the first generation, past the random start


@pytest.mark.parametrize(
    ("direction", "trials_per_step"),
    [
        ("maximize", 1),
        ("minimize", 4),
        pytest.param("maximize", 4, marks=pytest.mark.long),
        pytest.param("minimize", 1, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
async def test_the_ledger_is_the_same_when_resumed_after_any_step(
    sampler: str, direction: str, trials_per_step: int
) -> None:
    state = make_state(sampler=sampler, direction=direction, trials_per_step=trials_per_step)
    steps = STEPS.get(sampler, 24) // trials_per_step + 2
    whole, checkpoints = await run(state, range(steps))
    expected = rows(whole)
    assert len(expected) == steps * trials_per_step
    states = {row[2] for row in expected}
    assert states >= {"completed", "failed"}, "the run must have failures among its trials"
    assert sampler == "gp" or "infeasible" in states, "and some that cannot be"
    for prefix in range(1, steps):
        committed = whole[: prefix * trials_per_step]
        # To look one step ahead would miss what a sampler does later with what it was given.
        ahead = range(prefix, min(prefix + 6, steps) if prefix % 5 else steps)
        resumed, their_checkpoints = await run(state, ahead, committed, checkpoints[prefix - 1])
        assert rows(resumed) == expected[: len(resumed)], f"after {prefix} steps"
        # So an attempt that is resumed in its turn goes on from the same.
        assert their_checkpoints == checkpoints[prefix : prefix + len(ahead)], f"after {prefix} steps"


BEGUN = {"optimization_id": "before", "parameters": {"fast": 6, "x": 10_000.0, "gone": "x"}}


@pytest.mark.parametrize("sampler", [each for each in EACH_SAMPLER if each.values[0] != "grid"])
async def test_a_warm_start_is_the_first_trial_of_the_same_ledger(sampler: str) -> None:
    cold, warm = make_state(sampler=sampler), make_state(sampler=sampler, warm_start=True, warm_start_from=BEGUN)
    whole, checkpoints = await run(warm, range(6))
    (usual, *_), (first, *later) = (await run(cold, range(1)))[0], whole
    assert (first.parameters["fast"], first.parameters["x"] <= 10) == (6, True)  # 10,000 is outside of its space
    assert first.parameters.keys() == usual.parameters.keys()
    assert any(trial.parameters["fast"] != 6 for trial in later)
    for prefix in range(1, 6):
        resumed, _ = await run(warm, range(prefix, 6), whole[:prefix], checkpoints[prefix - 1])
        assert rows(resumed) == rows(whole)
    (warning,) = settle(warm).warnings
    assert all(named in warning for named in ("x = 10000", "gone"))


def test_a_grid_has_no_warm_start() -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        settle(make_state(sampler="grid", warm_start=True))
    assert refused.value.field == "metadata.warm_start"


async def test_samplers_learn_from_infeasible_trials() -> None:
    space = {"x": {"type": "float", "low": -5, "high": 10}, "y": {"type": "float", "low": 0, "high": 1}}

    @registry.objective("left-half", search_space=space)
    async def left_half(parameters: dict[str, Any]) -> float:
        if parameters["x"] > 0:
            raise Infeasible("x > 0")
        return float(parameters["y"])

    for sampler in ("tpe", "cmaes"):
        state = make_state(sampler=sampler, objective="left-half", search_space=space, seed=3)
        trials, _ = await run(state, range(80))
        late = [trial.state is TrialState.INFEASIBLE for trial in trials[40:]]
        assert sum(late) < 0.3 * len(late), f"{sampler}: {sum(late)} of {len(late)}; by chance two thirds"


async def test_another_seed_gives_another_ledger() -> None:
    for sampler in ("random", "tpe", "cmaes", "qmc", "nsga2"):
        one, _ = await run(make_state(sampler=sampler, seed=1), range(5))
        other, _ = await run(make_state(sampler=sampler, seed=2), range(5))
        assert rows(one) != rows(other), sampler
    assert samplers.derive_seed(1, 2) != samplers.derive_seed(2, 1)
    assert len({samplers.derive_seed(7, number) for number in range(10_000)}) > 9_990


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


# What a ledger shows, and what is refused


async def test_no_pickle_is_read_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """CMA-ES keeps pickles in its study, which is never stored."""
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
async def test_changes_between_steps_are_named(change: dict[str, Any], said: str) -> None:
    whole, checkpoints = await run(make_state(sampler="tpe"), range(4))
    with pytest.raises(OptimizationStrategyError) as caught:
        await run(make_state(**({"sampler": "tpe"} | change)), range(4, 5), whole, checkpoints[-1])
    assert said in str(caught.value)
    assert "submit a new optimization" in str(caught.value)


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc", "nsga2", "grid"])
async def test_a_ledger_that_does_not_follow_from_the_seed_is_refused(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(sampler=sampler)
    whole, checkpoints = await run(state, range(9))
    whole[-1] = replace(whole[-1], parameters=whole[-1].parameters | {"fast": 9 if sampler == "grid" else 60})
    with pytest.raises(OptimizationStrategyError, match=r"trial 8 of the ledger .* the same seed now gives"):
        await run(state, range(9, 10), whole, checkpoints[-1])
    monkeypatch.setattr(optuna_strategy, "_versions", lambda: checkpoints[-1]["versions"] | {"optuna": "1.2.3"})
    with pytest.raises(OptimizationStrategyError, match=r"optuna \S+ is now 1\.2\.3"):
        await run(state, range(9, 10), whole, checkpoints[-1])


async def test_a_ledger_with_a_gap_is_refused() -> None:
    state = make_state(sampler="random")
    whole, checkpoints = await run(state, range(4))
    with pytest.raises(OptimizationStrategyError, match="trial 2 in place of number 1"):
        await run(state, range(4, 5), [whole[0], *whole[2:]], checkpoints[-1])
    with pytest.raises(OptimizationStrategyError, match=r"the number of trials in the ledger was 4 .* is 3 now"):
        await run(state, range(4, 5), whole[:3], checkpoints[-1])
    with pytest.raises(OptimizationStrategyError, match="no checkpoint"):
        await run(state, range(4, 5), whole)


# What it costs


def _ledger(asker: Any, count: int) -> Iterator[Trial]:
    for number in range(count):
        (parameters,) = asker.ask(1)
        value = -abs(parameters["x"])
        asker.tell([value])
        yield Trial(number, number, TrialState.COMPLETED, parameters, value)


def test_the_random_sampler_keeps_no_history() -> None:
    plan = make_plan(make_state(sampler="random"), resolve_objective("uneven"))
    asker = make_asker(plan, 1)
    assert isinstance(asker, NumberAsker)

    assert len(list(_ledger(asker, 300))) == 300
    assert not any(hasattr(asker, name) for name in ("_study", "_trials"))


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize(("sampler", "kind"), [("tpe", HistoryAsker), ("random", NumberAsker)])
def test_a_long_ledger_is_resumed(sampler: str, kind: type, count: int) -> None:
    state, objective = make_state(sampler=sampler), resolve_objective("uneven")
    plan = make_plan(state, objective)
    ledger = list(_ledger(make_asker(make_plan(make_state(sampler="random"), objective), 1), count))
    asker = make_asker(plan, 1)
    assert isinstance(asker, kind)
    if sampler == "random":
        asker.resume(ledger)
    else:  # its last trial is the random sampler's: everything before the check has been done by then
        with pytest.raises(OptimizationStrategyError):
            asker.resume(ledger)


def test_samplers_that_carry_a_state_are_replayed() -> None:
    for sampler in ("cmaes", "nsga2", "qmc"):
        plan = make_plan(make_state(sampler=sampler), resolve_objective("uneven"))
        assert isinstance(make_asker(plan, 1), ReplayAsker)


def test_optuna_stays_silent_and_keeps_its_settings(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    for sampler in ("tpe", "qmc", "cmaes", "nsga2"):
        list(_ledger(make_asker(make_plan(make_state(sampler=sampler), resolve_objective("uneven")), 1), 12))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before

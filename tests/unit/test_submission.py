"""What a submission may hold, whoever submits; the order of a batch; what a retry takes over."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
from command_line import create, work

from o9.lifecycle.coordinator import OptimizationCoordinator
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.lifecycle.submission import in_order, prepared, record_refused, requested, retry, submit
from o9.model.errors import OptimizationStateError, OptimizationValidationError
from o9.model.optimization import OptimizationState
from o9.model.specification import Metadata, OptimizationSpec, Role, keys_of, new_optimization
from o9.model.states import OptimizationPriority
from o9.statistics.statistics import OptimizationStatistics
from o9.store import queries
from o9.store.optimizations.queries import Filter
from o9.store.store import Store
from o9.strategies.registry import objective, register_strategy


def batch(**after: str) -> list[OptimizationState]:
    """Of each name, and the names that it comes after."""
    return [state(name, *others) for name, others in after.items()]


def state(name: str, *after: str) -> OptimizationState:
    waits = {"after": list(after)} if after else {}
    return new_optimization({"optimization_id": name, "metadata": {"objective": "branin"} | waits})


def names(states: list[OptimizationState]) -> list[str]:
    return [each.optimization_id for each in states]


def test_each_comes_behind_those_it_waits_for_whatever_the_order_of_the_file() -> None:
    diamond = batch(a="", b="a", c="a", d="bc", e="")
    for given in itertools.permutations(diamond):
        placed = names(in_order(given))
        assert sorted(placed) == list("abcde")
        for each in given:
            assert all(
                placed.index(other) < placed.index(each.optimization_id) for other in each.metadata.get("after", ())
            )


def test_without_after_the_order_stays() -> None:
    assert names(in_order(batch(c="", a="", b=""))) == ["c", "a", "b"]
    assert in_order([]) == []


def test_those_of_another_batch_are_the_stores_business() -> None:
    assert names(in_order([state("b", "a", "elsewhere"), state("a", "known before")])) == ["a", "b"]


def test_a_long_chain_is_no_matter() -> None:
    chain = [state(f"a{n}", *[f"a{n - 1}"] * bool(n)) for n in range(1_500)]  # beyond Python's limit of recursion
    assert names(in_order(chain[::-1])) == names(chain)


@pytest.mark.parametrize(
    ("after", "circle"),
    [
        ({"a": "a"}, ("a", "a")),
        ({"a": "b", "b": "a"}, ("a", "b")),
        ({"start": "", "a": "c", "b": "a", "c": "b", "behind": "a"}, ("a", "b", "c")),
    ],
)
def test_a_circle_is_named(after: dict[str, str], circle: tuple[str, ...]) -> None:
    with pytest.raises(OptimizationValidationError) as refusal:
        in_order(batch(**after))
    assert refusal.value.field == "metadata.after"
    said = refusal.value.problem.split(": ")[1].split(" → ")
    assert said[0] == said[-1]
    assert set(said) == set(circle)
    # Each waits for the one that is named before it or behind it, all in one direction.
    waits = [later in after[earlier] for earlier, later in itertools.pairwise(said)]
    assert all(waits)


def test_an_id_that_is_there_twice_stays_twice() -> None:
    """Whether both are the same is for the store to say, where the second one is submitted."""
    other = new_optimization({"optimization_id": "a", "metadata": {"objective": "ackley"}})
    twice = [state("b", "a"), state("a"), other]
    assert [each.name for each in in_order(twice)] == ["branin", "ackley", "branin"]


@pytest.mark.parametrize("after", [3, None, "ab", {"a": 1}, [["a"]], [{}], [None]])
def test_what_is_no_list_of_ids_is_left_to_the_validation(after: Any) -> None:
    odd = state("x")
    odd.metadata["after"] = after
    assert names(in_order([odd, state("a")])) == ["x", "a"]


def fields_refused(store: Store, metadata: dict[str, Any]) -> list[str]:
    """The fields that a submission with these metadata is refused for; nothing is recorded then."""
    state = new_optimization({"optimization_id": "refused", "metadata": {"objective": "branin"}})
    state.metadata = dict(metadata)
    with pytest.raises(OptimizationValidationError) as refusal:
        asyncio.run(submit(store, state))
    assert store.read(queries.get, "refused") is None
    return [fault.field for fault in refusal.value.faults]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"objektive": "branin"}, ["objektive"]),
        ({"objective": "branin", "dirction": "minimize", "sede": 1}, ["dirction", "sede"]),
        ({"objective": "branin", "direction": "up", "seed": -1, "n_jobs": 4}, ["direction", "seed", "n_jobs"]),
        ({"objective": "branin", "seed": 1.5, "stop_after_failures": 0}, ["seed", "stop_after_failures"]),
        ({"objective": "branin", "trial_timeout_seconds": 0, "market_neutral": 1}, ["market_neutral",
          "trial_timeout_seconds"]),
        ({"objective": "branin", "sampler": "tpee", "search_space": {"x": 1}}, ["search_space.x", "sampler"]),
        ({"total_steps": 3}, ["total_steps"]),
        ({f"key {n}": n for n in range(100)}, [f"key {n}" for n in range(20)]),
    ],
)  # fmt: skip
def test_what_metadata_cannot_hold_is_refused_all_at_once(
    store: Store, metadata: dict[str, Any], refused: list[str]
) -> None:
    assert fields_refused(store, metadata) == [f"metadata.{key}" for key in refused]


def test_python_refuses_an_unknown_key_at_each_of_its_doors(store: Store) -> None:
    state = new_optimization({"optimization_id": "a", "metadata": {"objective": "branin", "smapler": "grid"}})
    doors = (
        OptimizationCoordinator(store=store).submit_optimization,
        OptimizationLifecycleManager(store=store).create_optimization,
    )
    for door in doors:
        with pytest.raises(OptimizationValidationError) as refusal:
            asyncio.run(door(state))
        assert refusal.value.field == "metadata.smapler"
    assert store.read(queries.get, "a") is None


def test_a_strategy_may_declare_keys_of_its_own(store: Store) -> None:
    async def of_the_desk(optimization: OptimizationState) -> None:
        """Nothing to do."""

    register_strategy("of-the-desk", of_the_desk, metadata=("desk",))
    metadata = {"strategy": "of-the-desk", "desk": "rates", "notes": {"free": 1}, "tags": ["a"]}
    asyncio.run(submit(store, new_optimization({"optimization_id": "declared", "metadata": metadata})))
    assert store.read(queries.get, "declared").metadata == metadata
    assert fields_refused(store, metadata | {"book": 1}) == ["metadata.book"]
    with pytest.raises(OptimizationValidationError):
        register_strategy("of-the-desk", of_the_desk, metadata="desk")


def test_what_names_nothing_is_a_demonstration_or_refused(store: Store) -> None:
    with pytest.raises(OptimizationValidationError, match=r"^metadata\.objective: it is missing"):
        requested({"metadata": {"seed": 1}})
    unnamed = new_optimization({"optimization_id": "shown", "metadata": {"objective": "branin"}})
    unnamed.metadata = {}
    asyncio.run(submit(store, unnamed))
    assert store.read(queries.get, "shown").metadata["demonstration"] is True
    asyncio.run(submit(store, new_optimization({"optimization_id": "own", "metadata": {"objective": "branin"}})))
    assert "demonstration" not in store.read(queries.get, "own").metadata
    found = store.read(queries.page, wanted=Filter(strategy="demonstration")).items
    assert [state.optimization_id for state in found] == ["shown"]
    statistics = OptimizationStatistics(store=store)
    told = asyncio.run(statistics.get_global_statistics())
    assert {name: sum(by.values()) if isinstance(by, dict) else by for name, by in told["by_strategy"].items()} == {
        "demonstration": 1, "default": 1,
    }  # fmt: skip


class Averages(TypedDict):
    fast: int
    slow: int


def averages(parameters: Averages) -> float:
    return float(parameters["slow"] - parameters["fast"])


def test_a_space_has_the_parameters_that_the_objective_names() -> None:
    objective("averages", data=None)(averages)
    span = {"type": "int", "low": 2, "high": 60}
    metadata = {"objective": "averages", "search_space": {"fast": span, "slow": span}}
    assert prepared(requested({"metadata": metadata})).metadata["search_space"] == metadata["search_space"]
    metadata["search_space"] = {"fast": span, "slwo": span}
    with pytest.raises(OptimizationValidationError, match=r"search_space\.slwo: .*did you mean slow\?"):
        prepared(requested({"metadata": metadata}))


def test_a_spec_is_a_model_with_a_schema() -> None:
    fields = {"name": "carry", "priority": "high", "metadata": {"objective": "branin", "hold_out": 0.3}}
    spec = OptimizationSpec(**fields)
    assert spec.to_state().priority is OptimizationPriority.HIGH
    assert spec.to_state().metadata == fields["metadata"]
    schema = OptimizationSpec.model_json_schema()
    assert schema["properties"].keys() == OptimizationSpec.model_fields.keys() - {"created_at", "updated_at"}
    known = schema["$defs"]["Metadata"]["properties"]
    assert known.keys() == Metadata.model_fields.keys() - keys_of(Role.RECORDED)
    assert all(each.get("description") for each in known.values())


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"name": "Carry 22:00", "metadata": {"objective": "branin"}}, "carry-22-00-2"),
        ({"name": "动量", "metadata": {"objective": "desk.momentum:Sharpe"}}, "sharpe-2"),
        ({"metadata": {"strategy": "desk:Search"}}, "optimization-2"),
        ({"name": "-rf", "metadata": {"objective": "branin"}}, "rf-2"),
    ],
)
def test_an_id_begins_with_the_name(given: dict[str, Any], begins: str) -> None:
    assert new_optimization(given).optimization_id.startswith(begins)


def test_a_state_that_was_written_out_is_a_spec_again() -> None:
    state = new_optimization({"metadata": {"objective": "branin"}, "baseline_performance": 0})
    again = new_optimization(state.to_dict())
    assert again == state
    with pytest.raises(OptimizationValidationError, match=r"^progress: there is no such field"):
        new_optimization(state.to_dict() | {"progress": 0.5})


def test_what_was_refused_is_not_run_again_as_something_else(store: Store) -> None:
    """Of its search nothing was recorded: a retry would be the demonstration of its type."""
    given = {"name": "Carry", "metadata": {"objective": "desk:carry"}}
    refusal = OptimizationValidationError("metadata.objective", "no module named 'desk'")
    refused = asyncio.run(record_refused(store, given, refusal, "a-run"))
    with pytest.raises(OptimizationStateError, match="nothing to run again"):
        asyncio.run(retry(store, refused))
    assert names(list(store.read(queries.page).items)) == [refused]


def run_of_series(store: Store, name: str, metadata: dict[str, Any] | None = None) -> OptimizationState:
    given = {"objective": "branin", "series": "carry", "warm_start": True} | (metadata or {})
    return asyncio.run(submit(store, new_optimization({"optimization_id": name, "metadata": given})))


def test_a_warm_start_takes_the_best_of_the_last_completed_run(store: Store) -> None:
    assert "warm_start_from" not in run_of_series(store, "first").metadata
    work(store, "first", 2, "completed")
    run_of_series(store, "cut-off")
    work(store, "cut-off", 3, "failed")
    create(store, "another", metadata={"objective": "branin", "series": "other"})
    work(store, "another", 3, "completed")
    begun = run_of_series(store, "second")
    assert begun.metadata["warm_start_from"] == {"optimization_id": "first", "parameters": {"x": 1.0}}
    assert ["first" in each and "draws y" in each for each in begun.warnings] == [True]  # no y was tried
    elsewhere = {"x": {"type": "float", "low": 5, "high": 9}, "y": {"type": "float", "low": 0, "high": 9}}
    assert "x = 1" in run_of_series(store, "elsewhere", {"search_space": elsewhere}).warnings[0]
    assert run_of_series(store, "second") == begun
    work(store, "second", 1, "completed")
    again = asyncio.run(retry(store, "second"))
    assert again.metadata["warm_start_from"] == begun.metadata["warm_start_from"]
    work(store, again.optimization_id, 3, "completed")
    assert "warm_start_from" not in asyncio.run(retry(store, "first")).metadata


def test_a_retry_begins_within_its_steps(store: Store) -> None:
    create(store, "done", total_steps=3)
    work(store, "done", 3, "completed")
    for total, field in ((2, "metadata.retry_from_step"), (3, "metadata.retry_from_step"), (4, None)):
        again = {"total_steps": total, "metadata": {"retry_of": "done", "retry_from_step": 3}}
        try:
            asyncio.run(submit(store, new_optimization(again)))
            refused = None
        except OptimizationValidationError as error:
            refused = error.field
        assert refused == field, total


def test_what_a_warm_start_was_chosen_from_counts_with_it(store: Store) -> None:
    run_of_series(store, "first")
    work(store, "first", 1, "completed", family="branin@monday")
    assert run_of_series(store, "second").metadata["family"] == "branin@monday"
    assert run_of_series(store, "third", {"family": "desk"}).metadata["family"] == "desk"


def test_a_warm_start_of_no_series_is_a_warning(store: Store) -> None:
    begun = run_of_series(store, "alone", {"series": None})
    assert ["metadata.series" in each for each in begun.warnings] == [True]

"""The order of a batch, and what a retry takes over: the pure parts of submission."""

import itertools
from typing import Any

import pytest

from o9.lifecycle.submission import in_order, new_optimization
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationState


def batch(**after: str) -> list[OptimizationState]:
    """Of each name, and the names that it comes after."""
    return [state(name, *others) for name, others in after.items()]


def state(name: str, *after: str) -> OptimizationState:
    return new_optimization({"optimization_id": name, "metadata": {"after": list(after)} if after else {}})


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
    twice = [state("b", "a"), state("a"), new_optimization({"optimization_id": "a", "name": "other"})]
    assert [each.name for each in in_order(twice)] == ["optimization", "other", "optimization"]


@pytest.mark.parametrize("after", [3, None, "ab", {"a": 1}, [["a"]], [{}], [None]])
def test_what_is_no_list_of_ids_is_left_to_the_validation(after: Any) -> None:
    odd = state("x")
    odd.metadata["after"] = after
    assert names(in_order([odd, state("a")])) == ["x", "a"]

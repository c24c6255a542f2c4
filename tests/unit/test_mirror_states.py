"""`mirror_states` on a flow: it stays the flow it was, and what is wrong is said at once, by the field's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow, task

from o9.flows.mirror import _to_record, mirror_states
from o9.mirror.observed_state import FLOW, ObservedState
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import utc_now
from o9.model.states import OptimizationPriority, OptimizationType

HOOKS = ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation")


def counts(of: Any) -> list[int]:
    return [len(getattr(of, f"{event}_hooks")) for event in HOOKS]


def theirs(flow: Any, flow_run: Any, state: Any) -> None:
    """A user's own hook."""


def fresh() -> Any:
    @flow(retries=3, on_running=[theirs], on_failure=[theirs], description="mine")
    def rebalance(universe: str = "all", size: int = 3) -> float:
        return 1.0

    return rebalance


def test_it_is_the_same_flow_with_hooks() -> None:
    one = fresh()
    before = (one.name, one.fn, one.retries, one.description, one.parameters.model_dump())
    assert mirror_states(one) is one
    assert counts(one) == [2, 1, 2, 1, 1]
    assert one.on_running_hooks[0] is theirs
    assert (one.name, one.fn, one.retries, one.description, one.parameters.model_dump()) == before


@pytest.mark.parametrize(
    "way",
    [
        lambda one: mirror_states(one, priority="high"),
        lambda one: mirror_states(priority=3)(one),
        lambda one: mirror_states(priority=OptimizationPriority.HIGH)(one),
    ],
)
def test_every_way_to_write_it(way: Callable[[Any], Any]) -> None:
    one = fresh()
    assert way(one) is one
    words = one.on_running_hooks[-1].o9_mirrors
    optimization = words.optimization("run-1", "a flow / a run")
    assert optimization.priority is OptimizationPriority.HIGH
    assert optimization.optimization_type is OptimizationType.STRATEGY_OPTIMIZATION
    assert optimization.name == "a flow / a run"
    assert optimization.metadata == {"strategy": "mirrored"}


def test_once_more_counts_once_and_the_last_words_hold() -> None:
    one = mirror_states(mirror_states(fresh(), name="first"), name="last")
    assert counts(one) == [2, 1, 2, 1, 1]
    assert one.on_running_hooks[-1].o9_mirrors.name == "last"


def test_a_copy_made_before_is_not_touched_and_one_made_after_is_mirrored() -> None:
    one = fresh()
    before = one.with_options(name="before")
    mirror_states(one)
    assert counts(before) == [1, 0, 1, 0, 0]
    assert counts(one.with_options(name="after")) == [2, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"optimization_type": "fortune_telling"}, "optimization_type"),
        ({"priority": 9}, "priority"),
        ({"name": 3}, "name"),
        ({"description": None}, "description"),
        ({"metadata": {"desk": {1, 2}}}, "metadata.desk"),
        ({"metadata": {"strategy": "optuna"}}, "metadata.strategy"),
        ({"metadata": {"after": ["a"]}}, "metadata.after"),
        ({"metadata": {"timeout_seconds": 3}}, "metadata.timeout_seconds"),
        ({"metadata": [1]}, "metadata"),
    ],
)
def test_wrong_words_are_refused_at_decoration(words: dict[str, Any], field: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        mirror_states(**words)
    assert refused.value.field == field
    one = fresh()
    with pytest.raises(OptimizationValidationError):
        mirror_states(one, **words)
    assert counts(one) == [1, 0, 1, 0, 0]


@task
def a_task() -> None: ...


@pytest.mark.parametrize("what", [a_task, lambda: 1, 3, fresh])
def test_only_a_flow_can_be_mirrored(what: Any) -> None:
    with pytest.raises(OptimizationValidationError, match="put mirror_states above @flow") as refused:
        mirror_states(what)
    assert refused.value.field == "flow"


def seen(state_id: str, state_type: str) -> ObservedState:
    return ObservedState(FLOW, "r", "r", state_id, state_type, state_type.capitalize(), "", utc_now())


def test_a_state_that_prefect_never_had_is_not_recorded() -> None:
    pending, running = seen("1", "PENDING"), seen("2", "RUNNING")
    cancelling, crashed = seen("3", "CANCELLING"), seen("4", "CRASHED")
    assert _to_record([], running) == [running]
    assert _to_record([pending], running) == [pending, running], "Prefect may answer a moment late"
    assert _to_record([pending, running], running) == [pending, running]
    assert _to_record([pending, running], cancelling) == [pending, running]
    assert _to_record([pending, running, crashed], crashed) == [pending, running, crashed]
    assert _to_record([], crashed) == [crashed], "Prefect is away"

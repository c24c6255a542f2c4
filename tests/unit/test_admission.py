"""A new run that its worker cannot begin: whether it is left to another worker, or has failed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from o9.flows.admission import is_for_another_worker
from o9.lifecycle.submission import prepared, requested
from o9.model.errors import OptimizationValidationError
from o9.store.optimizations.prefect_runs import MAX_REJECTIONS

ALLOWED = ("desk_elsewhere", "json")
GIVEN: dict[str, Any] = {"name": "Carry", "total_steps": 3, "metadata": {"objective": "desk_elsewhere.fx:carry"}}


def refused(given: dict[str, Any]) -> OptimizationValidationError:
    with pytest.raises(OptimizationValidationError) as raised:
        prepared(requested(given, ALLOWED), ALLOWED)
    return raised.value


@pytest.mark.parametrize(
    ("run", "wrong", "is_left"),
    [
        ({}, {}, True),
        ({"run_count": MAX_REJECTIONS - 2}, {}, True),
        ({"run_count": MAX_REJECTIONS - 1}, {}, False),
        ({"auto_scheduled": False}, {}, False),  # a form's
        ({}, {"total_steps": -1}, False),  # another fault beside it
        ({}, {"metadata": {"objective": "json:carry"}}, False),  # it is installed, and has no such function
        ({}, {"metadata": {"objective": "another_desk:carry"}}, False),  # it may not be imported
        ({}, {"metadata": {"objective": "no such name"}}, False),
    ],
)
def test_only_a_missing_package_of_a_scheduled_run_is_another_worker_s(
    run: dict[str, Any], wrong: dict[str, Any], is_left: bool, set_o9: Callable[..., None]
) -> None:
    set_o9(allowed_imports=",".join(ALLOWED))
    given = GIVEN | wrong
    flow_run: Any = SimpleNamespace(**{"auto_scheduled": True, "run_count": 0} | run)
    assert is_for_another_worker(flow_run, refused(given), given) is is_left

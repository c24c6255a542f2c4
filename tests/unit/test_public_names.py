"""The import name: every name that users know is there, with its members and fields, and is cheap to load."""

import dataclasses
import re
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
from o9_testing import new

import OptimizationStateAggregator as public
from OptimizationStateAggregator import (
    AlertLevel,
    HealthStatus,
    OptimizationAlert,
    OptimizationError,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationPriority,
    OptimizationState,
    OptimizationStatus,
    OptimizationType,
)


def test_every_name_is_there() -> None:
    for name in public.__all__:
        assert getattr(public, name).__name__ == name


def test_it_says_its_version() -> None:
    assert public.__version__ == version("prefect-o9")


@pytest.mark.slow
def test_an_objective_s_module_does_not_load_prefect() -> None:
    program = (
        "import sys\n"
        "from OptimizationStateAggregator import Evaluation, objective\n"
        "print(sorted({'prefect', 'sqlalchemy', 'optuna', 'fastapi', 'numpy'} & set(sys.modules)))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


# Their members and fields


MEMBERS: dict[type, str] = {
    OptimizationStatus: "created initializing running paused completed failed cancelled timeout suspended",
    OptimizationType: """parameter_tuning strategy_optimization portfolio_optimization risk_optimization
        performance_optimization system_optimization""",
    AlertLevel: "info warning error critical",
    HealthStatus: "healthy warning critical unknown",
}
FIELDS: dict[type, str] = {
    OptimizationState: """optimization_id name description optimization_type status priority created_at updated_at
        started_at completed_at progress current_step total_steps completed_steps current_performance
        baseline_performance target_performance performance_improvement parameters optimized_parameters results metrics
        issues warnings cpu_usage memory_usage execution_time metadata""",
    OptimizationMetrics: """optimization_id timestamp execution_time cpu_usage memory_usage throughput convergence_rate
        improvement_rate stability_score accuracy precision recall f1_score profit_improvement risk_reduction
        efficiency_gain""",
    OptimizationAlert: "alert_id optimization_id level title message timestamp resolved resolved_at metadata",
    OptimizationHealthReport: """optimization_id timestamp overall_status validity_status completeness_status
        security_status performance_status validity_score completeness_score security_score performance_score issues
        recommendations""",
}
ERRORS = "State Coordination Lifecycle Statistics Health API Sync Alert"


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_members_are_those_that_are_stored_and_sent(kind: Any) -> None:
    assert [member.value for member in kind] == MEMBERS[kind].split()
    assert all(member.name == member.value.upper() for member in kind)


def test_priorities_are_numbers() -> None:
    assert {each.name: each.value for each in OptimizationPriority} == {"LOW": 1, "NORMAL": 2, "HIGH": 3, "CRITICAL": 4}


@pytest.mark.parametrize("kind", FIELDS)
def test_the_fields_have_their_names(kind: Any) -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    assert known[: len(FIELDS[kind].split())] == FIELDS[kind].split()


def test_a_state_is_the_same_after_it_was_plain() -> None:
    state = new("a", parameters={"fast": 3}, metadata={"strategy": "default"})
    plain = state.to_dict()
    assert (plain["status"], plain["priority"], plain["optimization_type"]) == ("created", 2, "parameter_tuning")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", plain["created_at"])
    assert OptimizationState.from_dict(plain) == state


def test_the_errors_have_one_root() -> None:
    for name in ERRORS.split():
        assert issubclass(getattr(public, f"Optimization{name}Error"), OptimizationError)

"""The flow `check_health` on a real Prefect server: checks, artifacts, failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import o9_testing
import pytest
from contract_reports import healthy
from contract_steps import at_work, put, trial
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flows import load_flow_from_entrypoint

from o9.aggregator.prefect_server import prefect_client_settings
from o9.demo.functions import branin
from o9.flows.check_health import check_health
from o9.health import checker as checker_module
from o9.health.check_round import Round, markdown, table
from o9.health.checker import OptimizationHealthChecker
from o9.health.facts import read_facts
from o9.model.errors import OptimizationHealthError, OptimizationStoreError, OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport
from o9.model.states import HealthStatus
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.store import Store

BEST = {"x": 3.1, "y": 2.3}


@pytest.fixture(autouse=True)
def flows_go_to_the_session_s_server() -> Iterator[None]:
    with prefect_client_settings(o9_testing.session_server()):
        yield


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """The flows' store, with two ended optimizations, a running one and a queued one."""
    from o9.blocks.store import release_store, use_store

    with Store(store_url) as opened:
        for name in ("done-1", "done-2", "runs"):
            fence = at_work(opened, name, total_steps=2, metadata={"objective": "branin"}).fence
            best = trial(0, parameters=BEST, value=branin(BEST))
            opened.write(CommitStep(name, fence, 0, [best], {}))
        put(opened, "waits")
        opened.write(Transition("done-1", S.COMPLETED, Cause.HOOK))
        opened.write(Transition("done-2", S.FAILED, Cause.HOOK))
        use_store(opened)
        yield opened
        release_store(opened)


async def artifacts(state: Any) -> dict[str | None, Any]:
    async with get_client() as client:
        which = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        found = await client.read_artifacts(artifact_filter=which)
    return {artifact.key: artifact for artifact in found}


async def test_running_and_ended_optimizations_are_checked(store: Store) -> None:
    state = await check_health(return_state=True)
    assert state.is_completed()
    told = await state.result()  # type: ignore[misc]
    assert (told["checked"], told["under_way"], told["ended"], told["failures"]) == (3, 1, 2, {})
    assert sum(told["by_status"].values()) == 3
    assert store.read(queries.health_due) == []
    reports = {row["optimization_id"]: row["report"] for row in store.read(queries.health_reports)}
    assert reports.keys() == {"done-1", "done-2", "runs"}
    found = await artifacts(state)
    assert {(key, artifact.type) for key, artifact in found.items()} == {
        ("o9-health", "table"), ("o9-health-summary", "markdown"), (None, "progress"),
    }  # fmt: skip
    rows = json.loads(found["o9-health"].data)
    assert {row["optimization"]: row["overall"] for row in rows} == {
        name: report["overall_status"] for name, report in reports.items()
    }
    assert "**3** checked" in found["o9-health-summary"].data
    assert "1 are under way, 2 have ended" in found["o9-health-summary"].data
    assert found[None].data == 100.0
    for name in ("done-1", "done-2"):  # their best was evaluated again, in a child process
        repetition = store.read(queries.repetition, name)
        assert repetition is not None
        scores = {check["name"]: check["score"] for check in json.loads(repetition.checks)}
        assert scores["validity.repeatable"] == 1.0
    assert store.read(queries.repetition, "runs") is None
    again = await check_health()
    assert (again["under_way"], again["ended"]) == (1, 0)


async def test_a_failed_check_is_listed_and_the_others_continue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"done-1"}

    async def check(self: OptimizationHealthChecker, name: str, *, evaluate: bool) -> OptimizationHealthReport:
        if name in broken:
            raise ArithmeticError("no such luck")
        return await original(self, name, evaluate=evaluate)

    original = OptimizationHealthChecker.check_optimization_health
    monkeypatch.setattr(OptimizationHealthChecker, "check_optimization_health", check)
    state = await check_health(return_state=True)
    told = await state.result()  # type: ignore[misc]
    assert state.is_completed()
    assert (told["checked"], told["failures"]) == (2, {"done-1": "ArithmeticError: no such luck"})
    assert store.read(queries.health_due) == ["done-1"]
    words = (await artifacts(state))["o9-health-summary"].data
    assert "## Could not be checked\n\n- **done-1**: ArithmeticError: no such luck" in words
    broken |= {"runs"}
    state = await check_health(return_state=True)
    assert state.is_failed()  # none could be made
    with pytest.raises(OptimizationHealthError, match="all 2 health checks failed; runs: ArithmeticError"):
        await state.result()  # type: ignore[misc]


async def test_the_flow_uses_the_rules_of_its_process(store: Store) -> None:
    used = OptimizationHealthChecker()
    used.use(store)
    used.register_health_rule(lambda _, report: report.issues.append("mine"))
    used.set_health_threshold("completeness_threshold", 0.0)
    await check_health()
    for row in store.read(queries.health_reports):
        assert row["report"]["issues"][-1] == "mine"
    latest = (await used.recent_report("done-1")).timestamp
    assert [row["times"] for row in store.read(queries.health_history, "done-1")] == [1]
    await check_health(limit=1)
    assert (await used.recent_report("done-1")).timestamp == latest


async def test_the_limit_leaves_the_rest_to_the_next_round(store: Store) -> None:
    told = await check_health(limit=1)
    assert (told["under_way"], told["ended"], told["more_due"]) == (1, 1, True)
    assert store.read(queries.health_due) == ["done-2"]
    for limit in (0, 1000):
        state = await check_health(limit, return_state=True)
        assert state.is_failed()
        with pytest.raises(OptimizationValidationError, match="limit"):
            await state.result()  # type: ignore[misc]


async def test_an_unavailable_store_fails_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise OptimizationStoreError("it is away")

    monkeypatch.setattr(checker_module, "read_facts", away)
    state = await check_health(return_state=True)
    assert state.is_failed()
    with pytest.raises(OptimizationStoreError, match="away"):
        await state.result()  # type: ignore[misc]
    monkeypatch.setattr(checker_module, "read_facts", read_facts)
    assert (await check_health())["ended"] == 2


def test_the_flow_is_deployed_by_its_module() -> None:
    assert load_flow_from_entrypoint("o9.flows.check_health:check_health") is check_health


def test_texts_are_escaped_and_long_lists_are_cut() -> None:
    words = markdown(Round(failures={f"f{number}": "<b>bold</b>\n# a heading" for number in range(51)}))
    assert "<b>" not in words
    assert "- **f49**: \\<b\\>bold\\</b\\> \\# a heading\n- and 1 more\n" in words
    assert "**f50**" not in words


def test_the_worst_reports_come_first() -> None:
    reports = [
        healthy(f"a{number:02}", overall_status=HealthStatus.CRITICAL, validity_score=number / 100)
        for number in range(60, 0, -1)
    ]
    assert [row["optimization"] for row in table(Round(reports))][:2] == ["a01", "a02"]

"""What a desk receives about the runs of a recurring optimization: names, pages, one message for many runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from contract_steps import at_work
from rule_subjects import commit, complete, fail, report, told

from o9.alerts.rules.evaluator import RuleEvaluator
from o9.alerts.rules.rules import AFTER_INSTANT
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus as S
from o9.store import queries
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store

PAGE = "https://prefect.example/runs/flow-run/"
LUCK: dict[str, Any] = {"name": "validity.data_snooping", "score": 0.2, "words": "luck is enough"}
SERIES: dict[str, Any] = {"metadata": {"series": "carry"}}


@dataclass
class Desk:
    """A store, whose alerts are evaluated and delivered when the test says so."""

    store: Store
    system: AlertNotificationSystem
    evaluator: RuleEvaluator

    async def evaluate(self) -> None:
        assert await self.evaluator.evaluate("node", utc_now())

    async def titles(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "o9.alerts"):
            await self.evaluate()
            await self.system.deliver_once()
        return [record.getMessage().split(" | ")[0] for record in caplog.records if record.name == "o9.alerts"]


OpenDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def open_desk(store_url: str, tmp_path: Path) -> AsyncIterator[OpenDesk]:
    with Store(store_url) as store:
        systems: list[AlertNotificationSystem] = []

        async def make(rules: str = "") -> Desk:
            path = tmp_path / "alerts.yaml"
            path.write_text(f"route: {{group_wait: 0s, group_interval: 1ms}}\n{rules}", encoding="utf-8")
            system = AlertNotificationSystem(store=store, alerts_file=str(path))
            systems.append(system)
            await system.initialize()
            evaluator = RuleEvaluator(system, run_page=lambda run: f"{PAGE}{run}")
            await evaluator.use(store, 600.0)
            made = Desk(store, system, evaluator)
            await made.evaluate()
            return made

        yield make
        for system in systems:
            await system.cleanup()


async def test_runs_of_one_series_that_fail_are_one_message_and_another_one_is_its_own(
    open_desk: OpenDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await open_desk()
    for number in range(20):
        fail(desk.store, f"run-{number}", name=f"carry-2026-01-{number + 1:02}", **SERIES)
    fail(desk.store, "other", name="Momentum")
    assert sorted(await desk.titles(caplog)) == [
        "[ERROR] Optimization failed: Momentum · other", "[ERROR] Optimization failed: carry (20 firing)",
    ]  # fmt: skip


async def test_an_alert_has_the_page_of_its_run(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    claimed = at_work(desk.store, "a")
    broke = Transition("a", S.FAILED, Cause.HOOK, fence=claimed.fence, issue="no data", prefect_run_id="f00d")
    desk.store.write(broke)
    fail(desk.store, "b")
    await desk.evaluate()
    rows = {row["optimization_id"]: row["metadata"] for row in desk.store.read(queries.alerts)}
    assert (rows["a"]["run"], rows["b"].get("run")) == (f"{PAGE}f00d", None)


async def test_start_and_completion_are_notified_in_order_where_the_specification_asks(
    open_desk: OpenDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await open_desk()
    complete(desk.store, "quiet")
    names = ("Carry", "Momentum", "Pairs", "Trend")
    for name in names:
        complete(desk.store, name, 1.25, name=name, metadata={"on_start": True, "on_completion": True})
    happened = [f"{what}: {name}" for name in names for what in ("started", "completed")]
    assert await desk.titles(caplog) == [f"[INFO] Optimization {each}" for each in happened]
    assert desk.store.read(queries.alerts)[0]["message"].startswith("Trend ended at 1.25 in ")


async def test_what_goes_on_after_a_pause_has_not_started_again(
    open_desk: OpenDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await open_desk()
    claimed = at_work(desk.store, "a", name="Carry", metadata={"on_start": True})
    assert await desk.titles(caplog) == ["[INFO] Optimization started: Carry · a"]
    await desk.evaluator.evaluate("node", utc_now() + 2 * AFTER_INSTANT)
    assert await desk.titles(caplog) == []
    desk.store.write(Transition("a", S.PAUSED, Cause.HOOK, fence=claimed.fence))
    desk.store.write(Transition("a", S.CREATED, Cause.HOOK))
    again = desk.store.write(Claim("node-1", 1000, 600.0, "a"))
    assert again is not None
    for status in (S.INITIALIZING, S.RUNNING):
        desk.store.write(Transition("a", status, Cause.HOOK, fence=again.fence))
    assert await desk.titles(caplog) == []


async def test_what_a_series_has_in_each_run_is_told_once_with_a_count_until_a_run_is_well(
    open_desk: OpenDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await open_desk()

    def episode() -> tuple[str, Any, bool]:
        (found,) = [row for row in desk.store.read(queries.alerts) if row["episode"] == row["alert_id"]]
        (newest, metadata), *_ = desk.store.read(queries.episodes, [found["alert_id"]]).values()
        return newest.optimization_id, metadata["evidence"].get("runs in a row"), newest.resolved_at is not None

    complete(desk.store, "run-1", **SERIES)
    report(desk.store, "run-1", [LUCK], "critical")
    assert await desk.titles(caplog) == ["[ERROR] Validity critical: carry · run-1"]
    for number in (2, 3):
        complete(desk.store, f"run-{number}", **SERIES)
        report(desk.store, f"run-{number}", [LUCK], "critical")
        assert await desk.titles(caplog) == []
    report(desk.store, "run-3", [LUCK, LUCK], "critical")
    assert await desk.titles(caplog) == []
    assert episode() == ("run-3", 3.0, False)
    claimed = at_work(desk.store, "run-4", **SERIES)
    report(desk.store, "run-4", [])
    assert await desk.titles(caplog) == []  # it may yet become as bad
    commit(desk.store, "run-4", claimed)
    desk.store.write(Transition("run-4", S.COMPLETED, Cause.HOOK, fence=claimed.fence))
    report(desk.store, "run-4", [], "warning")
    assert await desk.titles(caplog) == ["[RESOLVED] Validity critical: carry · run-3"]
    report(desk.store, "run-2", [LUCK] * 3, "critical")
    assert await desk.titles(caplog) == []  # an older run says nothing of how the series is
    assert told(desk.store) == [("validity_critical", "run-1", True)]

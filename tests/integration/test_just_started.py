"""A machine that was just started, whose monotonic clock is near zero: nothing was long ago, and nobody is late yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from contract_steps import at_work
from sqlalchemy import update

from o9.alerts.rules.evaluator import RuleService
from o9.alerts.service.system import AlertNotificationSystem
from o9.lifecycle.heartbeat import NodeHeartbeat
from o9.store import queries
from o9.store.queue.claims import Heartbeat
from o9.store.schema.optimizations import NODE
from o9.store.store import Store


@pytest.fixture(autouse=True)
def _just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1, 1_000))
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 100)
    for module in ("alerts.rules.evaluator", "lifecycle.heartbeat"):
        monkeypatch.setattr(f"o9.{module}.time", clock)


@pytest.fixture
async def judge(store_url: str, tmp_path: Path) -> AsyncIterator[RuleService]:
    (tmp_path / "alerts.yaml").write_text("{}", encoding="utf-8")
    with Store(store_url) as store:
        system = AlertNotificationSystem(store=store, alerts_file=str(tmp_path / "alerts.yaml"))
        await system.initialize()
        made = RuleService(system)
        await made.use(store, 600.0)
        yield made
        await system.cleanup()


async def test_a_silent_node_is_not_lost_before_it_had_time_to_speak(judge: RuleService) -> None:
    store = judge._store
    store.write(Heartbeat("silent", "elsewhere", 1, 1.0, 30.0))
    with store._engine.begin() as connection:
        connection.execute(update(NODE).values(heartbeat_at=NODE.c.heartbeat_at - 600))
    await judge.evaluate()
    assert store.read(queries.alerts, limit=10) == []


async def test_what_this_node_finds_is_told_at_once(judge: RuleService) -> None:
    judge.node_died(["gone"])
    await judge.evaluate()
    assert [row["title"] for row in judge._store.read(queries.alerts)] == ["Node lost"]


def test_a_lease_that_ran_out_has_a_while_to_be_renewed(store_url: str) -> None:
    with Store(store_url) as store:
        claimed = at_work(store, "held", lease_seconds=-1.0)
        NodeHeartbeat(store, "node", 30.0)._look()
        holding = store.read(queries.holding, "held")
        assert holding is not None
        assert holding.fence == claimed.fence
        assert holding.lease_node == "node-1"

"""What was told long ago goes with the history: alerts, messages, tries, reasons, silences. What fires or waits does
not.
"""

from __future__ import annotations

import asyncio
import io
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import command_in
from sqlalchemy import func, select

from o9.alerts.service.system import AlertNotificationSystem
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.retention import prune
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store import queries
from o9.store.core.base import metadata
from o9.store.core.column_types import moment
from o9.store.store import Store

CONFIGURATION = """
route:
  group_by: [title]
  receiver: default
  group_wait: 0s
  routes: [{matchers: 'title="Waits"', receiver: nowhere, group_by: [title]}]
receivers: [{name: default, channels: [log]}, {name: nowhere, channels: [nobody-has-it]}]
flapping: {changes: 6, within: 1ms, quiet: 1ms}
"""


def alert(alert_id: str, title: str, **fields: Any) -> OptimizationAlert:
    return OptimizationAlert(alert_id, "", "error", title, "", fields.pop("timestamp", utc_now()), **fields)  # type: ignore[arg-type]


async def fill(url: str, folder: Path) -> None:
    """One fires, one is over, one was over before anybody was told, one waits for a channel; one silence has passed."""
    (folder / "alerts.yaml").write_text(CONFIGURATION, encoding="utf-8")
    system = AlertNotificationSystem(storage_path=url, alerts_file=str(folder / "alerts.yaml"))
    await system.initialize()
    for name in ("Fires", "Over", "Waits"):
        await system.send_alert(alert(name.lower(), name))
    await system.send_alert(alert("unseen", "Unseen", resolved=True))
    await system.end_silence(await system.suppress_alert("else", 3_600))
    assert (await system.deliver_once())["sent"] == 2
    await system.resolve_alert("over")
    await system.resolve_alert("waits")
    await asyncio.sleep(0.01)
    await system.cleanup()
    with Store(url) as store, store._engine.begin() as connection:  # their ends are told at the next look, now
        connection.exec_driver_sql("UPDATE alert_group SET due_at = '2026-01-01T00:00:00+00:00'")
    await system.initialize()
    await system.deliver_once()
    await system.cleanup()


def counted(store: Store) -> dict[str, int]:
    tables = (
        "alert", "notice", "notification", "notification_try", "alert_decision", "silence", "alert_group",
    )  # fmt: skip
    with store._engine.connect() as connection:
        return {
            name: int(connection.execute(select(func.count()).select_from(metadata.tables[name])).scalar_one())
            for name in tables
        }


@pytest.mark.parametrize("database", ["store_url", "postgres_url"])
def test_what_was_told_long_ago_goes_and_its_counts_stay(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(database)
    asyncio.run(fill(url, tmp_path))
    with Store(url) as store:
        everything, told = counted(store), store.read(queries.alert_counts)
        assert everything["silence"] == 1
        before = moment(utc_now() + timedelta(hours=1))
        foreseen = store.read(queries.prunable_alerts, before)
        removed = asyncio.run(prune(store, before, sharpe_ratios_of))
        assert (removed.alerts, removed.notices, removed.suppressed, removed.silences) == (
            foreseen.alerts, foreseen.notices, foreseen.suppressed, foreseen.silences,
        )  # fmt: skip
        left = counted(store)
        assert {row["alert_id"] for row in store.read(queries.alerts)} == {"fires"}
        assert {row["channel"] for row in store.read(queries.notifications)} == {"nobody-has-it"}
        assert left == everything | {
            "alert": 1, "notice": 2, "notification": 2, "notification_try": 0, "alert_decision": 0, "silence": 0,
        }  # fmt: skip
        assert store.read(queries.alert_counts) == told
        assert vars(store.read(queries.prunable_alerts, before)) | {"cursor": None} == {
            "alerts": 0, "notices": 0, "suppressed": 0, "silences": 0, "cursor": None,
        }  # fmt: skip


def test_the_command_says_what_of_alerts_goes(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    o9 = command_in(tmp_path, capsys, monkeypatch)
    asyncio.run(fill(store_url, tmp_path))
    with sqlite3.connect(store_url) as direct:
        for table, columns in {
            "alert": ("at", "notified_at", "resolved_at", "last_notified_at"), "notice": ("at",),
            "alert_decision": ("at",), "silence": ("ended_at",),
        }.items():  # fmt: skip
            for column in columns:
                direct.execute(f"UPDATE {table} SET {column} = '2026-01-01' WHERE {column} IS NOT NULL")
    option = ("db", "prune", "--older-than", "1.5", "--store", store_url)
    planned = o9(*option, "--dry-run")
    assert "nothing to delete" in planned.out
    assert ": 3 alerts, 3 messages, 1 suppressed notification, 1 silence" in planned.out
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert o9(*option).code == 2  # nobody can be asked
    done = o9(*option, "--yes", "--json").json()
    assert (done["alerts"], done["deleted"]["alerts"], done["deleted"]["notices"]) == (3, 3, 3)
    assert "no alerts, and" in o9(*option, "--yes").out

"""The contract suite on SQLite and PostgreSQL, and that hot queries use an index on both."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from contract import StoreContract
from contract_alerts import new_alert
from contract_outbox import notice
from contract_steps import OpenStore, at_work, put, sweep, trial
from sqlalchemy import event

from o9.model.states import OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.alerts.episodes import ExpireAlerts, RaiseAlerts, ResolveAlert
from o9.store.alerts.outbox import BeginTry, CommitDecisions, EndTry, FailOldNotifications, Suppressed
from o9.store.optimizations.commit_step import CommitStep
from o9.store.optimizations.prefect_runs import RegisterRun
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim, Heartbeat
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.queue.policies import SetPolicy
from o9.store.store import Store
from o9.store.synchronization import Publish


class TestSQLite(StoreContract):
    @pytest.fixture
    def open_store(self, store_url: str) -> Iterator[OpenStore]:
        with contextlib.ExitStack() as opened:
            yield lambda: opened.enter_context(Store(store_url))


class TestPostgreSQL(StoreContract):
    @pytest.fixture
    def open_store(self, postgres_url: str) -> Iterator[OpenStore]:
        with contextlib.ExitStack() as opened:
            yield lambda: opened.enter_context(Store(postgres_url))


S = OptimizationStatus
# The others are small at any size: policy, counter, node.
HOT = (
    "optimization|trial|transition|checkpoint|change|intent|dependency|prefect_run|prefect_state|health_report|"
    "alert|words|state|told|notice|notification|earlier|notification_try|alert_decision|silence"
)


def test_hot_queries_go_by_an_index_on_sqlite(store_url: str) -> None:
    with Store(store_url) as store:
        plans = explained(store, "EXPLAIN QUERY PLAN ")
    assert_indexed(plans, scan="SCAN")
    assert not [line for name, plan in plans.items() for line in plan if "TEMP B-TREE" in line]


def test_hot_queries_go_by_an_index_on_postgresql(new_postgres_url: str) -> None:
    with Store(new_postgres_url) as store:
        plans = explained(store, "SET enable_seqscan = off; SET enable_bitmapscan = off; EXPLAIN ")
    assert_indexed(plans, scan="Seq Scan")
    assert not [line for name, plan in plans.items() for line in plan if "Sort" in line.split("  (")[0]]


def test_what_has_no_family_is_not_looked_for_among_all_that_have_none(store_url: str) -> None:
    with Store(store_url) as store:
        ran: list[tuple[str, Any]] = []
        with listening(store, ran):
            store.read(queries.family_trials, "", "a")
        with store._engine.connect() as connection:
            for statement, parameters in ran:
                plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
                found = [str(row[-1]) for row in plan if "SEARCH trial USING" in str(row[-1])]
                assert found
                assert all("optimization_id=?" in line for line in found), found


def explained(store: Store, explain: str) -> dict[str, list[str]]:
    """Return the plans of the statements of hot reads and writes, by operation."""
    for n in range(3):
        put(store, f"a{n}")
        fence = at_work(store, f"b{n}").fence
        store.write(CommitStep(f"b{n}", fence, 0, [trial(i, family="f", returns=(0.1, 0.2)) for i in range(3)], {}))
        put(store, f"c{n}", metadata={"after": ["b0"]})
        store.write(RegisterRun(f"run-{n}", f"b{n}", 1))
    store.write(SetPolicy("default", {"max_concurrent_optimizations": 9}))
    store.write(Heartbeat("node", "host", 1, 1.0, 60.0, {"limit": 9}))
    tell_alerts(store)
    page = store.read(queries.page, limit=2)
    done: dict[str, Callable[[], Any]] = {
        "get": lambda: store.read(queries.get, "a1"),
        "page": lambda: store.read(queries.page, limit=2),
        "next page": lambda: store.read(queries.page, limit=2, cursor=page.next_cursor),
        "page by status": lambda: store.read(
            queries.page, queries.Filter(status=S.CREATED), limit=2, cursor=page.next_cursor
        ),
        "page by type": lambda: store.read(
            queries.page, queries.Filter(optimization_type=OptimizationType.PARAMETER_TUNING), limit=2
        ),
        "trials": lambda: store.read(queries.trials, "b1", after=3, limit=2),
        "transitions": lambda: store.read(queries.transitions, "b1"),
        "checkpoint": lambda: store.read(queries.checkpoint, "b1"),
        "changes": lambda: store.read(queries.changes, 3, limit=2),
        "publish": lambda: store.write(Publish("b1", "node", {})),
        "published": lambda: store.read(queries.published, 3),
        "nodes and how far they have read": partial(store.read, queries.cluster_nodes),
        "transitions of all": lambda: store.read(queries.transitions_since, 3, limit=2),
        "intents": lambda: store.read(queries.intents, "b1"),
        "suspended": partial(store.read, queries.suspended),
        "open runs": lambda: store.read(queries.open_runs, after="run-0", limit=2),
        "known states": lambda: store.read(queries.known_states, "b1"),
        "family": lambda: store.read(queries.family_trials, "f", "b1"),
        "report": lambda: store.read(queries.health_report, "b1"),
        "reports of one": lambda: store.read(queries.health_history, "b1", limit=2),
        "reports of all": lambda: store.read(queries.health_reports, limit=2, before=("2026", "b1")),
        "due for a check": lambda: store.read(queries.health_due, limit=2),
        "claim": lambda: store.write(Claim("node", 9, 60.0)),
        "claim of one, as many as announced": lambda: store.write(Claim("node", None, 60.0, "a2")),
        "an end that others wait for": lambda: store.write(Transition("b0", S.COMPLETED, Cause.HOOK)),
        "heartbeat": lambda: store.write(Heartbeat("node", "host", 1, 1.0, 60.0)),
        "sweep": lambda: sweep(store, "node"),
        "alerts": lambda: store.read(queries.alerts, limit=2, before=("2026", "a1")),
        "alerts of one": lambda: store.read(queries.alerts, limit=2, optimization_id="o"),
        "alerts of a level": lambda: store.read(queries.alerts, limit=2, level="warning"),
        "open alerts": lambda: store.read(queries.open_episodes, (1, "a1"), limit=2),
        "an alert": lambda: store.write(RaiseAlerts([new_alert("a9"), new_alert("b9", title="b9")])),
        "ends": lambda: store.read(queries.next_end),
        "lapse": lambda: store.write(ExpireAlerts()),
        "episodes": lambda: store.read(queries.episodes, ["a1", "a2"]),
        "resolve": lambda: store.write(ResolveAlert("a9", "ann")),
        "firing": lambda: store.read(queries.firing_alerts),
        "silences": lambda: store.read(queries.silences),
        "silences behind a change": lambda: store.read(queries.changed_silences, 1),
        "due": lambda: store.read(queries.due_channels, ["log"]),
        "a try": lambda: store.write(BeginTry("log", "node", 60.0)),
        "its end": lambda: store.write(EndTry(1, 1, "node", "no route", 0.0)),
        "notifications": lambda: store.read(queries.notifications, limit=2, before=9),
        "untold": lambda: store.read(queries.suppressed, limit=2, alert_id="a1"),
        "given up": lambda: store.write(FailOldNotifications("2026", "nobody")),
    }
    plans: dict[str, list[str]] = {}
    for name, act in done.items():
        ran: list[tuple[str, Any]] = []
        with listening(store, ran):
            act()
        with store._engine.connect() as connection:
            for statement, parameters in ran:
                *settings, last = explain.split("; ")
                for setting in settings:
                    connection.exec_driver_sql(setting)
                rows = connection.exec_driver_sql(last + statement, parameters).all()
                plans.setdefault(name, []).extend(str(row[-1]) for row in rows)
    assert plans.keys() == done.keys()
    return plans


def tell_alerts(store: Store) -> None:
    store.write(RaiseAlerts([new_alert(f"a{n}", title=f"a{n}") for n in range(3)]))
    fence = store.write(AcquireLeadership("alerts", "node", 60.0))
    assert fence is not None
    told = [notice(number) for number in (1, 2)]
    store.write(
        CommitDecisions("alerts", fence, 0, notices=told, suppressed=[Suppressed("a1", "r", "silenced", "s", "2026")])
    )


@contextlib.contextmanager
def listening(store: Store, into: list[tuple[str, Any]]) -> Iterator[None]:
    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if any(word in statement for word in ("optimization", "change", "alert", "notification", "silence")):
            into.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", hear)
    try:
        yield
    finally:
        event.remove(store._engine, "before_cursor_execute", hear)


def assert_indexed(plans: dict[str, list[str]], scan: str) -> None:
    own = {
        "claim": "ix_optimization_queue", "open runs": "ix_prefect_run_open", "intents": "ix_intent_optimization",
        "reports of all": "ix_health_report_latest", "due for a check": "ix_optimization_health_due",
        "family": "ix_trial_family", "alerts": "ix_alert_newest", "open alerts": "ix_alert_open",
        "alerts of one": "ix_alert_optimization", "alerts of a level": "ix_alert_level", "an alert": "ix_alert_firing",
        "due": "ix_notification_due", "a try": "ix_notification_order", "silences": "ix_silence_active",
        "firing": "ix_alert_firing", "given up": "ix_notification_",
        "ends": "ix_alert_ending", "lapse": "ix_alert_ending", "silences behind a change": "ix_silence_changed",
    }  # fmt: skip
    for name, index in own.items():
        assert any(index in line for line in plans[name]), f"{name} does not go by {index}: {plans[name]}"
    table = re.compile(rf"{scan} (on )?({HOT})\b(?! USING)")
    whole = {name: plan for name, plan in plans.items() for line in plan if table.search(line)}
    assert not whole, f"these read a whole table: {whole}"

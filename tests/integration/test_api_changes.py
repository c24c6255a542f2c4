"""PUT and DELETE of optimizations, on both databases: what may change, and what a deletion keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import create, work
from contract_alerts import new_alert
from contract_pruning import assert_counts_of_what_is_there
from contract_steps import assert_counts_are_true
from sqlalchemy import Connection
from store_backend import Requests

from o9.api import changes
from o9.health.statistics.pruned import sharpe_ratios_of
from o9.lifecycle.submission import submit
from o9.model.optimization import OptimizationState
from o9.model.specification import new_optimization
from o9.model.states import Intent, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.alerts.episodes import RaiseAlerts
from o9.store.optimizations.commit_step import Amend
from o9.store.optimizations.intents import SetIntent
from o9.store.optimizations.placebos import CreatePlacebo
from o9.store.optimizations.prefect_runs import CloseRun, RegisterRun
from o9.store.optimizations.pruning import PruneOne, PruneReason
from o9.store.optimizations.transitions import Cause, Create, Transition
from o9.store.queue.claims import Claim
from o9.store.store import Store


@pytest.fixture(params=["store_url", "postgres_url"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(request.getfixturevalue(request.param)) as opened:
        yield opened


@pytest.fixture
def api(store: Store) -> Iterator[Requests]:
    with asyncio.Runner() as runner:
        yield Requests(store, runner)


def put(api: Requests, name: str, fields: Any, query: str = "") -> tuple[int, dict[str, Any]]:
    return api.send(f"/optimizations/{name}{query}", "PUT", body=json.dumps(fields).encode())


def test_everything_may_change_before_the_first_attempt(api: Requests, store: Store) -> None:
    body = {"optimization_id": "a", "total_steps": 3, "metadata": {"objective": "branin", "seed": 1}}
    api.send("/optimizations", "POST", body=json.dumps(body).encode())
    changed = {
        "name": "Größe", "optimization_type": "risk_optimization", "priority": "critical", "total_steps": 7,
        "parameters": {"a": 1}, "baseline_performance": 0.5,
        "metadata": {"objective": "branin", "sampler": "random", "max_attempts": 9},
    }  # fmt: skip
    code, answer = put(api, "a", changed)
    assert code == 200
    for name in ("name", "optimization_type", "total_steps", "parameters", "baseline_performance"):
        assert answer["data"][name] == changed[name]
    assert answer["data"]["priority"] == 4
    assert answer["data"]["metadata"]["sampler"] == "random"
    assert isinstance(answer["data"]["metadata"]["seed"], int)  # drawn, as at a submission
    assert store.read(queries.get, "a").to_dict() == answer["data"]
    assert store.read(queries.holding, "a").max_attempts == 9
    assert_counts_are_true(store)
    assert store.read(queries.priorities) == [{"priority": 4, "count": 1}]
    # It is queued where its new priority puts it, and read as what it is now.
    create(store, "b", priority=OptimizationPriority.HIGH)
    claimed = store.write(Claim("node-1", 1, 30.0))
    assert claimed is not None
    assert claimed.optimization_id == "a"
    assert [
        state.optimization_id
        for state in store.read(
            queries.page, queries.Filter(optimization_type=OptimizationType.RISK_OPTIMIZATION)
        ).items
    ] == ["a"]


def test_put_of_the_unchanged_state_changes_nothing(api: Requests, store: Store) -> None:
    create(store, "done")
    work(store, "done", 2, "completed")
    create(store, "waiting")
    for name in ("done", "waiting"):
        read = api.send(f"/optimizations/{name}")[1]["data"]
        version = store.read(queries.holding, name).version
        assert put(api, name, read)[0] == 200
        assert store.read(queries.holding, name).version == version


def unnamed(name: str) -> OptimizationState:
    """A state without an objective."""
    state = new_optimization({"optimization_id": name, "metadata": {"objective": "branin"}})
    state.metadata = {}
    return state


def test_demonstration_stays_marked_after_put(api: Requests, store: Store) -> None:
    asyncio.run(submit(store, unnamed("demo")))
    warnings = api.send("/optimizations/demo")[1]["data"]["warnings"]
    assert len(warnings) == 1
    assert put(api, "demo", {"total_steps": 4})[1]["data"]["warnings"] == warnings
    answer = put(api, "demo", {"metadata": {"objective": "branin"}})[1]["data"]
    assert (answer["warnings"], answer["total_steps"]) == ([], 4)
    assert "demonstration" not in answer["metadata"]


def test_unknown_metadata_key_is_refused(api: Requests, store: Store) -> None:
    create(store, "a", metadata={"objective": "branin", "of an older release": 1})
    kept = {"objective": "branin", "of an older release": 1}
    assert put(api, "a", {"metadata": kept | {"seed": 3}})[0] == 200
    for metadata, field in (({"sede": 1}, "metadata.sede"), ({"risk_limits": {"x": "y"}}, "metadata.risk_limits.x")):
        code, answer = put(api, "a", {"metadata": kept | metadata})
        assert (code, answer["error"].partition(":")[0]) == (422, field)


def test_concurrent_change_is_not_lost(api: Requests, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create(store, "a", metadata={"objective": "branin", "seed": 1})
    meanwhile = [Amend("a", {"metadata": {"objective": "branin", "seed": 1, "notes": "of another"}})]
    read = queries.policies

    def policies(connection: Connection) -> Any:  # which are read between the state and the change
        if meanwhile:
            store.write(meanwhile.pop())
        return read(connection)

    monkeypatch.setattr(queries, "policies", policies)
    answer = put(api, "a", {"total_steps": 7})[1]["data"]
    assert (answer["total_steps"], answer["metadata"]["notes"]) == (7, "of another")
    meanwhile.append(Amend("a", {"description": "of another"}))
    tag = {"If-Match": f'"{store.read(queries.holding, "a").version}"'}
    assert api.send("/optimizations/a", "PUT", body=b'{"total_steps": 9}', headers=tag)[0] == 409
    assert (store.read(queries.get, "a").total_steps, store.read(queries.get, "a").description) == (7, "of another")


MAY_NOT_CHANGE: list[tuple[str, Any, int, str]] = [
    ("waiting", {"name": 5}, 422, "name"),
    ("waiting", {"name": ""}, 422, "name"),
    ("done", {"name": " "}, 422, "name"),
    ("waiting", {"bogus": 5}, 422, "bogus"),
    ("waiting", {"priority": "urgent"}, 422, "priority"),
    ("waiting", {"optimization_id": "other"}, 422, "optimization_id"),
    ("waiting", {"status": "running"}, 422, "status"),
    ("waiting", {"progress": 0.5}, 422, "progress"),
    ("waiting", {"created_at": "2020-01-01T00:00:00Z"}, 422, "created_at"),
    ("waiting", {"metadata": {"objective": "os:getcwd"}}, 422, "O9_ALLOWED_IMPORTS"),
    ("waiting", {"metadata": {"objective": "branin", "sampler": "moon"}}, 422, "metadata.sampler"),
    ("waiting", {"metadata": {"objective": "branin", "after": ["done"]}}, 409, "metadata.after"),
    ("paused", {"total_steps": 9}, 409, "total_steps"),
    ("paused", {"metadata": {"objective": "branin"}}, 409, "metadata"),
    ("done", {"priority": "low"}, 409, "priority"),
    ("done", {"parameters": {"a": 1}}, 409, "parameters"),
    ("running", {"name": "other"}, 409, "running"),
    ("claimed", {"name": "other"}, 409, "claimed"),
]


def test_forbidden_change_names_the_field_and_changes_nothing(api: Requests, store: Store) -> None:
    for each in ("waiting", "paused", "done", "running", "claimed"):
        create(store, each, metadata={"objective": "branin", "seed": 1})
    work(store, "paused", 1, "paused")
    work(store, "done", 1, "completed")
    work(store, "running", 1)
    store.write(Claim("node-1", 100, 30.0, "claimed"))
    for name, fields, code, field in MAY_NOT_CHANGE:
        before = store.read(queries.get, name).to_dict() | {"execution_time": 0}
        answered, answer = put(api, name, fields)
        assert (answered, field in answer["error"]) == (code, True), (name, fields, answer)
        assert store.read(queries.get, name).to_dict() | {"execution_time": 0} == before


def test_search_is_fixed_after_the_first_attempt(api: Requests, store: Store) -> None:
    for name, end in (("paused", "paused"), ("done", "completed")):
        create(store, name)
        work(store, name, 1, end)
    assert put(api, "paused", {"name": "P", "description": "later", "priority": 4})[1]["data"]["priority"] == 4
    assert put(api, "done", {"name": "D", "description": "good"})[1]["data"]["description"] == "good"
    assert_counts_are_true(store)


def test_incomplete_metadata_name_what_is_missing(api: Requests, store: Store) -> None:
    for name, end in (("done", "completed"), ("begun", "paused")):
        create(store, name, metadata={"objective": "branin", "seed": 1})
        work(store, name, 2, end)
        code, answer = put(api, name, {"metadata": {"objective": "branin", "notes": "n"}})
        assert code == 409
        assert answer["error"].startswith("metadata.seed:")


def test_risk_limits_and_notes_may_change_later(api: Requests, store: Store) -> None:
    for name, end in (("paused", "paused"), ("done", "completed")):
        create(store, name, metadata={"objective": "branin", "seed": 1, "risk_limits": {"drawdown": 0.2}})
        work(store, name, 1, end)
    asked = store.read(queries.get, "paused").metadata
    changed = asked | {"risk_limits": {"drawdown": 0.5}, "tags": ["book"], "notes": "as agreed"}
    assert put(api, "paused", {"metadata": changed})[1]["data"]["metadata"] == changed
    assert store.read(queries.get, "paused").metadata == changed
    assert put(api, "done", {"metadata": asked | {"tags": ["old"]}})[1]["data"]["metadata"]["tags"] == ["old"]
    for name, metadata, key in (
        ("paused", changed | {"seed": 2}, "metadata.seed"),
        ("paused", {"risk_limits": {"drawdown": 0.9}}, "metadata.objective"),
        ("done", asked | {"risk_limits": {"drawdown": 0.9}, "tags": ["old"]}, "metadata.risk_limits"),
    ):
        code, answer = put(api, name, {"metadata": metadata})
        assert (code, key in answer["error"]) == (409, True), answer
    assert put(api, "paused", {"metadata": 5})[0] == 422
    assert_counts_are_true(store)


def test_deletion_keeps_only_counts(api: Requests, store: Store) -> None:
    for name in ("done", "waiting", "paused"):
        create(store, name)
    work(store, "done", 2, "completed")
    work(store, "paused", 1, "paused")
    for name in ("done", "waiting", "paused"):
        assert api.send(f"/optimizations/{name}", "DELETE")[0] == 200
        assert api.send(f"/optimizations/{name}")[0] == 404
        assert api.send(f"/optimizations/{name}", "DELETE")[0] == 404
        assert (store.read(queries.trials, name), store.read(queries.transitions, name)) == ([], [])
    assert api.send("/optimizations")[1]["data"]["items"] == []
    statistics = api.send("/statistics")[1]["data"]
    assert (statistics["total_optimizations"], statistics["pruned_optimizations"]) == (0, 3)
    assert statistics["success_rate"] == pytest.approx(1 / 3)  # what was counted stays counted
    assert_counts_of_what_is_there(store)
    # No reader's cursor is ahead of what comes, and the row that is left is shown to no reader.
    last = store.read(queries.last_transition)
    assert store.read(queries.transitions_since, 0) == []
    create(store, "waiting")
    assert [row["id"] > last for row in store.read(queries.transitions_since, 0)] == [True]


def test_deletion_includes_placebo_runs_and_pruning_hides_them(api: Requests, store: Store) -> None:
    for name in ("deleted", "pruned"):
        create(store, name)
        work(store, name, 2, "completed")
        for number in (1, 2):
            run = new_optimization(
                {"optimization_id": f"{name}-{number}", "metadata": {"objective": "branin", "placebo_of": name}}
            )
            store.write(CreatePlacebo(Create(run), name, number))
        work(store, f"{name}-1", 2, "completed")
    assert api.send("/optimizations/deleted", "DELETE")[0] == 200
    assert [store.read(queries.get, f"deleted-{number}") for number in (1, 2)] == [None, None]
    assert store.write(PruneOne("pruned", sharpe_ratios_of)) is PruneReason.LONG_AGO
    create(store, "pruned")  # the id is free again, and has no placebo runs
    assert store.read(queries.placebos, "pruned").run_ids == {}
    assert [each["optimization_id"] for each in api.send("/optimizations")[1]["data"]["items"]] == ["pruned"]
    for number in (1, 2):
        assert api.send(f"/optimizations/pruned-{number}")[0] == 200
        assert api.send(f"/optimizations/pruned-{number}", "DELETE")[0] == 200
        assert store.read(queries.get, f"pruned-{number}") is None


def test_deletion_is_refused_while_others_depend_on_it(api: Requests, store: Store) -> None:
    for name in ("awaited", "run", "alarm"):
        create(store, name)
    create(store, "after", metadata={"objective": "branin", "after": ["awaited"]})
    code, answer = api.send("/optimizations/awaited", "DELETE")
    assert (code, "after" in answer["error"]) == (409, True)
    assert store.read(queries.get, "awaited").status.value == "created"
    store.write(RaiseAlerts([new_alert("fires", optimization_id="alarm")]))
    for query in ("", "?cancel=true"):
        code, answer = api.send(f"/optimizations/alarm{query}", "DELETE")
        assert (code, "resolve" in answer["error"]) == (409, True)
    assert store.read(queries.get, "alarm").status.value == "created"
    work(store, "run", 1, "completed")
    store.write(RegisterRun("run-1", "run", 1))

    async def closed_meanwhile() -> Any:
        deleting = asyncio.create_task(api.api.handle_api_request("/optimizations/run", "DELETE"))
        assert not (await asyncio.wait({deleting}, timeout=0.3))[0]
        await store.write_async(CloseRun("run-1"))
        return await deleting

    assert api.run(closed_meanwhile())["success"]


def test_running_optimization_is_not_deleted_without_cancel(api: Requests, store: Store) -> None:
    create(store, "running")
    work(store, "running", 1)
    assert api.send("/optimizations/running", "DELETE")[0] == 409
    assert store.read(queries.holding, "running").intent == Intent.RUN.value
    store.write(SetIntent("running", Intent.CANCEL, "ana"))
    assert api.send("/optimizations/running", "DELETE")[0] == 409


def test_deletion_that_times_out_says_what_it_did(api: Requests, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "END_SECONDS", 0.1)
    create(store, "a")
    work(store, "a", 1, "paused")
    store.write(RegisterRun("run-1", "a", 1))
    code, answer = api.send("/optimizations/a", "DELETE")
    assert (code, "cancelled" in answer["error"]) == (409, True)
    assert store.read(queries.get, "a").status.value == "cancelled"
    store.write(CloseRun("run-1"))
    assert api.send("/optimizations/a", "DELETE")[0] == 200


def test_start_does_not_change_an_initializing_optimization(api: Requests, store: Store) -> None:
    create(store, "a")
    claimed = store.write(Claim("node-1", 100, 30.0, "a"))
    assert claimed is not None
    store.write(Transition("a", OptimizationStatus.INITIALIZING, Cause.HOOK, fence=claimed.fence))
    assert api.send("/optimizations/a/start", "POST")[1]["data"]["status"] == "initializing"
    # What is moved by hand is moved as it was when somebody looked.
    create(store, "b")
    manager = api.backend.lifecycle_manager
    api.run(manager.initialize_optimization("b"))
    manager.register_lifecycle_hook("before_running", lambda name: store.write(SetIntent(name, Intent.PAUSE, "ana")))
    assert api.send("/optimizations/b/start", "POST")[0] == 409
    assert store.read(queries.get, "b").status.value == "paused"

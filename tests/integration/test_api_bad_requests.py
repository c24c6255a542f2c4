"""Invalid requests name their field, and no request causes an internal error, on both databases."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest
from command_line import create, work
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from store_backend import Requests

from o9.api import health
from o9.model.optimization import OptimizationState
from o9.model.specification import Metadata
from o9.model.states import OptimizationPriority, OptimizationType
from o9.store import queries
from o9.store.queue.claims import Heartbeat
from o9.store.store import Store

DATABASES = ["store_url", "postgres_url"]


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(request.getfixturevalue(request.param)) as opened:
        yield opened


@pytest.fixture
def api(store: Store) -> Iterator[Requests]:
    create(store, "done")
    work(store, "done", 2, "completed")
    create(store, "waiting")
    with asyncio.Runner() as runner:
        yield Requests(store, runner)


def cursor(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def nested(depth: int) -> bytes:
    return b'{"name": ' + b"[" * depth + b"]" * depth + b"}"


def test_invalid_limit_is_named(api: Requests) -> None:
    limits = ["1" + "0" * 30, "-1", "0", str(2**63), str(-(2**63) - 1), "nan", "1e3", "\0", ""]
    for path, limit in product(["/optimizations", "/optimizations/done/trials", "/statistics/rankings"], limits):
        code, told = api.send(path, query={"limit": limit, "metric_name": "execution_time"})
        assert (code, told["success"], "limit" in told["error"]) == (422, False, True), (path, limit)


def test_query_that_a_database_cannot_take_is_refused(api: Requests) -> None:
    for path, query, field in [
        ("/optimizations/done/trials", {"after": "1" + "0" * 30}, "after"),
        ("/optimizations/done/trials", {"after": "-2"}, "after"),
        ("/optimizations", {"cursor": cursor(["2026-01-01\0", "a"])}, "cursor"),
        ("/optimizations", {"cursor": cursor(["\ud800", "a"])}, ""),
        ("/optimizations", {"cursor": base64.urlsafe_b64encode(b"[" * 40_000).decode()}, "cursor"),
        ("/statistics/rankings", {"metric_name": "sharpe\0"}, "metric_name"),
        ("/statistics/trends", {"days": "inf"}, "days"),
        ("/optimizations", {"q": "a\0b"}, "q"),
        ("/optimizations", {"strategy": "\0"}, "strategy"),
        ("/optimizations", {"created_after": "0001-01-01T00:00:00+23:59"}, "created_after"),
        ("/alerts", {"optimization_id": "\0"}, "optimization_id"),
        ("/alerts", {"cursor": cursor([1, 2])}, "cursor"),
        ("/optimizations/done/transitions", {"cursor": cursor([2**70])}, "cursor"),
    ]:
        code, told = api.send(path, query=query)
        assert (code, field in told["error"]) == (422, True), (path, query)


def test_invalid_query_parameter_is_named(api: Requests) -> None:
    for field, value in {"status": "foo", "priority": "9", "strategy": ""}.items():
        code, told = api.send("/optimizations", query={field: value})
        assert (code, told["error"].partition(":")[0]) == (422, field)


def test_id_that_cannot_be_stored_is_not_found(api: Requests) -> None:
    for path in ("/optimizations/a\0b", "/optimizations/\0/trials", "/health/\0", "/optimizations/\0"):
        assert api.send(quote(path))[0] == 404, path


def test_invalid_body_names_the_field(api: Requests) -> None:
    for body, code, field in [
        (b'{"metadata": {"objective": ["x"]}}', 422, "metadata.objective"),
        (b'{"metadata": {"objective": {"x": 1}}}', 422, "metadata.objective"),
        (b'{"metadata": {"objektive": "branin"}}', 422, "metadata.objektive"),
        (b'{"metadata": {"objective": "branin", "dirction": "minimize"}}', 422, "metadata.dirction"),
        (b'{"name": "names nothing"}', 422, "metadata.objective"),
        (b'{"metadata": {"objective": "branin", "seed": 1' + b"0" * 30 + b"}}", 422, "metadata.seed"),
        (b'{"metadata": {"objective": "branin", "note": NaN}}', 422, "metadata.note"),
        (b'{"total_steps": 1' + b"0" * 30 + b"}", 422, "total_steps"),
        (b'{"progress": Infinity}', 422, "progress"),
        (b'{"name": "a\\u0000"}', 422, "name"),
        (b'{"name": "a\\u202egnp"}', 422, "name"),
        (b'{"name": "", "metadata": {"objective": "branin"}}', 422, "name"),
        (b'{"name": "\\ud800"}', 422, "name"),
        (b'{"\\ud800": 1}', 422, "surrogate"),
        (b'{"total_steps": ' + b"9" * 5_000 + b"}", 400, "body: "),
        (b"\xff", 400, "body: "),
        (b"{", 400, "body: "),
        (b'{"metadata": {"risk_limits": {"drawdown": "20%"}}}', 422, "metadata.risk_limits.drawdown"),
        (b'{"metadata": {"risk_limits": [0.2]}}', 422, "metadata.risk_limits"),
        (b"[" * 200_000, 400, "body: "),
        (nested(200_000), 400, "body: "),
        (nested(200), 422, "name"),
        (nested(900), 422, "name"),
        (b'{"metadata": {"objective": "branin", "notes": ' + nested(900) + b"}}", 422, "metadata"),
    ]:
        answer, told = api.send("/optimizations", "POST", body=body)
        assert (answer, field in told["error"]) == (code, True), (body[:100], told)
    answer, told = api.send("/optimizations/waiting", "PUT", body=b'{"metadata": ' + nested(900) + b"}")
    assert (answer, told["error"].partition(":")[0]) == (422, "metadata")


TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
NUMBERS = st.one_of(
    st.integers(), st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, -1, 0, 1]), st.floats(allow_nan=True)
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["branin", "default", "random", "grid", "float"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "low", "x", "\0"]) | TEXT, inner)
    ),
    max_leaves=8,
)
METADATA = st.dictionaries(st.sampled_from([*Metadata.model_fields]), JSON, max_size=4)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from([*OptimizationState.__dataclass_fields__]), JSON, max_size=5),
    METADATA.map(lambda metadata: {"metadata": {"objective": "branin"} | metadata}),
    METADATA.map(lambda metadata: {"metadata": metadata}),
    JSON,
)
QUERIES = st.dictionaries(
    st.sampled_from(
        [
            "limit",
            "cursor",
            "days",
            "metric_name",
            "status",
            "type",
            "priority",
            "strategy",
            "family",
            "q",
            "level",
            "created_after",
            "optimization_id",
            "cancel",
        ]
    ),
    NUMBERS.map(str) | TEXT.map(lambda text: text.encode(errors="replace").decode()) | JSON.map(cursor),
    max_size=3,
)
IDS = st.sampled_from(["done", "waiting", "ghost", "%00", "%ff", "%ed%a0%80", "..", "%2e%2e", "a%2Fb"])
ROUTES = st.sampled_from([
    "/optimizations", "/optimizations/{}", "/optimizations/{}/trials", "/optimizations/{}/metrics",
    "/optimizations/{}/transitions", "/optimizations/{}/pause", "/optimizations/{}/resume", "/optimizations/{}/cancel",
    "/optimizations/{}/start", "/statistics", "/statistics/trends", "/statistics/rankings", "/alerts",
    "/alerts/{}/resolve", "/health", "/health/{}", "/{}", "/optimizations/{}",
])  # fmt: skip
METHODS = st.sampled_from(["GET", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
EXAMPLES = settings(
    max_examples=150 if os.environ.get("O9_LONG_TESTS") else 50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@EXAMPLES
@given(body=BODIES)
@example(body={"metadata": {"objective": ["x"]}})
def test_no_submission_causes_an_internal_error(api: Requests, body: Any) -> None:
    code, told = api.send("/optimizations", "POST", body=json.dumps(body).encode())
    assert code in (200, 400, 409, 422), told


@EXAMPLES
@given(route=ROUTES, name=IDS, method=METHODS, query=QUERIES)
def test_no_request_causes_an_internal_error(api: Requests, route: str, name: str, method: str, query: Any) -> None:
    if method == "HEAD":  # over HTTP it has no body to look at
        told = api.run(api.api.handle_api_request(route.format(name), method, query))
        code = told["code"]
    else:
        code, told = api.send(route.format(name), method, query)
    assert code in (200, 400, 404, 405, 409, 422), told


@EXAMPLES
@given(body=BODIES)
@example(body={"metadata": []})
@example(body={"priority": None})
def test_no_change_causes_an_internal_error(api: Requests, body: Any) -> None:
    code, told = api.send("/optimizations/waiting", "PUT", body=json.dumps(body).encode())
    assert code in (200, 400, 409, 422), told


def test_body_limit_in_process(api: Requests) -> None:
    body = {"optimization_id": "large", "metadata": {"objective": "branin", "notes": "名" * 200_000}}
    assert api.send("/optimizations", "POST", body=json.dumps(body, ensure_ascii=False).encode())[0] == 200
    answer = api.run(api.api.handle_api_request("/optimizations", "POST", body))
    assert answer["success"], answer


def test_health_does_not_wait_for_a_hanging_prefect(api: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(health, "PREFECT_SECONDS", 0.05)
    monkeypatch.setattr(api.backend, "prefect_alive", hangs)
    code, told = api.send("/health")
    assert (code, told["data"]["prefect"]["alive"]) == (200, False)


def test_health_of_a_store_costs_the_same_at_any_size(store: Store, api: Requests) -> None:
    asked: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    def health() -> list[str]:
        asked.clear()
        code, told = api.send("/health")
        assert (code, told["data"]["running"], told["data"]["schema"]) == (200, True, store.schema())
        return list(asked)

    first = health()
    for number in range(20):
        create(store, f"more-{number}")
    assert health() == first
    assert not [statement for statement in first if "integrity" in statement or "optimization" in statement]


def test_health_names_the_issues(store: Store, api: Requests) -> None:
    def health() -> Any:
        return api.send("/health")[1]["data"]

    store.write(Heartbeat("here", "host", 1, 0.0, 60.0))
    assert (health()["status"], health()["issues"]) == ("healthy", [])
    store.write(Heartbeat("gone", "host", 1, 0.0, -1.0))
    found = health()
    assert {node["node_id"]: node["alive"] for node in found["nodes"]} == {"here": True, "gone": False}
    assert (found["status"], len(found["issues"]), "gone" in found["issues"][0]) == ("warning", 1, True)
    api.backend.prefect_answers = False
    assert (health()["prefect"]["alive"], len(health()["issues"])) == (False, 2)


# Filters


@pytest.fixture
def filled(store: Store, api: Requests) -> list[str]:
    kinds = {"optimization_type": OptimizationType.RISK_OPTIMIZATION, "priority": OptimizationPriority.HIGH}
    create(store, "Risk_1", name="Größe 100%", **kinds)
    create(store, "risk-2", metadata={"objective": "branin", "strategy": "desk:mine"}, **kinds)
    return [state.optimization_id for state in store.read(queries.page).items]


@pytest.mark.usefixtures("filled")
def test_each_filter(api: Requests) -> None:
    queries: list[tuple[dict[str, str], list[str]]] = [
        ({"status": "completed"}, ["done"]),
        ({"type": "risk_optimization"}, ["risk-2", "Risk_1"]),
        ({"priority": "high"}, ["risk-2", "Risk_1"]),
        ({"priority": "2"}, ["waiting", "done"]),
        ({"strategy": "desk:mine"}, ["risk-2"]),
        ({"strategy": "default", "status": "created"}, ["Risk_1", "waiting"]),
        ({"family": "nobody's"}, []),
        ({"q": "RISK"}, ["risk-2", "Risk_1"]),
        ({"q": "k_1"}, ["Risk_1"]),
        ({"q": "100%"}, ["Risk_1"]),
        ({"q": "%"}, ["Risk_1"]),
        ({"q": "Größe"}, ["Risk_1"]),
        ({"q": "GRÖ"}, ["Risk_1"]),
        ({"created_after": "2000-01-01T00:00:00Z", "q": "n"}, ["waiting", "done"]),
        ({"created_after": "2999-01-01T00:00:00+01:00"}, []),
    ]
    for query, found in queries:
        code, told = api.send("/optimizations", query=query)
        assert (code, [item["optimization_id"] for item in told["data"]["items"]]) == (200, found), query


def test_filtered_pages_make_up_the_list(api: Requests, filled: list[str]) -> None:
    found: list[str] = []
    query = {"limit": "1", "priority": "normal"}
    while True:
        page = api.send("/optimizations", query=query)[1]["data"]
        found += [item["optimization_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == ["waiting", "done"]


def test_lists_of_an_optimization_are_paged(api: Requests) -> None:
    for path in ("trials", "transitions"):
        whole = api.send(f"/optimizations/done/{path}")[1]["data"]
        assert whole["next_cursor"] is None
        found: list[Any] = []
        query = {"limit": "1"}
        for _ in whole["items"]:
            page = api.send(f"/optimizations/done/{path}", query=query)[1]["data"]
            found += page["items"]
            query["cursor"] = page["next_cursor"]
        assert (found, page["next_cursor"]) == (whole["items"], None)
        assert len(found) > 1


def test_metrics_are_paged_by_step(api: Requests, store: Store) -> None:
    steps = 10_100  # more than the monitor looks at
    with store._engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO metric (optimization_id, name, step, value, at) WITH RECURSIVE n(i) AS "
                "(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :steps) "
                "SELECT 'done', 'step_seconds', i, i, '2026-01-01T00:00:00+00:00' FROM n"
            ),
            {"steps": steps},
        )
    found: list[float] = []
    query: dict[str, Any] = {"limit": 1000}
    while True:
        page = api.send("/optimizations/done/metrics", query=query)[1]["data"]
        found += [item["execution_time"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == [float(step) for step in range(steps)]

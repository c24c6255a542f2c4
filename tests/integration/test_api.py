"""Requests in process: every route, control, limits, handlers, and invalid requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from o9_testing import LINE, ended, new, shell_command, until
from verdicts import keep_verdict, verdict

from o9.api.answers import code_of
from o9.health.grades import Grade
from OptimizationStateAggregator import (
    AlertLevel,
    OptimizationAlert,
    OptimizationAPI,
    OptimizationAPIError,
    OptimizationConflictError,
    OptimizationError,
    OptimizationLifecycleError,
    OptimizationNotFoundError,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationValidationError,
    objective,
)


@objective("asked-for", search_space=LINE)
async def asked_for(parameters: dict[str, float]) -> float:
    print("said")
    return parameters["x"]


@objective("unhurried", search_space=LINE)
async def unhurried(parameters: dict[str, float]) -> float:
    """An optimization of which the monitor has no findings: few trials, with the best in the middle."""
    await asyncio.sleep(0.2)
    return -((parameters["x"] - 0.5) ** 2)


FIELDS = {"optimization_id": "名 1", "name": "🚀", "total_steps": 3, "metadata": {"objective": "asked-for", "seed": 1}}


async def answer(aggregator: OptimizationStateAggregator, endpoint: str, method: str = "GET", data: Any = None) -> Any:
    """The data of a response that must be a success."""
    response = await aggregator.handle_api_request(endpoint, method, data)
    assert response["success"], response
    assert response["api_version"] == "v1"
    assert response["timestamp"]
    return response["data"]


async def refusal(
    aggregator: OptimizationStateAggregator, endpoint: str, method: str = "GET", data: Any = None
) -> tuple[int, str]:
    """Code and message of a response that must be an error."""
    response = await aggregator.handle_api_request(endpoint, method, data)
    assert response.keys() - {"versions"} == {"success", "error", "code"}, response
    assert response["success"] is False
    return response["code"], response["error"]


async def test_grade_is_returned_and_accepted_by_put(aggregator: OptimizationStateAggregator) -> None:
    await answer(aggregator, "/optimizations", "POST", FIELDS)
    await ended(aggregator, "名 1")
    assert (await answer(aggregator, "/optimizations/名 1"))["grade"] is None
    keep_verdict(aggregator.store, "名 1", verdict(Grade.LOST))
    read = await answer(aggregator, "/optimizations/名 1")
    (listed,) = (await answer(aggregator, "/optimizations"))["items"]
    assert read["grade"] == listed["grade"] == "lost"
    changed = await answer(aggregator, "/optimizations/名 1", "PUT", read | {"name": "renamed"})
    assert changed["name"] == "renamed"
    told = await answer(aggregator, "/health/名 1")
    assert (told["grade"] is None) == (told["verdict"] is None)


async def test_lifecycle_by_requests(aggregator: OptimizationStateAggregator) -> None:
    created = await answer(aggregator, "/optimizations", "POST", FIELDS)
    assert created["status"] == "created"
    await ended(aggregator, "名 1")

    assert (await answer(aggregator, "/optimizations/名 1"))["status"] == "completed"
    assert (await answer(aggregator, "/api/v1/optimizations"))["items"][0]["name"] == "🚀"
    trials = await answer(aggregator, "/optimizations/名 1/trials")
    assert ([trial["number"] for trial in trials["items"]], trials["next_cursor"]) == ([0, 1, 2], None)
    logs = await answer(aggregator, "/optimizations/名 1/logs?limit=2")
    assert logs["items"] == [{"step": n, "trial": n, "text": "said\n", "cut": 0} for n in range(2)]
    rest = await answer(aggregator, "/optimizations/名 1/logs", data={"cursor": logs["next_cursor"]})
    assert ([entry["trial"] for entry in rest["items"]], rest["next_cursor"]) == ([2], None)
    one = await answer(aggregator, "/optimizations/名 1/logs?trial=1")
    assert [entry["trial"] for entry in one["items"]] == [1]
    moves = await answer(aggregator, "/optimizations/名 1/transitions")
    assert [row["to_status"] for row in moves["items"]] == ["created", "initializing", "running", "completed"]
    assert (await answer(aggregator, "/statistics"))["completed_optimizations"] == 1
    health = await answer(aggregator, "/health")
    assert (health["running"], health["status"], health["prefect"]["alive"]) == (True, "healthy", True)
    assert [node["alive"] for node in health["nodes"]] == [True]
    assert (await answer(aggregator, "/alerts"))["items"] == []
    assert (await answer(aggregator, "/health/名 1"))["completeness_status"] == "healthy"
    stats = aggregator.api.get_api_stats()
    assert (stats["requests"], stats["by_code"]) == (12, {200: 12})
    assert stats["by_endpoint"]["GET /optimizations/{optimization_id}"] == 1

    # The same once more is the same one; the same id with other content is not.
    assert (await answer(aggregator, "/optimizations", "POST", FIELDS))["status"] == "completed"
    assert (await refusal(aggregator, "/optimizations", "POST", FIELDS | {"name": "other"}))[0] == 409
    assert (await refusal(aggregator, "/optimizations/名 1/pause", "POST"))[0] == 409


async def test_pages(aggregator: OptimizationStateAggregator) -> None:
    for number in range(3):
        await aggregator.submit_optimization(new(f"p{number}", objective="asked-for", total_steps=1))
    first = await answer(aggregator, "optimizations", "GET", {"limit": 2})
    second = await answer(aggregator, "optimizations", "GET", {"limit": 2, "cursor": first["next_cursor"]})
    names = [item["optimization_id"] for page in (first, second) for item in page["items"]]
    assert names == ["p2", "p1", "p0"]
    assert second["next_cursor"] is None


async def test_pause_and_resume(aggregator: OptimizationStateAggregator) -> None:
    await aggregator.submit_optimization(new("long", objective="asked-for", total_steps=500))
    await until(aggregator, "long", lambda state: state.completed_steps > 0)
    await answer(aggregator, "/optimizations/long/pause", "POST")
    await until(aggregator, "long", lambda state: state.status.value == "paused")
    assert (await refusal(aggregator, "/optimizations/long", "PUT", {"total_steps": 3}))[0] == 409
    assert (await answer(aggregator, "/optimizations/long", "PUT", {"priority": "high"}))["priority"] == 3
    assert (await answer(aggregator, "/optimizations/long/resume", "POST"))["status"] == "created"
    await answer(aggregator, "/optimizations/long/cancel", "POST")
    await until(aggregator, "long", lambda state: state.status.value == "cancelled")


ASKED_WRONGLY: list[tuple[Any, Any, Any, int, str]] = [
    ("/nothing", "GET", None, 404, "no such endpoint"),
    ("/statistics", "POST", None, 405, "no such endpoint or method"),
    ("/statistics", "HEAD", None, 405, "HEAD"),
    ("/optimizations/a/b/c", "GET", None, 404, "no such endpoint"),
    ("/../../docs", "GET", None, 404, "endpoint"),
    ("http://elsewhere/statistics", "GET", None, 404, "no such endpoint"),
    ("/optimizations/a\n", "GET", None, 400, "endpoint"),
    ("/optimizations/\ud800", "GET", None, 400, "endpoint"),
    (None, "GET", None, 400, "endpoint"),
    ("/statistics", None, None, 400, "method"),
    ("/statistics", "DANCE NOW", None, 405, "no such endpoint or method"),
    ("/optimizations/ghost", "GET", None, 404, "ghost"),
    ("/optimizations/ghost/pause", "POST", None, 404, "ghost"),
    ("/optimizations/ghost/dance", "POST", None, 404, "dance"),
    ("/optimizations", "GET", {"limit": 0}, 422, "limit"),
    ("/optimizations", "GET", {"limit": "many"}, 422, "limit"),
    ("/optimizations", "GET", {"cursor": "moon"}, 422, "cursor"),
    ("/optimizations", "GET", 5, 422, "data"),
    ("/optimizations", "POST", None, 422, "body"),
    ("/optimizations", "POST", "text", 422, "body"),
    ("/optimizations", "POST", b"bytes", 422, "JSON"),
    ("/optimizations", "POST", [1], 422, "body"),
    ("/optimizations", "POST", {"bogus": 1}, 422, "bogus"),
    ("/optimizations", "POST", {"name": "a", "metadata": {"seed": {1, 2}}}, 422, "JSON"),
    ("/optimizations", "POST", {"name": "a", "priority": "urgent"}, 422, "priority"),
    ("/optimizations", "POST", {"name": "a", "metadata": {"objective": "os:getcwd"}}, 422, "O9_ALLOWED_IMPORTS"),
    ("/optimizations", "POST", {"name": "a", "metadata": {"strategy": "os:getcwd"}}, 422, "O9_ALLOWED_IMPORTS"),
    ("/optimizations", "POST", {"name": "a", "metadata": {"objective": ["x"]}}, 422, "metadata.objective"),
    ("/optimizations", "POST", {"name": "a", "metadata": {"strategy": ["x"]}}, 422, "metadata.strategy"),
    ("/statistics/trends", "GET", {"days": 0}, 422, "days"),
    ("/statistics/trends", "GET", {"days": "nan"}, 422, "days"),
    ("/statistics/rankings", "GET", None, 422, "metric_name"),
    ("/statistics/rankings", "GET", {"metric_name": "value"}, 422, "metric_name"),
    ("/statistics/rankings", "GET", {"metric_name": "execution_time", "limit": 0}, 422, "limit"),
    ("/statistics", "GET", {"days": 7}, 422, "days"),
    ("/optimizations", "GET", {"family?": "x"}, 422, "family?"),
    ("/optimizations", "GET", {"priority": "urgent"}, 422, "priority"),
    ("/optimizations", "GET", {"created_after": "yesterday"}, 422, "created_after"),
    ("/alerts", "GET", {"level": "loud"}, 422, "level"),
    ("/alerts/1/resolve", "POST", None, 404, "1"),
    ("/optimizations/ghost", "PUT", {}, 404, "ghost"),
    ("/optimizations/ghost", "DELETE", None, 404, "ghost"),
    ("/optimizations/ghost/start", "POST", None, 404, "ghost"),
    ("/api/v2/optimizations", "GET", None, 404, "v1"),
]


async def test_invalid_requests_are_refused(aggregator: OptimizationStateAggregator) -> None:
    for endpoint, method, data, code, word in ASKED_WRONGLY:
        told, text = await refusal(aggregator, endpoint, method, data)
        assert (told, word in text) == (code, True), (endpoint, method, data, text)
    assert await aggregator.get_all_optimizations() == []


async def test_request_may_name_allowed_imports(
    aggregator: OptimizationStateAggregator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
) -> None:
    (tmp_path / "allowed_desk.py").write_text("def flat(parameters):\n    return 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_o9(allowed_imports="allowed_desk")
    fields = {"optimization_id": "a", "metadata": {"objective": "allowed_desk:flat", "search_space": LINE}}
    assert (await answer(aggregator, "/optimizations", "POST", fields))["optimization_id"] == "a"


async def test_request_cannot_name_imports_of_an_allowed_module(
    aggregator: OptimizationStateAggregator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_o9: Callable[..., None],
) -> None:
    (tmp_path / "open_desk.py").write_text("import numpy as np\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    set_o9(allowed_imports="open_desk")
    response = await aggregator.handle_api_request("/optimizations", "POST", shell_command("open_desk", tmp_path))
    if response["success"]:
        await ended(aggregator, "a")
    assert not (tmp_path / "left").exists()
    assert response["code"] == 422
    assert "metadata.objective" in response["error"]


async def test_unexpected_error_is_logged_and_returned(
    aggregator: OptimizationStateAggregator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks() -> None:
        raise ZeroDivisionError("the secret divisor")

    monkeypatch.setattr(aggregator.statistics, "get_global_statistics", breaks)
    code, text = await refusal(aggregator, "/statistics")
    assert code == 500
    assert "ZeroDivisionError" in text
    assert "secret" not in text
    assert "the secret divisor" in caplog.text


async def test_start_of_a_held_optimization(aggregator: OptimizationStateAggregator) -> None:
    held = new("held", objective="asked-for", total_steps=1)
    await aggregator.lifecycle_manager.create_optimization(held)
    assert (await answer(aggregator, "/optimizations/held/start", "POST"))["status"] == "created"
    assert (await ended(aggregator, "held")).status.value == "completed"
    assert (await refusal(aggregator, "/optimizations/held/start", "POST"))[0] == 409


async def test_running_optimization_must_be_cancelled_before_change_or_deletion(
    aggregator: OptimizationStateAggregator,
) -> None:
    for name in ("changed", "deleted"):
        await aggregator.submit_optimization(new(name, objective="unhurried", total_steps=100_000))
        await until(aggregator, name, lambda state: state.completed_steps > 0)
    code, text = await refusal(aggregator, "/optimizations/changed", "PUT", {"description": "too long"})
    assert (code, "running" in text) == (409, True)
    await answer(aggregator, "/optimizations/changed/cancel", "POST")
    await until(aggregator, "changed", lambda state: state.status.value == "cancelled")
    assert (await refusal(aggregator, "/optimizations/changed", "PUT", {"priority": 1}))[0] == 409
    changed = await answer(aggregator, "/optimizations/changed", "PUT", {"description": "too long"})
    assert (changed["status"], changed["description"]) == ("cancelled", "too long")

    code, text = await refusal(aggregator, "/optimizations/deleted", "DELETE")
    assert (code, "running" in text) == (409, True)
    deleted = await answer(aggregator, "/optimizations/deleted", "DELETE", {"cancel": True})
    assert deleted == {"optimization_id": "deleted"}
    assert (await refusal(aggregator, "/optimizations/deleted"))[0] == 404
    statistics = await answer(aggregator, "/statistics")
    assert (statistics["by_status"], statistics["pruned_optimizations"]) == ({"cancelled": 1}, 1)
    assert statistics["cancelled_rate"] == 1.0
    # The id is free, and the new one starts as any other.
    await answer(aggregator, "/optimizations", "POST", FIELDS | {"optimization_id": "deleted"})
    assert (await ended(aggregator, "deleted")).status.value == "completed"
    moves = await answer(aggregator, "/optimizations/deleted/transitions")
    assert moves["items"][0]["from_status"] is None


async def test_alerts_are_filtered_paged_and_resolved(aggregator: OptimizationStateAggregator) -> None:
    for number in range(5):
        level = AlertLevel.ERROR if number % 2 else AlertLevel.INFO
        await aggregator.send_alert(
            OptimizationAlert(f"a{number}", f"o{number % 2}", level, f"alert {number}", "words")
        )
    first = await answer(aggregator, "/alerts", "GET", {"limit": 3})
    second = await answer(aggregator, "/alerts", "GET", {"limit": 3, "cursor": first["next_cursor"]})
    pages = [[item["alert_id"] for item in page["items"]] for page in (first, second)]
    assert (pages, second["next_cursor"]) == ([["a4", "a3", "a2"], ["a1", "a0"]], None)
    errors = await answer(aggregator, "/alerts", "GET", {"level": AlertLevel.ERROR})
    assert [item["alert_id"] for item in errors["items"]] == ["a3", "a1"]
    about = await answer(aggregator, "/alerts", "GET", {"optimization_id": "o0", "level": "info", "limit": 1})
    assert [item["alert_id"] for item in about["items"]] == ["a4"]

    resolved = await answer(aggregator, "/alerts/a3/resolve", "POST", {"by": "ana"})
    assert (resolved["alert_id"], resolved["resolved"]) == ("a3", True)
    assert await answer(aggregator, "/alerts/a3/resolve", "POST") == resolved
    assert [alert.alert_id for alert in await aggregator.get_alerts() if alert.resolved] == ["a3"]


async def test_rate_limit_counts_each_client_separately(
    open_aggregator: Callable[..., Awaitable[Any]], set_o9: Callable[..., None], async_wait_until: Callable[..., Any]
) -> None:
    set_o9(api_rate_limit="3/second;100/minute")
    aggregator = await open_aggregator()

    async def ask(client_id: str | None) -> Any:
        return await aggregator.handle_api_request("/alerts", "GET", client_id=client_id)

    answers = [await ask("ana") for _ in range(20)]
    refused = [each for each in answers if not each["success"]]
    assert refused
    assert {(each["code"], each["retry_after"]) for each in refused} == {(429, 1)}
    assert (await ask("ben"))["success"]
    assert (await ask(None))["success"]

    async def passes() -> bool:
        return bool((await ask("ana"))["success"])

    await async_wait_until(passes, 5)
    assert aggregator.api.get_api_stats()["by_code"][429] >= len(refused)


async def test_default_rate_limit(aggregator: OptimizationStateAggregator) -> None:
    codes = [(await aggregator.handle_api_request("/alerts", "GET", client_id="ana")).get("code") for _ in range(101)]
    assert codes == [None] * 100 + [429]


async def test_user_handler(aggregator: OptimizationStateAggregator) -> None:
    async def desk(data: Any, name: str) -> dict[str, Any]:
        if name == "closed":
            raise OptimizationAPIError("the desk is closed: come back at nine", 423)
        return {"desk": name, "data": data, "state": await aggregator.get_optimization_status("a")}

    aggregator.api.register_api_handler("/desks/{name}", "get", desk)
    await aggregator.api.register_api_handler("api/v1/desks/{name}", "POST", lambda data, name: [name, data])
    assert await answer(aggregator, "/desks/eu", "GET", {"q": 1}) == {"desk": "eu", "data": {"q": "1"}, "state": None}
    assert await answer(aggregator, "/desks/eu", "POST", {"limit": 5}) == ["eu", {"limit": 5}]
    assert await answer(aggregator, "/desks/eu", "POST") == ["eu", None]
    assert await refusal(aggregator, "/desks/closed") == (423, "the desk is closed: come back at nine")
    assert (await refusal(aggregator, "/desks/eu", "DELETE"))[0] == 405
    aggregator.api.register_api_handler("/figures", "GET", lambda data: {"sharpe": float("nan")})
    code, error = await refusal(aggregator, "/figures")
    assert (code, "/figures" in error) == (500, True)
    # In the place of a route of O9's own.
    aggregator.api.register_api_handler("/statistics", "GET", lambda data: "none today")
    assert await answer(aggregator, "/statistics") == "none today"
    stats = aggregator.api.get_api_stats()
    assert stats["handlers"] == ["GET /desks/{name}", "POST /desks/{name}", "GET /figures", "GET /statistics"]
    assert stats["by_endpoint"]["POST /desks/{name}"] == 2


@pytest.mark.parametrize(
    ("endpoint", "method", "handler", "field"),
    [
        ("", "GET", print, "endpoint"),
        ("/api/v1/", "GET", print, "endpoint"),
        ("/{a}/{a}", "GET", print, "endpoint"),
        ("/{data}", "GET", print, "endpoint"),
        ("/{a:color}", "GET", print, "endpoint"),
        (7, "GET", print, "endpoint"),
        ("/a", "DANCE", print, "method"),
        ("/a", "GET", "print", "handler"),
    ],
)
def test_invalid_handler_is_refused_at_registration(endpoint: Any, method: Any, handler: Any, field: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        OptimizationAPI().register_api_handler(endpoint, method, handler)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"api_version": "v2"}, "api_version"),
        ({"rate_limit": "often"}, "rate_limit"),
        ({"rate_limit": 7}, "rate_limit"),
    ],
)
def test_invalid_arguments_are_refused(arguments: Any, field: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        OptimizationAPI(**arguments)
    assert refused.value.field == field


async def test_request_event(aggregator: OptimizationStateAggregator) -> None:
    heard: list[dict[str, Any]] = []
    aggregator.api.register_callback("request", heard.append)
    await answer(aggregator, "/alerts")
    await aggregator.handle_api_request("/optimizations/ghost", "GET", client_id="ana")
    assert [(entry["method"], entry["endpoint"], entry["code"]) for entry in heard] == [
        ("GET", "/api/v1/alerts", 200), ("GET", "/api/v1/optimizations/{optimization_id}", 404),
    ]  # fmt: skip
    assert ("ana" in heard[1]["client"], heard[1]["seconds"] >= 0) == (True, True)

    async def ends(entry: dict[str, Any]) -> None:
        await aggregator.cleanup()

    aggregator.api.register_callback("request", ends)
    await answer(aggregator, "/alerts")
    assert not aggregator.api.is_running


async def test_probes(store_url: str, aggregator: OptimizationStateAggregator) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await answer(aggregator, path))["status"]
    assert (await answer(aggregator, "/api"))["versions"] == ["v1"]
    other = await aggregator.handle_api_request("/api/v2/optimizations", "GET")
    assert (other["code"], other["versions"]) == (404, ["v1"])
    not_started = OptimizationStateAggregator(storage_path=store_url)
    assert (await answer(not_started, "/healthz"))["status"]
    assert (await refusal(not_started, "/readyz"))[0] == 503


@pytest.mark.parametrize("data", [{"metadata": {1: "a", "1": "b"}}, [{"metadata": {1: "a"}}]])
async def test_key_that_is_not_text_is_named(data: Any) -> None:
    told = await OptimizationAPI().handle_api_request("/optimizations", "POST", data)
    assert (told["code"], "metadata[1]: the key is" in told["error"]) == (422, True), told


async def test_503_before_start_and_without_aggregator(store_url: str) -> None:
    aggregator = OptimizationStateAggregator(storage_path=store_url)
    assert (await refusal(aggregator, "/statistics"))[0] == 503
    assert (await OptimizationAPI().handle_api_request("/statistics", "GET"))["code"] == 503


async def test_without_aggregator_only_user_handlers_respond(
    async_wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    alone, heard = OptimizationAPI(rate_limit="3/minute"), list[tuple[str, int]]()
    alone.register_callback("request", lambda entry: heard.append((entry["path"], entry["code"])))
    alone.register_api_handler("/desks/{name}", "GET", lambda data, name: name)
    await alone.start()
    assert "backend=aggregator" in caplog.text
    paths = ("/desks/eu", "/statistics", "/healthz", "/desks/eu", "/desks/eu")
    answers = [await alone.handle_api_request(path, "GET") for path in paths]
    assert [each.get("code", 200) for each in answers] == [200, 503, 503, 200, 429]
    assert (answers[0]["data"], "backend=aggregator" in answers[1]["error"]) == ("eu", True)
    stats = alone.get_api_stats()
    assert (stats["by_code"], stats["by_endpoint"]["GET /desks/{name}"]) == ({200: 2, 429: 1, 503: 2}, 2)
    await alone.cleanup()
    assert len(heard) == len(paths)


def test_every_error_has_a_code() -> None:
    expected = {
        OptimizationConflictError("id", "taken"): 409,
        OptimizationValidationError("id", "empty"): 422,
        OptimizationStateError("ended"): 409,
        OptimizationStoreError("away"): 503,
        OptimizationAPIError("too much", 429): 429,
        OptimizationNotFoundError("no such thing"): 404,
        OptimizationLifecycleError("forbidden by a hook"): 409,
        OptimizationError("other"): 500,
    }
    assert {error: code_of(error) for error in expected} == expected

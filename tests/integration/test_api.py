"""Requests, answered as the REST API answers them: every route, and every way to ask wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from o9_testing import LINE, ended, new, shell_command, until

from o9.api.app import code_of
from OptimizationStateAggregator import (
    NotYetAvailableError,
    OptimizationAPI,
    OptimizationAPIError,
    OptimizationConflictError,
    OptimizationError,
    OptimizationStateAggregator,
    OptimizationStateError,
    OptimizationStoreError,
    OptimizationValidationError,
    objective,
)


@objective("asked-for", search_space=LINE)
async def asked_for(parameters: dict[str, float]) -> float:
    return parameters["x"]


FIELDS = {"optimization_id": "名 1", "name": "🚀", "total_steps": 3, "metadata": {"objective": "asked-for", "seed": 1}}


async def answer(aggregator: OptimizationStateAggregator, endpoint: str, method: str = "GET", data: Any = None) -> Any:
    """The data of an answer that must be a success."""
    response = await aggregator.handle_api_request(endpoint, method, data)
    assert response["success"], response
    assert response["api_version"] == "v1"
    assert response["timestamp"]
    return response["data"]


async def refusal(
    aggregator: OptimizationStateAggregator, endpoint: str, method: str = "GET", data: Any = None
) -> tuple[int, str]:
    """Code and text of an answer that must be an error."""
    response = await aggregator.handle_api_request(endpoint, method, data)
    assert response.keys() == {"success", "error", "code"}, response
    assert response["success"] is False
    return response["code"], response["error"]


async def test_a_life_by_requests(aggregator: OptimizationStateAggregator) -> None:
    created = await answer(aggregator, "/optimizations", "POST", FIELDS)
    assert created["status"] == "created"
    await ended(aggregator, "名 1")

    assert (await answer(aggregator, "/optimizations/名 1"))["status"] == "completed"
    assert (await answer(aggregator, "/api/v1/optimizations"))["items"][0]["name"] == "🚀"
    assert [trial["number"] for trial in await answer(aggregator, "/optimizations/名 1/trials")] == [0, 1, 2]
    moves = [row["to_status"] for row in await answer(aggregator, "/optimizations/名 1/transitions")]
    assert moves == ["created", "initializing", "running", "completed"]
    assert (await answer(aggregator, "/statistics"))["completed_optimizations"] == 1
    assert (await answer(aggregator, "/health"))["running"] is True
    assert (await answer(aggregator, "/alerts"))["items"] == []
    assert (await answer(aggregator, "/health/名 1"))["completeness_status"] == "healthy"
    assert aggregator.api.get_api_stats()["by_code"] == {200: 9}

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
    assert (await answer(aggregator, "/optimizations/long/resume", "POST"))["status"] == "created"
    await answer(aggregator, "/optimizations/long/cancel", "POST")
    await until(aggregator, "long", lambda state: state.status.value == "cancelled")


@pytest.mark.parametrize(
    ("endpoint", "method", "data", "code", "word"),
    [
        ("/nothing", "GET", None, 404, "no such endpoint"),
        ("/statistics", "POST", None, 405, "no such endpoint or method"),
        ("/optimizations/a/b/c", "GET", None, 404, "no such endpoint"),
        ("/../../docs", "GET", None, 404, "leads out"),
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
        ("/statistics/trends", "GET", {"days": 0}, 422, "time_range"),
        ("/statistics/trends", "GET", {"days": "nan"}, 422, "days"),
        ("/statistics/rankings", "GET", None, 422, "metric_name"),
        ("/statistics/rankings", "GET", {"metric_name": "value"}, 422, "metric_name"),
        ("/statistics/rankings", "GET", {"metric_name": "execution_time", "limit": 0}, 422, "limit"),
        ("/alerts/1/resolve", "POST", None, 501, "not available"),
        ("/optimizations/ghost", "PUT", {}, 501, "not available"),
        ("/optimizations/ghost", "DELETE", None, 501, "not available"),
        ("/optimizations/ghost/start", "POST", None, 501, "not available"),
    ],
)
async def test_asking_wrongly(
    aggregator: OptimizationStateAggregator, endpoint: str, method: str, data: Any, code: int, word: str
) -> None:
    told, text = await refusal(aggregator, endpoint, method, data)
    assert told == code
    assert word in text
    assert await aggregator.get_all_optimizations() == []


async def test_a_request_may_name_what_the_operator_allows(
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


async def test_a_request_reaches_nothing_that_an_allowed_module_merely_imports(
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


async def test_an_error_that_nobody_foresaw_is_an_answer_and_is_logged(
    aggregator: OptimizationStateAggregator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks() -> None:
        raise ZeroDivisionError("the secret divisor")

    monkeypatch.setattr(aggregator, "get_global_statistics", breaks)
    code, text = await refusal(aggregator, "/statistics")
    assert code == 500
    assert "ZeroDivisionError" in text
    assert "secret" not in text
    assert "the secret divisor" in caplog.text


async def test_nobody_answers_before_the_start_or_alone(store_url: str) -> None:
    aggregator = OptimizationStateAggregator(storage_path=store_url)
    assert (await refusal(aggregator, "/statistics"))[0] == 503
    assert (await OptimizationAPI().handle_api_request("/statistics", "GET"))["code"] == 503


def test_every_error_has_its_code() -> None:
    expected = {
        OptimizationConflictError("id", "taken"): 409,
        OptimizationValidationError("id", "empty"): 422,
        OptimizationStateError("ended"): 409,
        OptimizationStoreError("away"): 503,
        OptimizationAPIError("too much", 429): 429,
        NotYetAvailableError("later"): 501,
        OptimizationError("other"): 500,
    }
    assert {error: code_of(error) for error in expected} == expected

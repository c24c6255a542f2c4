"""HTTP on real sockets: the same responses as in process, limits, bodies, access, and `o9 serve`."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import o9_testing
import pytest
import zygote
from command_line import O9, O9Command, command_in, create, work
from contract_alerts import new_alert
from http_server import Served, serving
from store_backend import StoreBackend

from o9.api.api import OptimizationAPI
from o9.api.server import listen, url_of
from o9.model.errors import OptimizationValidationError
from o9.model.settings import report_page, settings
from o9.store.alerts.episodes import RaiseAlerts
from o9.store.store import Store

NEW = {"optimization_id": "new", "name": "N", "metadata": {"objective": "branin", "seed": 1}}


@pytest.fixture(params=["store_url", "postgres_url"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(request.getfixturevalue(request.param)) as opened:
        create(opened, "done")
        work(opened, "done", 2, "completed")
        create(opened, "waiting")
        opened.write(RaiseAlerts([new_alert("alarm", optimization_id="waiting")]))
        yield opened


@pytest.fixture
def served(store: Store) -> Iterator[Served]:
    with serving(OptimizationAPI(backend=StoreBackend(store))) as made:
        yield made


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/optimizations", None),
    ("GET", "/optimizations", {"status": "completed", "limit": 1}),
    ("GET", "/optimizations", {"status": "asleep"}),
    ("GET", "/optimizations", {"colour": "red"}),
    ("GET", "/optimizations/done", None),
    ("GET", "/optimizations/名", None),
    ("GET", "/optimizations/done/trials", {"limit": 3}),
    ("GET", "/optimizations/done/metrics", None),
    ("GET", "/optimizations/done/transitions", None),
    ("GET", "/optimizations/ghost/report", None),
    ("POST", "/optimizations", NEW),
    ("POST", "/optimizations", NEW),
    ("POST", "/optimizations", NEW | {"name": "other"}),
    ("POST", "/optimizations", {"priority": "urgent"}),
    ("POST", "/optimizations", [1]),
    ("POST", "/optimizations", None),
    ("PUT", "/optimizations/waiting", {"name": "W", "priority": "low"}),
    ("PUT", "/optimizations/done", {"priority": "low"}),
    ("POST", "/optimizations/waiting/pause", None),
    ("POST", "/optimizations/waiting/resume", None),
    ("POST", "/optimizations/waiting/start", None),
    ("POST", "/optimizations/done/cancel", None),
    ("DELETE", "/optimizations/waiting", {"cancel": "maybe"}),
    ("DELETE", "/optimizations/new", None),
    ("DELETE", "/optimizations/new", None),
    ("GET", "/statistics", None),
    ("GET", "/statistics/rankings", {"metric_name": "execution_time"}),
    ("GET", "/statistics/trends", {"days": 0}),
    ("GET", "/health", None),
    ("GET", "/health/ghost", None),
    ("GET", "/alerts", None),
    ("POST", "/alerts/alarm/resolve", {"by": "ana"}),
    ("POST", "/alerts/ghost/resolve", None),
    ("PATCH", "/alerts", None),
    ("GET", "/nothing", None),
]


@pytest.mark.parametrize("store", ["store_url"], indirect=True)
def test_responses_are_equal_over_http_and_in_process(tmp_path: Path, served: Served, store: Store) -> None:
    """The same requests to two equal stores, one over HTTP, the other in process."""
    store.backup(str(tmp_path / "twin.db"))
    with Store(str(tmp_path / "twin.db")) as twin:
        api = OptimizationAPI(backend=StoreBackend(twin))
        for method, path, data in REQUESTS:
            reads = method in ("GET", "DELETE")
            over_http = served.ask(
                f"/api/v1{path}", method, params=data if reads else None, json=None if reads else data
            )
            in_process = served.run(api.handle_api_request(path, method, data))
            given = over_http.json()
            assert over_http.status_code == given.get("code", 200), (method, path)
            assert given.keys() == in_process.keys(), (method, path, given, in_process)
            assert alike(given) == alike(in_process), (method, path)
            assert over_http.headers["content-type"] == "application/json"


def alike(answer: Any) -> Any:
    """A response without what differs between two stores: times, and their names."""
    if isinstance(answer, dict):
        apart = {"timestamp", "store", "at"}
        shared = (key for key in answer if key not in apart and not key.endswith(("_at", "_seconds")))
        return {key: alike(answer[key]) for key in shared}
    return [alike(each) for each in answer] if isinstance(answer, list) else answer


def test_every_route_on_each_database(served: Served) -> None:
    for path in ("optimizations", "optimizations/done", "statistics", "statistics/trends", "health", "alerts"):
        answer = served.ask(f"/api/v1/{path}")
        assert (answer.status_code, answer.json()["success"]) == (200, True), answer.text
    for path in ("/healthz", "/readyz", "/api"):
        assert served.ask(path).json()["success"] is True
        assert served.ask(path, "HEAD").status_code == 200
    assert served.ask("/api/v1/optimizations/done/pause", "HEAD").status_code == 405
    paths, page = served.ask("/openapi.json").json()["paths"], served.ask("/docs").text
    assert len(paths) >= 19
    assert [path for path in paths if path not in page] == []
    assert "://" not in page  # it loads nothing from elsewhere
    resolved = served.ask("/api/v1/alerts/alarm/resolve", "POST")
    assert (resolved.status_code, resolved.json()["data"]["resolved"]) == (200, True)


def test_link_to_report(store: Store, set_o9: Callable[..., None]) -> None:
    """With the host name of a proxy, which passes it on or replaces it by this machine's."""
    set_o9(public_url="https://o9.desk.example/")
    api = OptimizationAPI(backend=StoreBackend(store))
    with serving(api) as served:
        for name, titled in (("done", True), ("waiting", True), ("ghost", False)):
            link = report_page(name)
            assert link.startswith("https://o9.desk.example/api")
            path = link.removeprefix("https://o9.desk.example")
            answer = served.ask(path, headers={"Host": "O9.desk.example"})
            assert answer.status_code == (200 if titled else 404)
            assert served.ask(path).status_code == answer.status_code
            assert ("<!doctype html>" in answer.text.lower()) is titled
            assert answer.headers["content-type"].startswith("text/html") is titled
            head = served.ask(path, "HEAD")
            assert (head.status_code, head.content) == (answer.status_code, b"")
            assert head.headers["content-type"] == answer.headers["content-type"]
            in_process = served.run(api.handle_api_request(f"/optimizations/{name}/report", "GET"))
            assert in_process["success"] is titled
            assert not titled or name in in_process["data"]
        assert served.ask(path, headers={"Host": "o9.desk.example.com"}).status_code == 403
        assert served.ask("/api/v1/optimizations/done/report?colour=red").status_code == 422


def test_no_link_to_report_without_public_url() -> None:
    assert report_page("done") == ""


@pytest.mark.parametrize("store", ["store_url"], indirect=True)
def test_if_match_with_an_old_version_is_refused(served: Served) -> None:
    def put(tag: str, fields: Any) -> httpx.Response:
        return served.ask("/api/v1/optimizations/waiting", "PUT", json=fields, headers={"If-Match": tag})

    answer = served.ask("/api/v1/optimizations/waiting")
    tag, read = answer.headers["etag"], answer.json()["data"]
    assert put(tag, read | {"name": "first"}).status_code == 200
    for fields in ({"name": "second"}, read | {"name": "second"}):
        assert put(tag, fields).status_code == 409
    assert put("moon", {"name": "second"}).status_code == 409
    assert put("*", {"name": "third"}).json()["data"]["name"] == "third"


@pytest.mark.parametrize("store", ["store_url"], indirect=True)
def test_rate_limit_counts_each_address_separately(store: Store, wait_until: Callable[..., Any]) -> None:
    api = OptimizationAPI(backend=StoreBackend(store), rate_limit="5/second;1000/hour")
    with serving(api) as served:
        answers = [served.ask("/api/v1/alerts") for _ in range(40)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(answers) - len(refused) >= 5
        assert refused
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert {answer.json()["retry_after"] for answer in refused} == {1}
        assert served.ask("/api/v1/alerts", source="127.0.0.2").status_code == 200
        # In process it is another client; what tells whether it lives is not limited.
        assert served.run(api.handle_api_request("/alerts", "GET"))["success"]
        assert {served.ask("/healthz").status_code for _ in range(20)} == {200}
        # What a client says of its address counts for nothing.
        pretending = {"X-Forwarded-For": "10.1.2.3"}
        assert 429 in {served.ask("/api/v1/alerts", headers=pretending).status_code for _ in range(20)}
        wait_until(lambda: served.ask("/api/v1/alerts").status_code == 200, 5)


def body_of(size: int) -> bytes:
    return b'{"name": "' + b"x" * (size - 12) + b'"}'


@pytest.mark.parametrize("store", ["store_url"], indirect=True)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_body_over_one_mebibyte_is_refused(served: Served, method: str) -> None:
    path = "/api/v1/optimizations" + ("" if method == "POST" else "/waiting")
    headers = {"content-type": "application/json"}
    large = body_of((1 << 20) + 1)
    for content in (large, iter([large[:1000], large[1000:]])):  # the second has no Content-Length
        if method == "DELETE" and content is not large:
            continue  # its body is not read
        answer = served.ask(path, method, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, 413)
    if method != "DELETE":
        answer = served.ask(path, method, content=body_of(1 << 20), headers=headers)
        assert (answer.status_code, "name" in answer.json()["error"]) == (422, True)
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    connection.putrequest(method, path)
    connection.putheader("Content-Length", "9" * 100)
    connection.endheaders()
    assert connection.getresponse().status in (400, 413)
    connection.close()


@pytest.mark.parametrize("store", ["store_url"], indirect=True)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:8420"}, 200),
        ({"Host": "[::1]:8420"}, 200),
        ({"Host": "desk.example.com"}, 403),
        ({"Host": "127.0.0.1.example.com"}, 403),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1"}, 200),
        ({"Host": "127.0.0.1", "Origin": "http://evil.example.com"}, 403),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_requests_from_other_sites_are_refused(served: Served, headers: dict[str, str], code: int) -> None:
    answer = served.ask("/api/v1/optimizations/waiting/pause", "POST", headers=headers)
    assert answer.status_code == code
    paused = served.ask("/api/v1/optimizations/waiting").json()["data"]["status"] == "paused"
    assert paused == (code == 200)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "x" * 300])
def test_only_loopback_addresses_are_allowed(host: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        listen(host, 0).close()
    assert refused.value.field == "O9_API_HOST"


def test_port_in_use_is_named() -> None:
    with listen("localhost", 0) as first:
        assert url_of(first).startswith("http://")
        with pytest.raises(OptimizationValidationError, match=str(first.getsockname()[1])) as refused:
            listen(first.getsockname()[0], first.getsockname()[1])
        assert refused.value.field == "O9_API_PORT"


# `o9 serve`


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("O9_API_HOST", "0.0.0.0"),
        ("O9_API_PORT", "70000"),
        ("O9_API_RATE_LIMIT", "often"),
        ("O9_API_PORT", "taken"),
        ("O9_PUBLIC_URL", "o9.desk.example"),
        ("O9_PUBLIC_URL", "https://ana:secret@o9.desk.example"),
    ],
)
def test_serve_refuses_invalid_addresses(
    o9: O9Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with listen("127.0.0.1", 0) as taken:
        monkeypatch.setenv(variable, value if value != "taken" else str(taken.getsockname()[1]))
        settings.cache_clear()
        answer = o9("serve")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert variable in answer.err
    assert "secret" not in answer.err
    assert not Path("optimization_state.db").exists()


DESK = """
import time

def slow(parameters):
    time.sleep(0.1)
    return parameters["x"]
"""


def test_serve_responds_and_ends_cleanly(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    (tmp_path / "desk.py").write_text(DESK)
    out, log = tmp_path / "out", tmp_path / "log"
    port = o9_testing.free_port()
    url = f"http://127.0.0.1:{port}"
    with o9_testing.no_process_left() as environment:
        environment |= {
            **o9_testing.prefect_environment(), "O9_API_PORT": str(port), "O9_ALLOWED_IMPORTS": "desk",
            "O9_API_RATE_LIMIT": "10000/second",
            "O9_LOG_FORMAT": "json",
        }  # fmt: skip
        with out.open("w") as stdout, log.open("w") as stderr:
            serve = zygote.start(
                [*O9, "serve", "--store", "store.db"], cwd=tmp_path, env=environment, stdout=stdout, stderr=stderr
            )
        try:
            wait_until(lambda: "Ctrl-C shuts it down" in out.read_text(), 60)
            assert f"{url}/api/v1" in out.read_text()
            with httpx.Client(base_url=f"{url}/api/v1", timeout=60) as client:
                metadata = {"objective": "desk:slow", "search_space": o9_testing.LINE, "seed": 1}
                for name, steps in (("short", 2), ("long", 10_000), ("longer", 10_000)):
                    body = {"optimization_id": name, "total_steps": steps, "metadata": metadata}
                    assert client.post("/optimizations", json=body).json()["data"]["status"] == "created"

                def of(name: str) -> Any:
                    return client.get(f"/optimizations/{name}").json()["data"]

                wait_until(lambda: of("short")["status"] == "completed", 60)
                wait_until(lambda: min(of(name)["completed_steps"] for name in ("long", "longer")) > 0, 60)
                assert client.delete("/optimizations/long").status_code == 409
                assert client.delete("/optimizations/long", params={"cancel": "true"}).status_code == 200
                assert client.get("/optimizations/long").status_code == 404

                def health() -> tuple[str, bool, int]:
                    told = client.get("/health").json()["data"]
                    return told["status"], told["prefect"]["alive"], len(told["nodes"])

                wait_until(lambda: health() == ("healthy", True, 1))  # a busy server of Prefect's answers late
                # A connection that is kept open does not hold up the end.
                serve.send_signal(signal.SIGTERM)
                assert serve.wait(o9_testing.PATIENCE * 15) == 0
                with pytest.raises(httpx.TransportError):
                    client.get("/health")
        finally:
            if serve.poll() is None:
                serve.kill()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
    with Store(str(tmp_path / "store.db")) as store:
        assert o9_testing.path_of(store, "longer")[-1] == "created"  # it waits for the next start
    levels = {json.loads(line)["level"] for line in log.read_text().splitlines()}
    assert levels == {"INFO"}, log.read_text()

"""A real Alertmanager, to which the same timelines are played as to O9, all side by side in one process.

Each timeline gets a label of its own, which its route, its silences and its inhibition rules name, so that none sees
another. What Alertmanager sends comes back over webhooks. Needs its binary from the system (Debian:
`apt-get install prometheus-alertmanager`).

Up to 0.28 Alertmanager sweeps away empty groups every 30 s only, and an alert that comes before waits for the empty
group's next look; later versions, and O9, end a group when nothing is left of it. The timelines begin a group anew when
both fall on the same moment.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import o9_testing
import yaml

from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.simulation import Script, ScriptEvent
from o9.alerts.pipeline.stages import Silence

LABEL = "timeline"
BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
AHEAD = timedelta(seconds=1)


@dataclass(frozen=True)
class Message:
    """`after` the start of the timelines, in seconds; alerts as sets of their labels."""

    after: float
    firing: frozenset[frozenset[tuple[str, str]]]
    resolved: frozenset[frozenset[tuple[str, str]]]


def play(timelines: Mapping[str, tuple[str, Script]], folder: Path) -> dict[str, dict[str, list[Message]]]:
    """By timeline (its configuration as O9's YAML, and its script) and receiver: what Alertmanager sent."""
    with _webhooks() as (port, received), _alertmanager(_configuration(timelines, port), folder) as address:
        start = datetime.now(UTC) + AHEAD
        coming: dict[timedelta, list[tuple[str, ScriptEvent]]] = {}
        for name, (_, script) in timelines.items():
            for event in script.events:
                coming.setdefault(event.at - script.start, []).append((name, event))
        for after, together in sorted(coming.items(), key=lambda each: each[0]):
            time.sleep(max(0.0, (start + after - datetime.now(UTC)).total_seconds()))
            _tell(address, together, start + after)
        end = max(script.until - script.start for _, script in timelines.values())
        time.sleep(max(0.0, (start + end - datetime.now(UTC)).total_seconds()))
    found: dict[str, dict[str, list[Message]]] = {name: {} for name in timelines}
    for at, path, body in received:
        _, name, receiver = path.split("/")
        message = Message((at - start).total_seconds(), _alerts(body, "firing"), _alerts(body, "resolved"))
        found[name].setdefault(receiver, []).append(message)
    return found


def _alerts(body: Mapping[str, Any], status: str) -> frozenset[frozenset[tuple[str, str]]]:
    return frozenset(
        frozenset((name, value) for name, value in alert["labels"].items() if name != LABEL)
        for alert in body["alerts"]
        if alert["status"] == status
    )


def _configuration(timelines: Mapping[str, tuple[str, Script]], port: int) -> dict[str, Any]:
    """Alertmanager's, of all of O9's together."""
    receivers: list[dict[str, Any]]
    routes, receivers, rules, intervals = [], [{"name": "nobody"}], [], []
    for name, (text, _) in timelines.items():
        own = yaml.safe_load(text)
        only = f'{LABEL}="{name}"'
        routes.append({**_route(own["route"], name), "matchers": [only]})
        for receiver in own["receivers"]:
            url = f"http://127.0.0.1:{port}/{name}/{receiver['name']}"
            hook = {"url": url, "send_resolved": receiver.get("send_resolved", True)}
            receivers.append({"name": f"{name}/{receiver['name']}", "webhook_configs": [hook]})
        for rule in own.get("inhibit_rules", []):
            sides = {side: [*rule[side], only] for side in ("source_matchers", "target_matchers")}
            rules.append({**sides, "equal": rule.get("equal", [])})
        intervals += [{**each, "name": f"{name}/{each['name']}"} for each in own.get("time_intervals", [])]
    return {
        "route": {"receiver": "nobody", "routes": routes},
        "receivers": receivers,
        "inhibit_rules": rules,
        "time_intervals": intervals,
    }


def _route(route: Mapping[str, Any], name: str) -> dict[str, Any]:
    """With the timeline's name before those of receivers and intervals."""
    own = dict(route)
    if "receiver" in own:
        own["receiver"] = f"{name}/{own['receiver']}"
    for field in ("mute_time_intervals", "active_time_intervals"):
        if field in own:
            own[field] = [f"{name}/{interval}" for interval in own[field]]
    if "routes" in own:
        own["routes"] = [_route(each, name) for each in own["routes"]]
    return own


def _tell(address: str, together: list[tuple[str, ScriptEvent]], at: datetime) -> None:
    """The silences, and then all alerts at once."""
    for name, event in together:
        if event.silence is not None:
            _post(f"{address}/api/v2/silences", _silence(name, event.silence, at))
    alerts = [_alert(name, event, at) for name, event in together if event.alert is not None]
    if alerts:
        _post(f"{address}/api/v2/alerts", alerts)


def _silence(name: str, silence: Silence, at: datetime) -> dict[str, Any]:
    matchers = [
        {
            "name": matcher.name,
            "value": matcher.value,
            "isRegex": "~" in matcher.operator,
            "isEqual": "!" not in matcher.operator,
        }
        for matcher in (*parse(f'{LABEL}="{name}"'), *silence.matchers)
    ]
    ends_at = at + (silence.ends_at - silence.starts_at)
    return {
        "matchers": matchers,
        "startsAt": datetime.now(UTC).isoformat(),
        "endsAt": ends_at.isoformat(),
        "createdBy": "o9",
        "comment": "a test",
    }


def _alert(name: str, event: ScriptEvent, at: datetime) -> dict[str, Any]:
    alert, shift = event.alert, at - event.at
    assert alert is not None
    told = {"labels": {**alert.labels, LABEL: name}, "startsAt": (alert.starts_at + shift).isoformat()}
    return told if alert.ends_at is None else {**told, "endsAt": (alert.ends_at + shift).isoformat()}


def _post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200, answer.read()


@contextmanager
def _webhooks() -> Iterator[tuple[int, list[tuple[datetime, str, Any]]]]:
    received: list[tuple[datetime, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            at = datetime.now(UTC)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((at, self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # many send at one moment; one that is turned away comes again a second later

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port, received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _alertmanager(configuration: Mapping[str, Any], folder: Path) -> Iterator[str]:
    assert BINARY is not None
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(configuration))
    port = o9_testing.free_port()
    address = f"http://127.0.0.1:{port}"
    with (folder / "alertmanager.log").open("w") as log:
        process = subprocess.Popen(
            [
                BINARY,
                f"--config.file={file}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _await(address, process, folder / "alertmanager.log")
            yield address
        finally:
            process.terminate()
            process.wait(10)


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.05)

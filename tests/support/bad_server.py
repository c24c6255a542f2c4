"""A web server that answers as it is told: a status, a reset connection, or nothing at all for a while."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = int | str | tuple[int, dict[str, str]]  # a status, with headers; "reset"; "hang"


@dataclass
class BadServer:
    """`answers` are given in turn, the last one from then on."""

    url: str = ""
    answers: list[Answer] = field(default_factory=lambda: [200])
    heard: list[tuple[float, Answer, dict[str, Any]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, body: dict[str, Any]) -> Answer:
        with self._lock:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.heard.append((time.monotonic(), answer, body))
            return answer

    def taken(self) -> list[dict[str, Any]]:
        """What it answered well for, in order."""
        return [body for _, answer, body in self.heard if answer == 200]


@contextlib.contextmanager
def bad_server() -> Iterator[BadServer]:
    served = BadServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = served.next(body)
            if answer == "hang":
                served.released.wait(30.0)
            if isinstance(answer, str):
                linger = struct.pack("ii", 1, 0)  # so that closing it resets it
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """Says nothing."""

        def shutdown_request(self, request: Any) -> None:
            with contextlib.suppress(OSError):
                super().shutdown_request(request)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    served.url = f"127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""A proxy before PostgreSQL that does what networks do: it cuts, swallows, and loses the answer to a COMMIT."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import make_url


class PostgresProxy:
    """`url` leads through it. Everything may be changed while it is in use."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._server = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = parsed.set(
            host="127.0.0.1", port=self._listening.getsockname()[1], query={}, drivername="postgresql"
        ).render_as_string(hide_password=False)
        self.swallows = False
        self.refuses = False
        # The next one, once: "before" it is asked, "after" it was done, or "held" instead of asked: then it swallows.
        self.cut_at_commit: str | None = None
        self.commits_cut = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection, in the middle of whatever it does."""
        for end in list(self._open):
            self._end(end)

    def close(self) -> None:
        self.refuses = True
        self._end(self._listening)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # it was closed
            if self.refuses:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._server)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(*ends, ends[0] is client), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.swallows:
                    continue
                # "COMMIT" is what the client asks, until its driver prepares that, and what the server says of it.
                if self.cut_at_commit in (("before", "held") if from_client else ("after",)) and b"COMMIT\0" in data:
                    self.swallows = self.cut_at_commit == "held"
                    self.cut_at_commit = None
                    self.commits_cut += 1
                    if self.swallows:
                        continue
                    break
                target.sendall(data)
        if not self.swallows:  # a network that swallows does not say that the other end is gone, either
            self._end(source)
            self._end(target)

    def _end(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def proxied(url: str) -> Iterator[PostgresProxy]:
    proxy = PostgresProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()

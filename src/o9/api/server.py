"""The HTTP server, on a loopback address, in the event loop that starts it.

There is no authentication yet, so every client may do everything. Therefore the server listens only on loopback
addresses, and refuses requests from pages of other sites and for other host names. Links to reports work from other
sites, because a browser sends no `Origin` when it follows a link.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Self
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from o9.api.answers import refusal
from o9.model.errors import OptimizationValidationError
from o9.model.settings import settings

STOP_SECONDS = 5  # for requests in progress
START_POLL_SECONDS = 0.01


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; requests wait there until they are served. Raises OptimizationValidationError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=0 if host else socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OptimizationValidationError("O9_API_HOST", f"{host!r} cannot be resolved: {error}") from error
    if public := [place[0] for *_, place in found if not ipaddress.ip_address(place[0]).is_loopback]:
        raise OptimizationValidationError(
            "O9_API_HOST",
            f"{host!r} ({public[0]}) can be reached from other machines, and this release has no authentication: "
            "listen on 127.0.0.1, and give others access through an SSH tunnel",
        )
    family, *_, address = found[0]
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise OptimizationValidationError(
            "O9_API_PORT",
            f"cannot listen on {host} port {port} ({error.strerror}); give another port, or 0 for any free one",
        ) from error


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


class HttpServer:
    """Serves `app` on `listener` inside `async with`, then waits STOP_SECONDS for requests in progress."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                ThisMachineOnly(app, settings().public_url), http="h11", ws="none", lifespan="off", log_config=None,
                log_level="warning", access_log=False, proxy_headers=False, server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="o9-http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(START_POLL_SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """Leaves signals to the program."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class ThisMachineOnly:
    """ASGI middleware that refuses requests from pages of other sites (`Origin`) and for other host names (`Host`).

    public_url: the address of a proxy, whose host name is allowed, too.
    """

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        self._app = app
        self._public_host = urlsplit(public_url).netloc.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _is_loopback(host) and (not host or host.lower() != self._public_host):
            refused = f"Host: {host!r} is neither this machine's loopback address nor O9_PUBLIC_URL's"
        elif origin is not None and origin != f"http://{host}":
            refused = f"Origin: requests from web pages of {origin!r} are refused; send it from a program"
        else:
            await self._app(scope, receive, send)
            return
        await refusal(refused, 403)(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

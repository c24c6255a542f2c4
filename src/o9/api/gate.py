"""What every request passes on its way in and out, over HTTP and in process: is the aggregator running, is the client
within its limits, and what became of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from o9.api.answers import refusal
from o9.api.limits import BODY_LIMIT_BYTES, RateLimit
from o9.api.versions import ROOT

logger = logging.getLogger(__name__)
LONGEST_LENGTH = 12  # digits
TOO_LARGE = f"body: it is larger than {BODY_LIMIT_BYTES:,} bytes (1 MiB); keep large data in a file, and name that"


@dataclass(frozen=True)
class Answered:
    """A request that was answered. `endpoint` is the route's path, with its placeholders; None where none fitted."""

    method: str
    path: str
    endpoint: str | None
    client: str
    code: int
    seconds: float


class Gate:
    """ASGI around the application. `answered` is called after every request."""

    def __init__(
        self,
        app: ASGIApp,
        is_running: Callable[[], bool],
        rate_limit: RateLimit,
        answered: Callable[[Answered], None],
    ) -> None:
        self._app = app
        self._is_running = is_running
        self._rate_limit = rate_limit
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, code = time.monotonic(), 0
        body: bytes | None = b""

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is None:
                body = await _body(scope, receive)
                refused = refusal(TOO_LARGE, 413) if body is None else None
            if refused is not None:
                await refused(scope, receive, sending)
            else:
                await self._app(scope, _replayed(body or b"", receive), sending)
        except ClientDisconnect:
            return
        except Exception as error:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if code:
                raise
            message = f"an error inside O9, which its log has: {type(error).__name__}"
            await refusal(message, 500)(scope, receive, sending)
        endpoint = getattr(scope.get("route"), "path", None)
        seconds = time.monotonic() - began
        self._answered(Answered(scope["method"], scope["path"], endpoint, _client(scope), code, seconds))

    def _refused(self, scope: Scope) -> Response | None:
        if scope["path"] != ROOT and not scope["path"].startswith(f"{ROOT}/"):
            return None  # probes and documentation are always answered
        if not self._is_running():
            return refusal("the aggregator is not running: call start() first", 503)
        wait = self._rate_limit.seconds_to_wait(_client(scope))
        if wait:
            message = f"over the rate limit: send it again in {wait} s, or raise O9_API_RATE_LIMIT"
            return refusal(message, 429, {"Retry-After": str(wait)}, retry_after=wait)
        return None


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """All of it; None where it is too large. What a client says of its length spares reading it."""
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and (len(length) > LONGEST_LENGTH or int(length) > BODY_LIMIT_BYTES):
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for a body that was read already."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again

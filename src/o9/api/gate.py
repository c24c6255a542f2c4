"""What every request passes, over HTTP and in process: whether the aggregator runs, the rate limit, the body's size."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from o9.api.answers import refusal
from o9.api.versions import ROOT

logger = logging.getLogger(__name__)
BODY_LIMIT_BYTES = 1 << 20
TOO_LARGE = f"body: it is larger than {BODY_LIMIT_BYTES:,} bytes (1 MiB); keep large data in a file, and name that"


class RateLimit:
    """`text` in the notation of the library `limits`, such as `100/minute` or `10/second;1000/hour`, which all apply.

    Counted in this process, for each client apart, in a moving window. Refused requests do not count.
    """

    def __init__(self, text: str) -> None:
        self._limits = parse_many(text)
        self._storage = MemoryStorage()  # the limiter keeps only a weak reference to it in some releases
        self._limiter = MovingWindowRateLimiter(self._storage)

    def seconds_to_wait(self, client: str) -> int:
        """Count a request of `client`; 0 where it is within the limits, else when to send it again."""
        for each in self._limits:
            if not self._limiter.test(each, client):
                free_at = self._limiter.get_window_stats(each, client)[0]
                return max(1, math.ceil(free_at - time.time()))
        for each in self._limits:
            self._limiter.hit(each, client)
        return 0


@dataclass(frozen=True)
class Gate:
    """ASGI around the application.

    answered: awaited after every request, with its method, path, endpoint, client, code and seconds. `endpoint` is the
    route's path, with its placeholders; None where none matched.
    """

    app: ASGIApp
    is_running: Callable[[], bool]
    rate_limit: RateLimit
    answered: Callable[[dict[str, Any]], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, code, size = time.monotonic(), 0, 0

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        async def receiving() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_LIMIT_BYTES:
                raise HTTPException(413, TOO_LARGE)
            return message

        try:
            await (self._refused(scope) or self.app)(scope, receiving, sending)
        except ClientDisconnect:
            return
        except Exception as error:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if code:
                raise
            message = f"an error inside O9, which its log has: {type(error).__name__}"
            await refusal(message, 500)(scope, receive, sending)
        endpoint, seconds = getattr(scope.get("route"), "path", None), time.monotonic() - began
        entry = {"method": scope["method"], "path": scope["path"], "endpoint": endpoint, "client": _client(scope)}
        await self.answered(entry | {"code": code, "seconds": seconds})

    def _refused(self, scope: Scope) -> Response | None:
        if scope["path"] != ROOT and not scope["path"].startswith(f"{ROOT}/"):
            return None  # probes and documentation are always answered
        if not self.is_running():
            return refusal("the aggregator is not running: call start() first", 503)
        wait = self.rate_limit.seconds_to_wait(_client(scope))
        if wait:
            message = f"over the rate limit: send it again in {wait} s, or raise O9_API_RATE_LIMIT"
            return refusal(message, 429, {"Retry-After": str(wait)}, retry_after=wait)
        if int(Headers(scope=scope).get("content-length", 0)) > BODY_LIMIT_BYTES:
            return refusal(TOO_LARGE, 413)
        return None


def _client(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""

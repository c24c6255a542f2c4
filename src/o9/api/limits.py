"""How much a client may ask: requests in a time, by the `limits` library, and bytes in a body."""

from __future__ import annotations

import math
import time

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from o9.model.errors import OptimizationValidationError

BODY_LIMIT_BYTES = 1 << 20


def checked_limit(text: str) -> str:
    """`text`; raises OptimizationValidationError where it is no limit."""
    try:
        parse_many(text)
    except (TypeError, ValueError):
        example = "10/second;1000/hour"
        raise OptimizationValidationError(
            "rate_limit", f"{text!r:.80} is no limit such as 100/minute or {example}"
        ) from None
    return text


class RateLimit:
    """`text` in the notation of `limits`, such as `100/minute` or `10/second;1000/hour`: all of them hold.

    Counted in this process, for each client apart, in the time behind each request. Refused ones do not count.
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

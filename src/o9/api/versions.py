"""What an aggregator needs of the API before the first request; it imports no web framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VERSIONS = ("v1",)
API_VERSION = VERSIONS[-1]
ROOT = "/api"
PREFIX = f"{ROOT}/{API_VERSION}"
READING = ("GET", "DELETE")
Handler = Callable[..., Any]
ALONE = (
    "this API answers by handlers of your own only, since it has no aggregator: ask `aggregator.api`, or give "
    "OptimizationAPI(backend=aggregator)"
)

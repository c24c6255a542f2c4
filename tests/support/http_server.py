"""The API on a real socket, in a thread with its own event loop, as in `o9 serve`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from o9.api.api import OptimizationAPI
from o9.api.server import HttpServer, listen, url_of

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    api: OptimizationAPI
    url: str
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def ask(self, path: str, method: str = "GET", *, source: str = "127.0.0.1", **request: Any) -> httpx.Response:
        """Over HTTP, from the address `source`."""
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source, verify=False), timeout=60) as client:
            return client.request(method, f"{self.url}{path}", **request)


@contextmanager
def serving(api: OptimizationAPI) -> Iterator[Served]:
    """Serve `api` on a free port of 127.0.0.1 until the block ends."""
    began, served = threading.Event(), []
    stop = asyncio.Event()

    async def serve() -> None:
        listener = listen("127.0.0.1", 0)
        url = url_of(listener)
        async with HttpServer(api, listener):
            served.append(Served(api, url, asyncio.get_running_loop()))
            began.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="http")
    thread.start()
    assert began.wait(60)
    try:
        yield served[0]
    finally:
        served[0].loop.call_soon_threadsafe(stop.set)
        thread.join()

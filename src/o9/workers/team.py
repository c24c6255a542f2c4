"""The child processes of one attempt, and how users' code is sent to them.

Contract. As for a Child: one event loop, and one caller at a time for each child. A child that did not answer, because
it died or the exchange was cancelled, is killed and never returned to the pool.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib
import pickle
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from o9.model.errors import OptimizationStrategyError
from o9.workers.cores import CORES
from o9.workers.pool import POOL, Child, ChildDied, send_context
from o9.workers.step_results import step_from_json

T = TypeVar("T")
LOADING_TRIES = 3
_by_value = threading.Lock()


class Team:
    """The children of one attempt: leased from the pool at first use, and returned at the end."""

    def __init__(self, *, single_threaded: bool = False) -> None:
        self._single_threaded = single_threaded
        self._idle: list[Child] = []
        self._all: list[Child] = []

    def pids(self) -> list[int]:
        """Return the process ids of the children that are alive."""
        return [child.process.pid for child in self._all if child.usable()]

    async def acquire(self, shipment: Shipment) -> Child:
        """Return a child with the shipment loaded. Raises OptimizationStrategyError if it cannot be loaded.

        A child that dies meanwhile may have been killed from outside, so this tries LOADING_TRIES children.
        """
        tries = 0
        while True:
            try:
                return await self._try_to_acquire(shipment)
            except ChildDied as error:
                tries += 1
                if tries == LOADING_TRIES:
                    problem = f"the objective cannot be loaded in an evaluation process: {error}"
                    raise OptimizationStrategyError(problem) from error

    async def _try_to_acquire(self, shipment: Shipment) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.usable():
                break
            child.kill()
        else:
            child = POOL.lease(shipment.key, single_threaded=self._single_threaded)
            self._all = [member for member in self._all if not member.killed] + [child]
        await self._guarded(child, send_context(child))
        if shipment.key not in child.loaded:
            await self._guarded(child, shipment.load(child))
        return child

    def release(self, child: Child) -> None:
        """Keep it for the next `acquire`."""
        self._idle.append(child)

    async def exchange(self, child: Child, *request: Any, label: str | None) -> list[Any]:
        """As Child.exchange; an exception or a cancellation kills the child."""
        return await self._guarded(child, child.exchange(*request, label=label))

    async def close(self) -> None:
        """Return idle children to the pool, kill the others, and wait for their end."""
        killed = [child for child in self._all if child not in self._idle or not child.usable()]
        for child in self._all:
            if child in killed:
                child.kill()
            else:
                POOL.release(child)
        self._all, self._idle = [], []
        for child in killed:
            if child.process.poll() is None:
                await asyncio.to_thread(child.process.wait)

    @staticmethod
    async def _guarded(child: Child, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except BaseException:
            child.kill()
            raise


class Shipment:
    """Users' code to send to children: an import path, a pickled reference, or, for `__main__` and closures, its code.

    Raises OptimizationStrategyError if it cannot be sent.
    """

    def __init__(self, what: str, thing: Any, locator: str | None = None, module: str | None = None) -> None:
        """`module`: the module of the users' code in `thing`, if it is not that of `thing`."""
        self._what = what
        self._thing = thing
        self._module = module or getattr(thing, "__module__", None)
        self._locator = locator
        self._pickled = None if self._locator else self._pickle()
        content = self._pickled or str(self._locator).encode()
        self.key = hashlib.blake2b(content, digest_size=16).hexdigest()

    async def load(self, child: Child) -> None:
        """Load it into `child` under `key`."""
        reply = await child.exchange("load", self.key, self._locator, self._pickled, label=self._what)
        module = self._module
        if reply[0] == "missing" and module in sys.modules and f"{module}.".startswith(f"{reply[1]}."):
            # The child cannot import the module (of a notebook, a test, or loaded from a file), so its code is sent.
            self._locator, self._pickled = None, self._pickle(whole_module=module)
            reply = await child.exchange("load", self.key, None, self._pickled, label=self._what)
        if reply[0] != "ok":
            raise OptimizationStrategyError(f"{self._what} cannot be loaded in an evaluation process: {reply[-1]}")
        child.loaded.add(self.key)

    def _pickle(self, whole_module: str | None = None) -> bytes:
        import cloudpickle

        try:
            if whole_module is None:
                return bytes(cloudpickle.dumps(self._thing))
            with _by_value:
                module = importlib.import_module(whole_module)
                cloudpickle.register_pickle_by_value(module)
                try:
                    return bytes(cloudpickle.dumps(self._thing))
                finally:
                    cloudpickle.unregister_pickle_by_value(module)
        except Exception as error:
            raise OptimizationStrategyError(
                f"{self._what} cannot be sent to an evaluation process: {type(error).__name__}: {error}. "
                "Open files, connections and locks inside the function, or make it async"
            ) from error


class Hosted:
    """A user's object in its own child process, where methods that hang can be killed.

    If a method raises, kills its process or returns what cannot be sent, OptimizationStrategyError names `what`.
    """

    def __init__(self, what: str, thing: Any) -> None:
        self._what = what
        self._thing = thing
        self.team = Team()
        self._shipment: Shipment | None = None
        self._child: Child | None = None

    @property
    def started(self) -> bool:
        """Whether the object was made and its process is alive."""
        return self._child is not None and self._child.usable()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method. The first call makes the object. Only `step` returns a result."""
        if self._child is None:
            self._shipment = shipment = Shipment(self._what, self._thing)
            self._child = await self.team.acquire(shipment)
            await self._ask("create", shipment.key)
        assert self._shipment is not None
        request = ("call", self._shipment.key, method, pickle.dumps(arguments), self._what)
        if method != "step":
            await self._ask(*request)
            return None
        async with CORES.hold(self, self._child.cpu_seconds):
            answer = await self._ask(*request)
        return dataclasses.replace(step_from_json(answer, self._what), output=self._child.printed)

    async def close(self) -> None:
        """Kill the child, with the object and everything it started."""
        if self._child is not None:
            self._child.kill()
        await self.team.close()
        self._child = None

    async def _ask(self, *request: Any) -> list[Any]:
        assert self._child is not None
        try:
            reply = await self.team.exchange(self._child, *request, label=self._what)
        except ChildDied as error:
            raise OptimizationStrategyError(f"{self._what} did not survive: {error}") from error
        match reply:
            case ["ok" | "value", *answer]:
                return answer
            case ["failed", text]:
                raise OptimizationStrategyError(f"{self._what} failed: {text}")
            case ["refused", text]:
                raise OptimizationStrategyError(text)
        raise OptimizationStrategyError(f"{self._what}: its process sent an unreadable answer: {reply!r:.200}")

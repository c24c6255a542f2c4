"""Users' code in child processes: how it gets there, and the children that one attempt holds.

Contract. As for a Child: one event loop, one caller at a time for each child. A child that was kept from an answer,
by its own death or by a cut-off, is killed and never given back.
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
from o9.workers.pool import POOL, Child, ChildDied, tell_context
from o9.workers.step_results import step_from_json

T = TypeVar("T")
LOADING_TRIES = 3
_by_value = threading.Lock()


class Team:
    """The children of one attempt: leased from the pool when first needed, given back at the end."""

    def __init__(self, *, single_threaded: bool = False) -> None:
        self._single_threaded = single_threaded
        self._resting: list[Child] = []
        self._all: list[Child] = []

    async def join(self, shipment: Shipment | None = None) -> Child:
        """A child that has what is shipped. Raises OptimizationStrategyError where it cannot be loaded.

        A child that dies while loading may have been killed from outside, so LOADING_TRIES of them try.
        """
        tries = 0
        while True:
            try:
                return await self._try_to_join(shipment)
            except ChildDied as error:
                tries += 1
                if tries == LOADING_TRIES:
                    problem = f"the objective cannot be loaded in an evaluation process: {error}"
                    raise OptimizationStrategyError(problem) from error

    async def _try_to_join(self, shipment: Shipment | None) -> Child:
        while self._resting:
            child = self._resting.pop()
            if child.usable():
                break
            child.kill()
        else:
            child = POOL.lease(shipment.key if shipment else "", single_threaded=self._single_threaded)
            self._all = [member for member in self._all if not member.killed] + [child]
        await self._guarded(child, tell_context(child))
        if shipment is not None and shipment.key not in child.loaded:
            await self._guarded(child, shipment.load(child))
        return child

    def rest(self, child: Child) -> None:
        """Keep it for the next `join`."""
        self._resting.append(child)

    async def exchange(self, child: Child, *request: Any, label: str | None) -> list[Any]:
        """As Child.exchange; whatever keeps it from an answer, a cut-off too, kills the child."""
        return await self._guarded(child, child.exchange(*request, label=label))

    async def close(self) -> None:
        """Rested ones go back to the pool, others are killed; returns when those are gone."""
        killed = [child for child in self._all if child not in self._resting or not child.usable()]
        for child in self._all:
            if child in killed:
                child.kill()
            else:
                POOL.release(child)
        self._all, self._resting = [], []
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
    """How users' code gets into a child: by import path, by pickled reference, or, for `__main__` and closures, whole.

    Raises OptimizationStrategyError where it cannot be sent.
    """

    def __init__(self, what: str, thing: Any, locator: str | None = None, module: str | None = None) -> None:
        """`module`: where the users' code in `thing` is from, if that is not where `thing` is."""
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
            # The parent has the module and the child cannot import it: a notebook's, a test's, or one loaded from a
            # file. Then its code is sent.
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
                "Let it open files, connections and locks itself instead of closing over them, or make it async"
            ) from error


class Hosted:
    """A user's object that lives in a child of its own, for methods that may hang: they can be cut off there.

    A method that raises, does not survive or gives what cannot be sent is an OptimizationStrategyError, which names
    `what`.
    """

    def __init__(self, what: str, thing: Any) -> None:
        self._what = what
        self._thing = thing
        self._team = Team()
        self._shipment: Shipment | None = None
        self._child: Child | None = None

    @property
    def started(self) -> bool:
        """Whether there is an object, alive."""
        return self._child is not None and self._child.usable()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method, in the order of the calls; the first one makes the object. Only `step` has an answer."""
        if self._child is None:
            self._shipment = shipment = Shipment(self._what, self._thing)
            self._child = await self._team.join(shipment)
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
        """End the child: it holds the user's object and whatever that has started."""
        if self._child is not None:
            self._child.kill()
        await self._team.close()
        self._child = None

    async def _ask(self, *request: Any) -> list[Any]:
        assert self._child is not None
        try:
            reply = await self._team.exchange(self._child, *request, label=self._what)
        except ChildDied as error:
            raise OptimizationStrategyError(f"{self._what} did not survive: {error}") from error
        match reply:
            case ["ok" | "value", *answer]:
                return answer
            case ["failed", text]:
                raise OptimizationStrategyError(f"{self._what} failed: {text}")
            case ["refused", text]:
                raise OptimizationStrategyError(text)
        raise OptimizationStrategyError(f"{self._what}: its process gave an answer that cannot be read: {reply!r:.200}")

"""The child process that runs users' code: a loop of requests, read from one pipe and answered on another.

Started by path (`python -P child.py REQUESTS REPLIES LIFELINE`), never by multiprocessing: that would import the
user's script again, and scripts have no `if __name__ == "__main__"` guard. Imports the standard library, and what a
request names.

Contract. One request at a time, in order; a frame is eight bytes of length and a pickle. Whatever users' code does,
the answer is one frame, or the end of the process; what it prints goes to its stdout and never to the replies.
LIFELINE is the reading end of a pipe that only the parent holds open: when it ends, this process and its whole group
are killed, by the kernel where it can do that (then even code that holds the interpreter's lock cannot live on), else
by a thread.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

LENGTH_BYTES = 8
LINUX_F_SETSIG = 10  # fcntl has no name for it

_loaded: dict[str, Any] = {}
_objects: dict[str, Any] = {}


def main(requests: int, replies: int, lifeline: int) -> NoReturn:
    own_pid = os.getpid()
    for descriptor in (requests, replies, lifeline):
        os.set_inheritable(descriptor, False)
    _die_with_the_parent(lifeline)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    while (frame := _read_frame(requests)) is not None:
        operation, *arguments = pickle.loads(frame)
        reply = _OPERATIONS[operation](*arguments)
        if os.getpid() != own_pid:
            os._exit(0)  # users' code forked and its copy came back here: it must not answer in our place
        _flush()
        _write(replies, pickle.dumps(reply))
    os.killpg(0, signal.SIGKILL)  # dismissed: nothing that users' code started may stay
    os._exit(0)


def set_context(path: list[str], directory: str, environment: dict[str, str]) -> tuple[Any, ...]:
    """Make imports, relative paths and environment variables mean what they mean in the parent."""
    sys.path[:] = path
    try:
        os.chdir(directory)
    except OSError as error:
        return ("failed", f"the working directory {directory!r} cannot be entered: {error}")
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    return ("ok",)


def load(key: str, locator: str | None, pickled: bytes | None) -> tuple[Any, ...]:
    """Get a function by import path or by pickle, and keep it under `key`."""
    from o9.strategies.answers import failure_text

    try:
        _loaded[key] = _import(locator) if locator else pickle.loads(pickled or b"")
    except ModuleNotFoundError as error:
        return ("missing", error.name or "", failure_text(error))
    except BaseException as error:  # noqa: BLE001 - whatever a user's module raises is an answer, sys.exit too
        return ("failed", failure_text(error))
    return ("ok",)


def evaluate(key: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    """Run a loaded objective: ("value", started, duration, answer) or ("failed", started, duration, text, worn)."""
    from o9.strategies.answers import failure_text, plain_answer

    started, clock = time.time(), time.perf_counter()
    try:
        answer = plain_answer(_loaded[key](parameters))
    except BaseException as error:  # noqa: BLE001 - whatever an objective raises is an answer, sys.exit too
        worn_out = isinstance(error, MemoryError)
        return ("failed", started, time.perf_counter() - clock, failure_text(error), worn_out)
    return ("value", started, time.perf_counter() - clock, answer)


def create(key: str) -> tuple[Any, ...]:
    """Make an object of a loaded class, or take the loaded object itself; `call` then calls its methods."""
    from o9.strategies.answers import failure_text

    try:
        thing = _loaded[key]
        _objects[key] = thing() if isinstance(thing, type) else thing
    except BaseException as error:  # noqa: BLE001 - whatever users' code raises is an answer, sys.exit too
        return ("failed", failure_text(error))
    return ("ok",)


def call(key: str, method: str, pickled: bytes) -> tuple[Any, ...]:
    """Call a method of a created object: ("value", pickled result) or ("failed", text)."""
    from o9.strategies.answers import failure_text

    try:
        result = getattr(_objects[key], method)(*pickle.loads(pickled))
        import cloudpickle

        return ("value", cloudpickle.dumps(result))
    except BaseException as error:  # noqa: BLE001 - whatever users' code raises is an answer, sys.exit too
        return ("failed", failure_text(error))


_OPERATIONS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "context": set_context,
    "load": load,
    "evaluate": evaluate,
    "create": create,
    "call": call,
}


def _import(locator: str) -> Any:
    from importlib import import_module

    module, _, attributes = locator.partition(":")
    target: Any = import_module(module)
    for attribute in attributes.split("."):
        target = getattr(target, attribute)
    return target


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Users' code may have closed or replaced it; the evaluation's answer still counts.
        with contextlib.suppress(Exception):
            stream.flush()


def _die_with_the_parent(lifeline: int) -> None:
    import fcntl

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, LINUX_F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # Beside the kernel's signal: it is not sent for an end that came before it was asked for.
    threading.Thread(target=wait, name="o9-lifeline", daemon=True).start()


def _read_frame(descriptor: int) -> bytes | None:
    header = _read(descriptor, LENGTH_BYTES)
    return None if header is None else _read(descriptor, int.from_bytes(header, "big"))


def _read(descriptor: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def _write(descriptor: int, payload: bytes) -> None:
    data = memoryview(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

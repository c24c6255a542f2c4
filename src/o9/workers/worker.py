"""The child process that runs users' code: reads requests from one pipe and answers them on another.

It is started by path (`python -P worker.py REQUESTS REPLIES LIFELINE`), not by multiprocessing, which would import the
user's script again, and scripts often have no `if __name__ == "__main__"` guard. It imports the standard library and
what a request names.

Contract. Requests are handled one at a time; each is a pickle, which may import what it names. Whatever users' code
does, the answer is one line of JSON, a list that begins with a status, or the end of the process; the parent reads it
without importing anything. Users' code prints to stdout, never to the replies. LIFELINE is the reading end of a pipe
that the parent holds: when the parent writes to it or ends, everything here is killed, as it is when users' code ends
its process.

On Linux this includes all descendants: the process that the parent starts is the guardian of the one that runs users'
code. The kernel makes it the parent of orphans, so that none escapes by setsid or a double fork. It kills them all,
then ends with the exit code of the guarded process. On macOS there is no guardian: a thread kills the process group, so
processes that left the group by setsid survive, and code that holds the interpreter's lock can delay the thread.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import pickle
import select
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any, NoReturn

# Linux; Python has no names for them.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.002
STOPPING_ROUNDS = 20
GIVE_UP_SECONDS = 1.0  # on processes that cannot be killed (another user's, or stuck in the kernel)

_loaded: dict[str, Any] = {}
_objects: dict[str, Any] = {}


def main(requests: int, replies: int, lifeline: int) -> NoReturn:
    for descriptor in (requests, replies, lifeline):
        os.set_inheritable(descriptor, False)
    if sys.platform == "linux":
        _fork_guardian(requests, replies, lifeline)
    else:
        threading.Thread(target=_die_with_the_parent, args=(lifeline,), name="o9-lifeline", daemon=True).start()
    own_pid = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    with open(requests, "rb") as incoming, contextlib.suppress(EOFError):
        while True:
            operation, *arguments = pickle.load(incoming)
            reply = _OPERATIONS[operation](*arguments)
            if os.getpid() != own_pid:
                os._exit(0)  # users' code forked, and this is the copy, which must not answer
            _flush()
            _write(replies, _line(reply))
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)  # with everything that users' code started
    os._exit(0)  # the guardian kills the rest


def set_context(path: list[str], directory: str, environment: dict[str, str]) -> tuple[Any, ...]:
    """Set the parent's import path, working directory and environment."""
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
    """Load a function by import path or from a pickle, and keep it under `key`."""
    from o9.user_code.import_paths import find
    from o9.workers.answers import failure_text

    try:
        _loaded[key] = find(locator) if locator else pickle.loads(pickled or b"")
    except ModuleNotFoundError as error:
        return ("missing", error.name or "", failure_text(error))
    except BaseException as error:  # noqa: BLE001 - whatever a user's module raises is an answer, sys.exit too
        return ("failed", failure_text(error))
    _configure_logging()
    return ("ok",)


def evaluate(key: str, parameters: dict[str, Any], periods: int | None = None, whole: bool = False) -> tuple[Any, ...]:
    """Run a loaded objective. periods: as if its data ended with that many returns. whole: hold out and score nothing.

    Returns ("value", started, duration, answer), ("infeasible", started, duration, reason), ("failed", started,
    duration, text, worn_out), or ("refused", text), which ends the run.
    """
    from o9.workers.answers import failure_text, infeasible_text
    from o9.workers.measured_objective import MeasuredObjective, Refused

    _configure_logging()
    started, clock = time.time(), time.perf_counter()
    try:
        thing = _loaded[key] if isinstance(_loaded[key], MeasuredObjective) else MeasuredObjective(_loaded[key])
        answer = thing.plain(thing.call(parameters, periods), periods=periods, whole=whole)
    except Refused as error:
        return ("refused", str(error))
    except BaseException as error:  # noqa: BLE001 - whatever an objective raises is an answer, sys.exit too
        duration = time.perf_counter() - clock
        if (reason := infeasible_text(error)) is not None:
            return ("infeasible", started, duration, reason)
        worn_out = isinstance(error, MemoryError)
        return ("failed", started, duration, failure_text(error), worn_out)
    return ("value", started, time.perf_counter() - clock, answer)


def create(key: str) -> tuple[Any, ...]:
    """Make an object of a loaded class, or take the loaded object itself, for `call`."""
    from o9.workers.answers import failure_text

    try:
        thing = _loaded[key]
        _objects[key] = thing() if isinstance(thing, type) else thing
    except BaseException as error:  # noqa: BLE001 - whatever users' code raises is an answer, sys.exit too
        return ("failed", failure_text(error))
    return ("ok",)


def call(key: str, method: str, pickled: bytes, what: str) -> tuple[Any, ...]:
    """Call a method of a created object: ("value", result of `step` or None), ("refused", text) or ("failed", text)."""
    from o9.model.errors import OptimizationStrategyError
    from o9.workers.answers import failure_text
    from o9.workers.step_results import step_to_json

    try:
        result = getattr(_objects[key], method)(*pickle.loads(pickled))
    except BaseException as error:  # noqa: BLE001 - whatever users' code raises is an answer, sys.exit too
        return ("failed", failure_text(error))
    try:
        return ("value", step_to_json(result, what) if method == "step" else None)
    except OptimizationStrategyError as error:
        return ("refused", str(error))
    except BaseException as error:  # noqa: BLE001 - attributes of users' objects may raise
        return ("failed", failure_text(error))


_OPERATIONS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "context": set_context,
    "load": load,
    "evaluate": evaluate,
    "create": create,
    "call": call,
}


def _configure_logging() -> None:
    """Print users' log records from INFO up, unless users' code has configured logging."""
    logging = sys.modules.get("logging")
    if logging is not None and not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Users' code may have closed or replaced it; the answer still counts.
        with contextlib.suppress(Exception):
            stream.flush()


def _die_with_the_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _fork_guardian(requests: int, replies: int, lifeline: int) -> None:
    """Fork: the guardian stays in here until its end, and the guarded process returns."""
    import ctypes

    def prctl(option: int, value: int) -> None:
        ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))

    prctl(PR_SET_CHILD_SUBREAPER, 1)
    guardian = os.getpid()
    guarded = os.fork()
    if guarded == 0:
        os.close(lifeline)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if the guardian is killed
        if os.getppid() != guardian:
            os._exit(1)
        return
    # These pipes must close with the guarded process, for the parent to notice.
    for descriptor in (requests, replies):
        os.close(descriptor)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.chdir("/")
    _exit_as(_guard(guarded, lifeline))


def _guard(guarded: int, lifeline: int) -> int:
    """Wait for the lifeline or the guarded process to end, kill all descendants, return the latter's exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a signal to the group is meant for the guarded process
    woken, wake = os.pipe()
    for descriptor in (woken, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    for descriptor in (lifeline, woken):
        poll.register(descriptor, select.POLLIN)
    ended: dict[int, int] = {}
    while _reap(ended, guarded) and guarded not in ended:
        if any(descriptor == lifeline for descriptor, _ in poll.poll()):
            break
        os.read(woken, 4096)
    if guarded not in ended:
        os.kill(guarded, signal.SIGKILL)
    poll.unregister(lifeline)
    give_up, alone = time.monotonic() + GIVE_UP_SECONDS, True
    while _reap(ended, guarded) and time.monotonic() < give_up:
        if not alone:
            _kill_all_below(os.getpid())
        alone = False  # most processes start no others, and the first round saves the search
        if poll.poll(POLL_SECONDS * 1000):
            os.read(woken, 4096)
    return ended.get(guarded, int(signal.SIGKILL))


def _reap(ended: dict[int, int], guarded: int) -> bool:
    """Reap processes that have ended, orphans included. Returns whether any are left."""
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == guarded:
                ended[guarded] = found[1]
    except ChildProcessError:
        return False
    return True


def _kill_all_below(top: int) -> None:
    """Stop all descendants before killing any, because those that others start meanwhile would escape."""
    stopped: set[int] = set()
    for _ in range(STOPPING_ROUNDS):
        fresh = _descendants(top) - stopped
        for pid in fresh:
            _send(pid, signal.SIGSTOP)
        stopped |= fresh
        if not fresh:
            break
    for pid in stopped:
        _send(pid, signal.SIGKILL)


def _descendants(top: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found: set[int] = set()
    open_ends = [top]
    while open_ends:
        below = [pid for pid in children.get(open_ends.pop(), []) if pid not in found]
        found.update(below)
        open_ends += below
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is another user's
        os.kill(pid, number)


def _exit_as(status: int) -> NoReturn:
    """End as the guarded process did, for the parent to see."""
    import resource

    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler to restore
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _line(reply: tuple[Any, ...]) -> bytes:
    """Return the reply as JSON, then its float64 arrays as base64, separated by tabs; the JSON has their indexes.

    As JSON numbers or strings, arrays would cost several times as much.
    """
    _arrays.clear()
    head = _JSON.encode(reply).encode()
    return b"\t".join([head, *(binascii.b2a_base64(numbers, newline=False) for numbers in _arrays)]) + b"\n"


def _keep_array(value: Any) -> int:
    if not isinstance(value, array):
        raise TypeError(f"{type(value).__name__} cannot be sent to a node")
    _arrays.append(value)
    return len(_arrays) - 1


_arrays: list[array[float]] = []
_JSON = json.JSONEncoder(default=_keep_array)


def _write(descriptor: int, line: bytes) -> None:
    data = memoryview(line)
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

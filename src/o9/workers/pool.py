"""The parent's side of the child processes that run users' code: start, exchange, kill; and the pool of idle ones.

Contract. A Child serves one caller at a time, in the event loop that leased it. Between leases it belongs to the pool,
of which a process has one, and which is thread-safe. `exchange` returns JSON values and bytes, or raises ChildDied,
whatever users' code did. After an exchange that raised or was cancelled, the child is unusable, and its holder kills
it. `kill` returns at once and ends the child with everything it started; `process.wait` returns when all of that has
ended. No child outlives this process. `o9.workers.worker` describes the limits of that on Linux and macOS.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from o9.model.errors import OptimizationStrategyError
from o9.model.trial import Output
from o9.workers.output import PrintedLines
from o9.workers.process_tree import cpu_seconds

CHUNK = 1 << 18
LIVENESS_SECONDS = 0.5  # between checks that it is alive: processes that it forked keep our pipes open after its end
PATIENCE_SECONDS = 2.0  # for the child's guardian to end; a stopped or stuck one is killed with its group
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip

Context = tuple[list[str], str, dict[str, str]]


class ChildDied(Exception):
    """The child ended without an answer. The message says how."""


class BrokenAnswer(ChildDied):
    """The child wrote something other than an answer, and cannot be used any more."""

    def __init__(self, written: Any, problem: object) -> None:
        super().__init__(
            f"its process wrote {written!r:.100}, which is not an answer to O9: {problem}; does it write to a file "
            "descriptor that it did not open?"
        )


class Child:
    """One process. `loaded` has the keys of the functions loaded there, `context` the context last sent."""

    def __init__(self) -> None:
        if not sys.executable:
            raise OptimizationStrategyError(
                "an evaluation process cannot be started because sys.executable is empty; run O9 with a Python "
                "interpreter, or make the objective async"
            )
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        lifeline_end, self._lifeline = os.pipe()
        self._printed, printed_end = os.pipe()
        theirs = (request_end, reply_end, lifeline_end)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                stdout=printed_end,
                stderr=printed_end,
                pass_fds=theirs,
                start_new_session=True,
            )
        except OSError as error:
            self._close_pipes()
            raise OptimizationStrategyError(f"an evaluation process could not be started: {error}") from error
        finally:
            for descriptor in (*theirs, printed_end):
                os.close(descriptor)
        for descriptor in (self._requests, self._replies, self._printed):
            os.set_blocking(descriptor, False)
        self.loaded: set[str] = set()
        self.context: Context | None = None
        self.killed = False
        self.single_threaded: bool | None = None  # of its libraries; None until it was leased
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outgoing = memoryview(b"")
        self._incoming = bytearray()
        self._answer: asyncio.Future[list[Any]] | None = None
        self._lines = PrintedLines("an evaluation process")
        self.printed: Output | None = None  # during the last exchange
        self._asked_in = contextvars.copy_context()
        self._watch: asyncio.TimerHandle

    def attach(self) -> None:
        """Listen to it in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._replies, self._on_reply)
        self._loop.add_reader(self._printed, self._on_printed)

    def detach(self) -> None:
        """Stop listening. The child may then be leased in another event loop."""
        if self._loop is not None and not self._loop.is_closed():
            for descriptor in (self._replies, self._printed):
                self._loop.remove_reader(descriptor)
            self._loop.remove_writer(self._requests)
        self._loop = None

    async def exchange(self, *request: Any, label: str | None = "an evaluation process") -> list[Any]:
        """Send a request and wait for the answer. Output meanwhile is logged with the prefix `label`, if any."""
        assert self._loop is not None, "the child is not attached"
        self._outgoing = _frame(request)
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        self._answer = answer
        self._lines = PrintedLines(label)
        self._asked_in = contextvars.copy_context()  # output belongs to this caller, not to the one that leased it
        self._watch = self._loop.call_later(LIVENESS_SECONDS, self._check_alive)
        try:
            self._send()
            return await answer
        except BrokenAnswer:
            raise
        except ChildDied:
            raise ChildDied(await self._how_it_ended()) from None
        finally:
            self._watch.cancel()
            self._answer = None
            if not self.killed:
                self._on_printed()
            self.printed = self._lines.end()

    def kill(self) -> None:
        """Kill it and everything it started. A thread waits for their end."""
        if self.killed:
            return
        self.killed = True
        self.detach()
        if sys.platform == "linux":
            # Closing is not enough: a forked copy of this process may hold the pipe open.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._lifeline, b"!")
        else:
            _kill_group(self.process.pid)
        self._close_pipes()
        if self.process.poll() is None:
            threading.Thread(target=self._wait_for_end, name="o9-reaper", daemon=True).start()
        else:
            _kill_group(self.process.pid)  # its guardian may have been killed

    def cpu_seconds(self) -> float | None:
        """Return the processor time of it and everything it started; None if unknown."""
        return None if self.killed else cpu_seconds(self.process.pid)

    def usable(self) -> bool:
        """Whether it seems to be alive."""
        return not self.killed and not self._ended and self.process.poll() is None

    def _wait_for_end(self) -> None:
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(self.process.pid)
            self.process.wait()

    def _close_pipes(self) -> None:
        for descriptor in (self._requests, self._replies, self._lifeline, self._printed):
            os.close(descriptor)

    def _send(self) -> None:
        assert self._loop is not None
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._requests, self._outgoing) :]
        except BlockingIOError:
            self._loop.add_writer(self._requests, self._send)
            return
        except BrokenPipeError:
            self._died()
        self._loop.remove_writer(self._requests)

    def _on_reply(self) -> None:
        try:
            data = os.read(self._replies, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._died()
            return
        self._incoming += data
        if b"\n" not in data:
            return
        line, _, more = self._incoming.partition(b"\n")
        self._incoming.clear()
        if self._answer is None or self._answer.done():
            self._ended = True  # an answer without a request
            return
        try:
            self._answer.set_result(_read_answer(line, more))
        except BrokenAnswer as error:
            self._ended = True
            self._answer.set_exception(error)

    def _on_printed(self) -> None:
        try:
            data = os.read(self._printed, CHUNK)
        except BlockingIOError:
            return
        if data:
            self._asked_in.run(self._lines.feed, data)
        elif self._loop is not None:
            self._loop.remove_reader(self._printed)

    def _check_alive(self) -> None:
        assert self._loop is not None
        if self.process.poll() is not None:
            self._died()
        else:
            self._watch = self._loop.call_later(LIVENESS_SECONDS, self._check_alive)

    def _died(self) -> None:
        self._ended = True
        if self._loop is not None:
            self._loop.remove_reader(self._replies)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ChildDied())

    async def _how_it_ended(self) -> str:
        for _ in range(50):  # its pipes close shortly before its exit code is available
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        code = self.process.poll()
        if code is None:
            return "its process closed its connection to O9"
        if code >= 0:
            return f"its process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"


class Pool:
    """Idle children, ready for the next caller."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._lock = threading.Lock()

    def lease(self, key: str = "", *, single_threaded: bool = False) -> Child:
        """Return a child attached to the running event loop, preferably one that has `key` loaded."""
        with self._lock:
            alive = [child for child in self._idle if child.usable()]
            ended = [child for child in self._idle if child not in alive]
            child = max(
                (child for child in alive if child.single_threaded in (None, single_threaded)),
                key=lambda child: (key in child.loaded, child.single_threaded is not None),
                default=None,
            )
            self._idle = [other for other in alive if other is not child]
        for other in ended:
            other.kill()
        child = child or Child()
        child.single_threaded = single_threaded
        child.attach()
        return child

    def release(self, child: Child) -> None:
        """Return a child to the pool. Surplus children are killed, the longest idle first."""
        child.detach()
        with self._lock:
            self._idle.append(child)
            surplus = self._idle[: -processors()]
            self._idle = self._idle[-processors() :]
        for other in surplus:
            other.kill()

    def shut_down(self) -> None:
        """Kill all idle children."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()
            child.process.wait()

    def forget(self) -> None:
        """Drop the children, in a forked copy of this process: they belong to the original."""
        _not_ours.extend(self._idle)
        self._lock = threading.Lock()
        self._idle = []


async def send_context(child: Child) -> None:
    """Give the child this process's import path, working directory and environment, if they have changed."""
    defaults = dict.fromkeys(THREAD_VARIABLES, "1") if child.single_threaded else {}
    context = (list(sys.path), os.getcwd(), defaults | dict(os.environ))
    if child.context == context:
        return
    kind, *problem = await child.exchange("context", *context)
    if kind != "ok":
        raise OptimizationStrategyError(problem[0])
    child.context = context


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


POOL = Pool()
_not_ours: list[Child] = []
atexit.register(POOL.shut_down)
os.register_at_fork(after_in_child=POOL.forget)


def _frame(request: tuple[Any, ...]) -> memoryview:
    try:
        return memoryview(pickle.dumps(request))
    except Exception as error:
        raise OptimizationStrategyError(
            f"the parameters cannot be sent to an evaluation process: {error}; they must be JSON values"
        ) from error


def _read_answer(line: bytearray, more: bytearray) -> list[Any]:
    if more:
        raise BrokenAnswer(bytes(more), "it was written after the answer")
    head, *texts = line.split(b"\t")
    try:
        answer = json.loads(head.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise BrokenAnswer(bytes(head[:100]), error) from error
    if not (isinstance(answer, list) and answer and isinstance(answer[0], str)):
        raise BrokenAnswer(answer, "it does not begin with a status")
    return [*answer, *texts]


def _kill_group(pid: int) -> None:
    # macOS raises PermissionError for a group whose last member is a zombie.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

"""Python processes that cost no import: a zygote has imported Prefect and O9, and forks one for each start.

    process = zygote.start(["worker.py", "argument"], cwd=folder, env=environment, stdout=subprocess.PIPE)

A `Process` is used as `subprocess.Popen[str]` is. The command is what follows the interpreter's name: a script,
`-c SOURCE`, or `-m MODULE`. The process has its own pid, environment and standard streams, and
Prefect reads its settings anew in it, so one zygote serves every environment.

What differs from a start from nothing: modules are there before they are imported. A test that counts imports, or
that measures a start, uses `subprocess`.

Run as a program, this file is the zygote. It ends with the process that started it. A whole test run has one, which
its first process starts by `share`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import IO, Any

MARK = "O9_TEST_MARK"
_SHARED = "TESTS_ZYGOTE"
_NO_MARK = "0" * 32  # its place in the memory that /proc shows as the environment; as long as a mark
_STARTED = (
    "o9.cli.main", "o9.aggregator.aggregator", "o9.aggregator.node", "o9.aggregator.prefect_server",
    "o9.flows.lifecycle", "o9.flows.mirror", "OptimizationStateAggregator", "optuna", "scipy.stats",
    "o9.cli.commands.run", "o9.health.reevaluation", "o9.health.checks.validity", "o9.report.write", "arch.bootstrap",
    "anyio._backends._asyncio", "prefect.flow_engine", "prefect.task_engine", "prefect.utilities.visualization",
)  # fmt: skip


class Process:
    """A forked process, used as `subprocess.Popen[str]` is; its return code comes through the zygote, its parent."""

    def __init__(self, connection: socket.socket, args: list[str], streams: list[IO[str] | None]) -> None:
        self.args = args
        self.stdin, self.stdout, self.stderr = streams
        self.returncode: int | None = None
        self._connection = connection
        self._lock = threading.Lock()
        self.pid = int(self._line())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Write `input`, read both streams to their ends, and wait; a second call goes on where the first gave up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(input or "")
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            self.stdin = None
        for reader in self._readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return tuple("".join(self._read.get(name, ())) for name in ("stdout", "stderr"))  # type: ignore[return-value]

    @functools.cached_property
    def _read(self) -> dict[str, list[str]]:
        return {"stdout": [], "stderr": []}

    @functools.cached_property
    def _readers(self) -> list[threading.Thread]:
        def drain(stream: IO[str], into: list[str]) -> None:
            with stream:
                into.append(stream.read())

        readers = [
            threading.Thread(target=drain, args=(stream, self._read[name]), daemon=True)
            for name, stream in (("stdout", self.stdout), ("stderr", self.stderr))
            if stream is not None and not stream.closed
        ]
        for reader in readers:
            reader.start()
        return readers

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
                self.returncode = int(self._line())
                self._connection.close()
            return self.returncode

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := self._connection.recv(1)):
                raise RuntimeError(f"the zygote has ended; it was to run {self.args}")
            line += byte
        return line.decode()


def start(
    command: list[str],
    *,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    start_new_session: bool = False,
) -> Process:
    """Start `python COMMAND…`; the streams are those that `subprocess.Popen` takes."""
    ours: list[IO[str] | None] = []
    theirs: list[int] = []
    opened: list[int] = []
    for number, given in enumerate((stdin, stdout, stderr)):
        stream: IO[str] | None = None
        if given == subprocess.PIPE:
            reading, writing = os.pipe()
            end, mine, mode = (reading, writing, "w") if number == 0 else (writing, reading, "r")
            stream = os.fdopen(mine, mode, encoding="utf-8", buffering=1)
            opened.append(end)
        elif given == subprocess.DEVNULL:
            opened.append(end := os.open(os.devnull, os.O_RDWR))
        elif given == subprocess.STDOUT:
            end = theirs[1]
        else:
            end = number if given is None else given if isinstance(given, int) else given.fileno()
        theirs.append(end)
        ours.append(stream)
    request: dict[str, Any] = {
        "command": command, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env),
        "new_session": start_new_session,
    }  # fmt: skip
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(_zygote(request["env"].get("LD_PRELOAD", "")))
        connection.sendmsg([b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", theirs))])
        connection.sendall(json.dumps(request).encode() + b"\n")
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return Process(connection, [sys.executable, *command], ours)


def run(
    command: list[str], *, seconds: float = 240.0, input: str | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Start `python COMMAND…` and wait for its end, as `subprocess.run` does with captured output."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    process = start(command, **streams)
    try:
        out, err = process.communicate(input, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def share() -> None:
    """Start one that serves this process, and all that it starts from now on."""
    os.environ[_SHARED] = _start("")


@functools.cache
def _zygote(preload: str) -> str:
    """The address of a zygote that has this library: the shared one, or this process's own, started when needed."""
    return (not preload and os.environ.get(_SHARED)) or _start(preload)


def _start(preload: str) -> str:
    """Its socket is there at once; whoever connects waits until all is imported."""
    folder = tempfile.TemporaryDirectory(prefix="o9-zygote-")
    address = os.path.join(folder.name, "socket")
    environment = os.environ | {MARK: _NO_MARK, **({"LD_PRELOAD": preload} if preload else {})}
    lifeline, ours = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        theirs = (listener.fileno(), lifeline)
        process = subprocess.Popen([sys.executable, __file__, *map(str, theirs)], env=environment, pass_fds=theirs)
    os.close(lifeline)

    def close() -> None:
        os.close(ours)
        process.wait()
        folder.cleanup()

    atexit.register(close)
    return address


# The zygote


def _serve(listening: int, lifeline: int) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request; returns in the forked processes only, with what they are to run."""
    for name in _STARTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would lose a thread that an import started"
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    listener = socket.socket(fileno=listening)
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for what it started
    children: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([listener.fileno(), waking, lifeline], [], [])
        if lifeline in readable:
            sys.exit()
        if waking in readable:
            os.read(waking, 4096)
            for pid, code in _reaped(children):
                with contextlib.suppress(OSError), children.pop(pid) as connection:  # nobody may wait for it
                    connection.sendall(f"{code}\n".encode())
        if listener.fileno() in readable:
            connection, _ = listener.accept()
            request, streams = _received(connection)
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for descriptor in (waking, woken, lifeline):
                    os.close(descriptor)
                for one in (listener, connection, *children.values()):
                    one.close()
                return request, streams
            for descriptor in streams:
                os.close(descriptor)
            children[pid] = connection
            with contextlib.suppress(OSError):
                connection.sendall(f"{pid}\n".encode())


def _reaped(children: dict[int, socket.socket]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline()), list(streams)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take on the environment, folder and streams of a process that was started from nothing."""
    if request["new_session"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in set(streams) - {0, 1, 2}:
        os.close(descriptor)
    os.chdir(request["cwd"])
    mark = request["env"].get(MARK, _NO_MARK)
    if _MARK_ADDRESS and len(mark) == len(_NO_MARK):  # else /proc would show the zygote's own
        ctypes.memmove(_MARK_ADDRESS, mark.encode(), len(mark))
    before = _python_path()
    os.environ.clear()
    os.environ.update(request["env"])
    if shift := os.environ.get("CLOCK_SHIFT"):  # see clock_shim.py
        ctypes.CDLL(None).shift_clock(shift.encode())
    sys.path[:] = [*_python_path(), *(entry for entry in sys.path[1:] if entry not in before)]
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = _writer(1)
    sys.stderr = _writer(2)

    import prefect.context
    import prefect.logging.configuration

    prefect.context.refresh_global_settings_context()
    prefect.logging.configuration.setup_logging()


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _writer(descriptor: int) -> io.TextIOWrapper:
    by_line = descriptor == 2 or os.isatty(descriptor) or bool(os.environ.get("PYTHONUNBUFFERED"))
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace" if descriptor == 2 else "strict",
                buffering=1 if by_line else -1, closefd=False)  # fmt: skip


def _run(command: list[str]) -> None:
    kind, rest = command[0], command[1:]
    if kind == "-m":
        sys.argv = rest
        sys.path.insert(0, "")
        if callable(main := getattr(importlib.import_module(rest[0]), "main", None)):
            sys.exit(main())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        code = compile(rest[0], "<string>", "exec")
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(kind).resolve().parent))
        module.__file__ = kind
        code = compile(Path(kind).read_text(encoding="utf-8"), kind, "exec")
    exec(code, module.__dict__)


if __name__ == "__main__":
    _libc = ctypes.CDLL(None)
    _libc.getenv.restype = ctypes.c_void_p
    _MARK_ADDRESS = _libc.getenv(MARK.encode())
    _request, _streams = _serve(*map(int, sys.argv[1:]))
    _become(_request, _streams)
    _run(_request["command"])

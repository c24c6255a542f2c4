"""States that could not be written while the store was away: a file for each process and store in the spool folder.

Contract. `append` returns when the line is on disk, and lines keep their order. A process locks its file while it
lives, and delivers it by itself; when it is dead, `deliver` of any process on the machine delivers the file. A line
that is delivered twice counts once, because each Prefect state does. Only a store that is away stops a delivery. Lines
that cannot be read (after a power cut), and lines that the store refuses, are kept with the reason in a file beside it,
which `o9 doctor` shows; renamed to *.jsonl, that file is delivered again. Thread-safe; after a fork the child starts a
new file.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from o9.model.errors import StoreUnavailableError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import OptimizationStatus
from o9.store.core.engine import parse_url
from o9.store.core.unit import Operation
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.store import Store

logger = logging.getLogger(__name__)
SUFFIX, REFUSED = ".jsonl", ".refused"
TOGETHER = 100
_unreadable: set[Path] = set()  # reported in the log


def deliver(store: Store) -> int:
    """Deliver to `store` what dead processes of this machine left; returns the number of lines. Blocks.

    A file that cannot be read is logged and kept. Raises OptimizationStoreError where the store is away or closed;
    nothing is lost then.
    """
    folder, delivered = spool_folder(), 0
    for path in sorted(folder.glob(f"{store_key(store.url)}.*{SUFFIX}")):
        try:
            delivered += _deliver_left_behind(path, store)
        except OSError as error:
            logger.log(logging.DEBUG if path in _unreadable else logging.ERROR, "%s is not delivered: %s", path, error)
            _unreadable.add(path)
    return delivered


@dataclass(frozen=True)
class QuarantinedLines:
    """A file of lines that a store refused: how many, and why it refused the last one."""

    path: Path
    lines: int
    reason: str


def refused() -> list[QuarantinedLines]:
    """The files of refused lines in the spool folder, of all stores. Raises OSError where one cannot be read."""
    found = []
    for path in sorted(spool_folder().glob(f"*{REFUSED}")):
        if lines := path.read_text(encoding="utf-8", errors="replace").splitlines():
            found.append(QuarantinedLines(path, len(lines), json.loads(lines[-1])["refused"]["reason"]))
    return found


def spool_folder() -> Path:
    """O9_SPOOL_FOLDER, on this machine."""
    return Path(settings().spool_folder).expanduser()


class Spool:
    """This process's file for the store at `url`; it exists while it has lines to deliver."""

    def __init__(self, url: str) -> None:
        self._key = store_key(url)
        self._folder = spool_folder()
        self._lock = threading.Lock()
        self._delivering = threading.Lock()
        self._file: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._delivered = 0

    def __len__(self) -> int:
        """The number of bytes to deliver."""
        return self._size - self._delivered

    def append(self, operation: Operation[Any]) -> None:
        """Keep the operation until `deliver`. Raises OSError where the folder cannot be written."""
        line = _encoded(operation)
        with self._lock:
            file = self._open()
            _append(file, line)
            self._size += len(line)

    def deliver(self, store: Store) -> int:
        """Deliver all lines in order, those appended meanwhile included; returns how many. Threads wait for each other.

        Raises OptimizationStoreError for a store that is away.
        """
        delivered = 0
        with self._delivering:
            while waiting := self._waiting():
                path, lines = waiting
                asyncio.run(_deliver_together(store, lines, path))
                delivered += len(lines)
                with self._lock:
                    if self._path == path:  # else it was closed meanwhile
                        self._delivered += sum(map(len, lines))
        return delivered

    def _waiting(self) -> tuple[Path, list[bytes]] | None:
        """The first lines to deliver; without any, the file is removed."""
        with self._lock:
            if self._file is None or self._path is None:
                return None
            if len(self) == 0:
                self._path.unlink(missing_ok=True)
                self.disown()
                return None
            lines = os.pread(self._file, len(self), self._delivered).splitlines(keepends=True)
            return self._path, lines[:TOGETHER]

    def close(self) -> None:
        """Leave the lines to other processes of this machine."""
        with self._lock:
            self.disown()

    def disown(self) -> None:
        """Close the file without taking the lock, which a lost thread may hold in a forked child."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._path, self._size, self._delivered = None, None, 0, 0

    def _open(self) -> int:
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{self._key}.{os.getpid()}.{uuid.uuid4().hex}{SUFFIX}"
            new = path.with_suffix(".new")
            file = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                # Renamed once it is locked; else another process could deliver it as a dead process's.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(path)
                _sync_folder(self._folder)
            except OSError:
                os.close(file)
                raise
            self._file, self._path = file, path
        return self._file


def _deliver_left_behind(path: Path, store: Store) -> int:
    delivered = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0  # another process has just delivered it
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # its writer lives, or another process delivers it
        if not os.fstat(file.fileno()).st_nlink:
            return 0  # another process has just delivered it
        while lines := list(islice(file, TOGETHER)):
            asyncio.run(_deliver_together(store, lines, path))
            delivered += len(lines)
        path.unlink(missing_ok=True)
    if delivered:
        logger.warning("delivered %d states that a dead process had left in %s", delivered, path)
    return delivered


async def _deliver_together(store: Store, lines: list[bytes], path: Path) -> None:
    """In one transaction, because each takes a busy process a tenth of a second.

    Raises OptimizationStoreError where the store is away or closed; nothing is refused then.
    """
    lines = [_before_refusal(line) for line in lines]
    operations: dict[int, Operation[Any]] = {}
    refused: dict[int, str] = {}
    for number, line in enumerate(lines):
        try:
            operations[number] = _decoded(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            refused[number] = f"it cannot be read: {error!r}"
    for _ in range(2):  # Ctrl-C may have interrupted the first
        answers = await asyncio.gather(*map(store.write_async, operations.values()), return_exceptions=True)
        errors = {n: answer for n, answer in zip(operations, answers, strict=True) if isinstance(answer, Exception)}
        if away := next((error for error in errors.values() if isinstance(error, StoreUnavailableError)), None):
            raise away
        operations = {number: operations[number] for number in errors}
    refused |= {number: f"{type(error).__name__}: {error}" for number, error in errors.items()}
    for number, reason in sorted(refused.items()):
        _quarantine(path, lines[number], reason)


def _quarantine(path: Path, line: bytes, reason: str) -> None:
    kept = {"refused": {"reason": reason, "line": line.decode("utf-8", "replace").removesuffix("\n")}}
    quarantined = os.open(path.with_suffix(REFUSED), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _append(quarantined, json.dumps(kept).encode() + b"\n")
    finally:
        os.close(quarantined)
    logger.error("a line of %s is refused and kept in %s: %s", path, path.with_suffix(REFUSED).name, reason)


def _before_refusal(line: bytes) -> bytes:
    try:
        return str(json.loads(line)["refused"]["line"]).encode()
    except (ValueError, KeyError, TypeError):
        return line  # it was never refused


def _append(file: int, line: bytes) -> None:
    """Append durably, and whole or not at all: half a line would make the next one unreadable."""
    size, left = os.fstat(file).st_size, line
    try:
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def store_key(url: str) -> str:
    """A key of the store's URL without its password, the same for all spellings that this machine may use."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        name = str(Path(str(parsed.database)).absolute())
    else:
        name = parsed.set(password=None).render_as_string()
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _encoded(operation: Operation[Any]) -> bytes:
    kind = next(kind for kind, known in _KINDS.items() if type(operation) is known)

    def as_json(value: OptimizationState | datetime) -> Any:
        return value.to_dict() if isinstance(value, OptimizationState) else value.isoformat()

    return json.dumps({kind: vars(operation)}, default=as_json, separators=(",", ":")).encode() + b"\n"


def _decoded(line: bytes) -> Operation[Any]:
    ((kind, fields),) = json.loads(line).items()
    read = {name: _TYPES[name](value) for name, value in fields.items() if name in _TYPES and value is not None}
    return _KINDS[kind](**fields | read)


_KINDS: dict[str, type[Operation[Any]]] = {"state": RecordPrefectState, "adopt": Adopt, "transition": Transition}
_TYPES: dict[str, Callable[[Any], Any]] = {
    "at": datetime.fromisoformat,
    "cause": Cause,
    "source": Cause,
    "state": OptimizationState.from_dict,
    "to": OptimizationStatus,
}

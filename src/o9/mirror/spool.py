"""States that could not be written while the store was away: one file for each process and store, in the spool folder.

Contract. `append` returns when the line is on disk, and lines keep their order. The process that writes a file locks it
for as long as it lives and delivers it itself; when the process is dead, `deliver` of any process on the node takes the
file over. A line that is delivered twice counts once, because each Prefect state does. Only a store that is away stops
a delivery. Lines that cannot be read (after a power cut), and lines that the store refuses, are kept with the reason in
a file beside it, which `o9 doctor` shows; renamed to *.jsonl, that file is delivered again. Thread-safe; after a fork
the child starts a file of its own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from o9.model.errors import OptimizationError, StoreUnavailableError
from o9.model.optimization import OptimizationState
from o9.model.settings import settings
from o9.model.states import OptimizationStatus
from o9.store.core.engine import parse_url
from o9.store.core.unit import Operation, UnitOfWork
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause, RecordPrefectState, Transition
from o9.store.store import Store

logger = logging.getLogger(__name__)
SUFFIX, REFUSED = ".jsonl", ".refused"
TOGETHER = 100
_unreadable: set[Path] = set()  # said in the log


def deliver(store: Store) -> int:
    """Deliver to `store` what dead processes of this node left behind; returns the number of lines. Blocks.

    A file that cannot be read is said in the log, and left. Raises OptimizationStoreError where the store is away or
    closed: nothing is lost then.
    """
    folder, delivered = spool_folder(), 0
    for path in sorted(folder.glob(f"{store_key(store.url)}.*{SUFFIX}")):
        try:
            delivered += _deliver_left_behind(path, store)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC):  # it passes, and is not the file's fault
                raise
            logger.log(logging.DEBUG if path in _unreadable else logging.ERROR, "%s is not delivered: %s", path, error)
            _unreadable.add(path)
    return delivered


@dataclass(frozen=True)
class QuarantinedLines:
    """A file of lines that a store did not take: how many, and why not the last one."""

    path: Path
    lines: int
    reason: str


def refused() -> list[QuarantinedLines]:
    """What lies in this node's spool folder, of all stores. Raises OSError where it cannot be read."""
    found = []
    for path in sorted(spool_folder().glob(f"*{REFUSED}")):
        if lines := path.read_text(encoding="utf-8", errors="replace").splitlines():
            found.append(QuarantinedLines(path, len(lines), json.loads(lines[-1])["refused"]["reason"]))
    return found


def spool_folder() -> Path:
    """`O9_SPOOL_FOLDER`, a folder on this machine."""
    return Path(settings().spool_folder).expanduser()


class Spool:
    """This process's file for the store at `url`; it exists while there is something in it."""

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self._key = store_key(url)
        self._folder = folder or spool_folder()
        self._lock = threading.Lock()
        self._delivering = threading.Lock()
        self._file: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._delivered = 0

    def __len__(self) -> int:
        """How many bytes wait."""
        return self._size - self._delivered

    def append(self, operation: Operation[Any]) -> None:
        """Keep it until `deliver`. Raises OSError where the folder cannot be written: then it is not kept."""
        line = json.dumps(_encoded(operation), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            file = self._open()
            _append(file, line)
            self._size += len(line)

    def deliver(self, store: Store) -> int:
        """Deliver what waits, in order; returns how many lines. Raises OptimizationStoreError for a store that is away.

        What is appended meanwhile is delivered, too. Threads take turns.
        """
        delivered = 0
        with self._delivering:
            while lines := self._waiting():
                path, waiting = lines
                for some in _parts(waiting):
                    _deliver_together(store, some, path)
                    delivered += len(some)
                    with self._lock:
                        if self._path != path:
                            return delivered  # closed meanwhile: the rest is somebody else's
                        self._delivered += sum(map(len, some))
        return delivered

    def _waiting(self) -> tuple[Path, list[bytes]] | None:
        """The lines that wait now; with none left, the file goes."""
        with self._lock:
            if self._file is None or self._path is None:
                return None
            if len(self) == 0:
                self._remove()
                return None
            return self._path, os.pread(self._file, len(self), self._delivered).splitlines(keepends=True)

    def close(self) -> None:
        """Leave what waits to others on this node."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file, self._path, self._size, self._delivered = None, None, 0, 0

    def disown(self) -> None:
        """In a forked child, where a lock may be held by a thread that is not there: the file is the parent's."""
        if self._file is not None:
            os.close(self._file)

    def _open(self) -> int:
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{self._key}.{os.getpid()}.{uuid.uuid4().hex}{SUFFIX}"
            new = path.with_suffix(".new")
            file = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                # Under its name only once it is locked: else somebody could take it for one that was left behind.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(path)
                _sync_folder(self._folder)
            except OSError:
                os.close(file)
                raise
            self._file, self._path = file, path
        return self._file

    def _remove(self) -> None:
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
        self._file, self._path, self._size, self._delivered = None, None, 0, 0


def _deliver_left_behind(path: Path, store: Store) -> int:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0  # somebody else has just delivered it
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # its writer lives, or somebody else delivers it
        if not _is_still(path, file):
            return 0
        lines = list(_lines(file))
        for some in _parts(lines):
            _deliver_together(store, some, path)
        path.unlink(missing_ok=True)
        if lines:
            logger.warning("delivered %d states that a dead process had left in %s", len(lines), path)
        return len(lines)
    finally:
        os.close(file)


def _parts(lines: list[bytes]) -> Iterator[list[bytes]]:
    for first in range(0, len(lines), TOGETHER):
        yield lines[first : first + TOGETHER]


def _deliver_together(store: Store, lines: list[bytes], path: Path) -> None:
    """In one transaction: a busy process needs a tenth of a second for each. A line that fails is delivered alone.

    Raises OptimizationStoreError where the store is away or closed.
    """
    while lines:
        try:
            taken = store.write(_Together(tuple(_decoded(json.loads(line)) for line in lines)))
            alone = lines[taken : taken + 1]
        except StoreUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, alone, each line shows whether the fault is its own
            taken, alone = 0, lines
        for line in alone:
            _deliver_one(store, line, path)
        lines = lines[taken + len(alone) :]


@dataclass(frozen=True)
class _Together:
    """Several in their order, up to the first that is refused; answers with how many were taken."""

    operations: tuple[Operation[Any], ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for operation in self.operations for target in operation.targets)

    def apply(self, unit: UnitOfWork) -> int:
        for taken, operation in enumerate(self.operations):
            try:
                operation.apply(unit)
            except OptimizationError:
                return taken
        return len(self.operations)


def _deliver_one(store: Store, line: bytes, path: Path) -> None:
    """Raises OptimizationStoreError where the store is away or closed."""
    try:
        content = json.loads(line)
        if "refused" in content:  # before, and now once more
            line = content["refused"]["line"].encode()
            content = json.loads(line)
        operation = _decoded(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSON's and Unicode's errors are ValueErrors
        _quarantine(path, line, f"it cannot be read: {error!r}")
        return
    for tries in (1, 2):  # Ctrl-C may have interrupted the first
        try:
            store.write(operation)
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, what waits behind this line is to be delivered
            store.write(_Nothing())  # a store that takes nothing, because it is closed, has not refused the line
            if tries == 2:
                _quarantine(path, line, f"{type(error).__name__}: {error}")
        else:
            return


@dataclass(frozen=True)
class _Nothing:
    """A write that any open store takes."""

    targets: tuple[str, ...] = ()

    def apply(self, unit: UnitOfWork) -> None:
        return


def _quarantine(path: Path, line: bytes, reason: str) -> None:
    kept = {"refused": {"reason": reason, "line": line.decode("utf-8", "replace").removesuffix("\n")}}
    quarantined = os.open(path.with_suffix(REFUSED), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _append(quarantined, json.dumps(kept, ensure_ascii=True).encode() + b"\n")
    finally:
        os.close(quarantined)
    logger.error("a line of %s is refused and kept in %s: %s", path, path.with_suffix(REFUSED).name, reason)


def _lines(file: int) -> Iterator[bytes]:
    with open(file, "rb", closefd=False) as reader:
        yield from reader


def _append(file: int, line: bytes) -> None:
    """Durably, and whole or not at all: half a line would spoil the next one."""
    size, left = os.fstat(file).st_size, line
    try:
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def store_key(url: str) -> str:
    """The same for all spellings of a store's URL that this node may use, and without its password."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        name = str(Path(str(parsed.database)).absolute())
    else:
        name = parsed.set(password=None).render_as_string()
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _encoded(operation: Operation[Any]) -> dict[str, Any]:
    if isinstance(operation, RecordPrefectState):
        fields = dict(vars(operation)) | {
            "at": operation.at.isoformat(),
            "source": operation.source.value,
            "to": operation.to.value if operation.to else None,
        }
        return {"state": fields}
    if isinstance(operation, Adopt):
        return {"adopt": dict(vars(operation)) | {"state": operation.state.to_dict()}}
    assert isinstance(operation, Transition), f"{operation} is not for the spool"
    return {"transition": dict(vars(operation)) | {"to": operation.to.value, "cause": operation.cause.value}}


def _decoded(line: dict[str, Any]) -> Operation[Any]:
    ((kind, fields),) = line.items()
    if kind == "state":
        to = OptimizationStatus(fields["to"]) if fields["to"] else None
        at = datetime.fromisoformat(fields["at"])
        return RecordPrefectState(**fields | {"at": at, "source": Cause(fields["source"]), "to": to})
    if kind == "adopt":
        return Adopt(**fields | {"state": OptimizationState.from_dict(fields["state"])})
    if kind != "transition":
        raise ValueError(f"{kind!r} is no kind of line")
    return Transition(**fields | {"to": OptimizationStatus(fields["to"]), "cause": Cause(fields["cause"])})

"""The configuration in force: the file's, read again whenever it changes.

Contract. A file that cannot be read or has faults is refused, with its lines and reasons, and what was in force before
stays so; where nothing was, the first `look` raises. A fault is logged once, and again when it is another.
A look waits `ANSWER_SECONDS` at most, once: a file that hangs is asked in a thread of its own, and is one that
cannot be read until it answers. Used by one thread at a time.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import NamedTuple

from o9.alerts.config.schema import Configuration, load
from o9.model.errors import OptimizationAlertError, OptimizationError

logger = logging.getLogger(__name__)
ANSWER_SECONDS = 5.0


class AlertsFile:
    """`check` may refuse a configuration for more than what is written in it, by an OptimizationError."""

    def __init__(self, path: str | None, check: Callable[[Configuration], None] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._seen: tuple[int, ...] | None = None
        self._text: bytes | None = None
        self._asked: Future[_Found] | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the file as it is now is not in force; empty where it is

    def look(self) -> bool:
        """Read the file if it has changed; whether another configuration is in force since."""
        if self._path is None:
            return False
        first = self._seen is None
        seen: tuple[int, ...] = ()
        try:
            seen, text = self._found(self._path)
            if text is None:
                return False
            configuration = self.configuration if text == self._text else load(text.decode(), str(self._path))
            self._check(configuration)
        except (OSError, UnicodeDecodeError, OptimizationError) as error:
            self._refuse(error, first)
            self._seen = seen
            return False
        changed = text != self._text
        if changed or self.fault:
            logger.log(logging.DEBUG if first else logging.INFO, "%s is in force", self._path)
        self._seen, self._text, self.configuration, self.fault = seen, text, configuration, ""
        return changed and not first

    def _found(self, path: Path) -> _Found:
        """Raises OSError. While one reading hangs, no other is begun, and it is not waited for again."""
        begins = self._asked is None
        asked = self._asked or _in_thread(lambda: _changed(path, self._seen))
        self._asked = asked
        try:
            return _answer(path, asked, ANSWER_SECONDS if begins else 0)
        finally:
            if asked.done():
                self._asked = None

    def _refuse(self, error: Exception, first: bool) -> None:
        why = str(error) if isinstance(error, OptimizationError) else f"{self._path} cannot be read: {error}"
        if first:
            raise OptimizationAlertError(f"O9_ALERTS_FILE: {why}") from error
        if why != self.fault:
            logger.error("%s; what was in force before stays so", why)
        self.fault = why


class _Found(NamedTuple):
    seen: tuple[int, ...]  # differs where the file may have changed
    text: bytes | None  # None: as it was seen before


def read_within(path: Path) -> bytes:
    """The file's. Raises OSError for what is no regular file, and for one that does not answer in time."""
    asked = _in_thread(lambda: _changed(path, None))
    return _answer(path, asked, ANSWER_SECONDS).text or b""


def _answer(path: Path, asked: Future[_Found], seconds: float) -> _Found:
    wait((asked,), seconds)
    if not asked.done():
        raise OSError(f"no answer within {ANSWER_SECONDS:g} s: {str(path)!r}")
    return asked.result()


def _changed(path: Path, seen: tuple[int, ...] | None) -> _Found:
    found = os.stat(path)
    now = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    if now == seen:
        return _Found(now, None)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"no regular file: {str(path)!r}")  # a pipe would be waited for
    return _Found(now, path.read_bytes())


def _in_thread(work: Callable[[], _Found]) -> Future[_Found]:
    """In a thread that hinders no end of the process, however long it takes."""
    future: Future[_Found] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)

    threading.Thread(target=run, name="o9-alerts-file", daemon=True).start()
    return future

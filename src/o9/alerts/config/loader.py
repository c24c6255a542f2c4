"""The configuration in force: the file's, read again at each look.

Contract. A file that cannot be read or has faults is refused, with its lines and reasons, and what was in force before
stays so; where nothing was, the first `look` raises. A fault is logged once, and again when it is another. A file that
does not answer within `ANSWER_SECONDS` cannot be read until it does, and is waited for once. Used by one thread at a
time.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from o9.alerts.config.schema import Configuration, load
from o9.model.errors import OptimizationAlertError, OptimizationError

logger = logging.getLogger(__name__)
ANSWER_SECONDS = 5.0


class AlertsFile:
    """`check` may refuse a configuration for more than what is written in it, by an OptimizationError."""

    def __init__(self, path: str | None, check: Callable[[Configuration], None] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._text: bytes | None = None
        self._reading: Future[bytes] | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the file as it is now is not in force; empty where it is

    def look(self) -> bool:
        """Read the file. Returns whether another configuration is in force since."""
        if self._path is None:
            return False
        first = self._text is None
        try:
            text = self._read(self._path)
            changed = text != self._text
            if changed:
                configuration = load(text.decode(), str(self._path))
                self._check(configuration)
                self._text, self.configuration = text, configuration
        except (OSError, UnicodeDecodeError, OptimizationError) as error:
            why = str(error) if isinstance(error, OptimizationError) else f"{self._path} cannot be read: {error}"
            if first:
                raise OptimizationAlertError(f"O9_ALERTS_FILE: {why}") from error
            if why != self.fault:
                logger.error("%s; what was in force before stays so", why)
            self.fault = why
            return False
        if changed or self.fault:
            logger.log(logging.DEBUG if first else logging.INFO, "%s is in force", self._path)
        self.fault = ""
        return changed and not first

    def _read(self, path: Path) -> bytes:
        """Raises OSError. While one reading hangs, no other is begun."""
        seconds = ANSWER_SECONDS if self._reading is None else 0.0
        reading = self._reading = self._reading or _begun(path)
        try:
            return _answer(path, reading, seconds)
        finally:
            if reading.done():
                self._reading = None


def read_within(path: Path) -> bytes:
    """The file's bytes. Raises OSError for what is no regular file, and for one that does not answer in time."""
    return _answer(path, _begun(path), ANSWER_SECONDS)


def _answer(path: Path, reading: Future[bytes], seconds: float) -> bytes:
    wait((reading,), seconds)
    if not reading.done():
        raise OSError(f"no answer within {ANSWER_SECONDS:g} s: {str(path)!r}")
    return reading.result()


def _begun(path: Path) -> Future[bytes]:
    """In a thread that does not keep the process from ending."""
    reading: Future[bytes] = Future()

    def read() -> None:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise OSError(f"no regular file: {str(path)!r}")  # a pipe would be waited for
            reading.set_result(path.read_bytes())
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            reading.set_exception(error)

    threading.Thread(target=read, name="o9-alerts-file", daemon=True).start()
    return reading

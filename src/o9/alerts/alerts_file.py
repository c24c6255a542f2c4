"""The configuration in force: the file's, read again whenever it changes.

Contract. A file that cannot be read or has faults is refused, with its lines and reasons, and what was in force before
stays so; where nothing was, the first `look` raises. What is refused is said once, and again when it is another text.
Used by one thread at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from o9.alerts.configuration import Configuration, load
from o9.model.errors import OptimizationAlertError, OptimizationError

logger = logging.getLogger(__name__)


class AlertsFile:
    """`check` may refuse a configuration for more than what is written in it, by an OptimizationError."""

    def __init__(self, path: str | None, check: Callable[[Configuration], None] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._seen: tuple[int, ...] | None = None
        self._text: str | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the file as it is now is not in force; empty where it is

    def look(self) -> bool:
        """Read the file if it has changed; whether another configuration is in force since."""
        if self._path is None:
            return False
        first = self._seen is None
        seen = _identity(self._path)
        if seen == self._seen:
            return False
        try:
            text = self._path.read_text(encoding="utf-8")
            if text == self._text:
                self._seen = seen
                return False
            configuration = load(text, str(self._path))
            self._check(configuration)
        except (OSError, UnicodeDecodeError, OptimizationError) as error:
            self._refuse(error, first)
            self._seen = seen
            return False
        self._seen, self._text, self.fault = seen, text, ""
        self.configuration = configuration
        logger.log(logging.DEBUG if first else logging.INFO, "%s is in force", self._path)
        return not first

    def _refuse(self, error: Exception, first: bool) -> None:
        why = str(error) if isinstance(error, OptimizationError) else f"{self._path} cannot be read: {error}"
        if first:
            raise OptimizationAlertError(f"O9_ALERTS_FILE: {why}") from error
        if why != self.fault:
            logger.error("%s; what was in force before stays so", why)
        self.fault = why


def _identity(path: Path) -> tuple[int, ...]:
    """Differs where the file may have changed."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""The configuration in force: the file's, read again at each look.

Contract. A file that cannot be read or has faults is refused, with its lines and reasons, and what was in force before
stays so; where nothing was, the first `look` raises. A fault is logged once, and again when it is another. Used by one
thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from o9.alerts.config.schema import Configuration, load
from o9.model.errors import OptimizationAlertError, OptimizationError

logger = logging.getLogger(__name__)


class AlertsFile:
    """`check` may refuse a configuration for more than what is written in it, by an OptimizationError."""

    def __init__(self, path: str | None, check: Callable[[Configuration], None] = lambda _: None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._check = check
        self._text: bytes | None = None
        self.configuration = Configuration()
        self.fault = ""  # why the file as it is now is not in force; empty where it is

    def look(self) -> bool:
        """Read the file. Returns whether another configuration is in force since."""
        if self._path is None:
            return False
        first = self._text is None
        try:
            text = read_file(self._path)
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


def read_file(path: Path) -> bytes:
    """Raises OSError, also for what is no regular file: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise OSError(f"no regular file: {str(path)!r}")
    return path.read_bytes()

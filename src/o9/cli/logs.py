"""Where logs go while a display owns the terminal: above the bars, and only what a person has to know."""

from __future__ import annotations

import copy
import logging
import sys
from typing import IO

from rich.console import Console
from rich.file_proxy import FileProxy

from o9.cli import failures
from o9.model.logs import configure_logging
from o9.model.settings import settings


def log_through(console: Console) -> None:
    """Send O9's and Prefect's console logs through `console`: warnings and errors, unless more was asked for.

    Prefect's own record of the logs, which its UI shows, is not touched. To be called once Prefect is imported.
    """
    stream: IO[str] = FileProxy(console, sys.stderr)  # type: ignore[assignment]
    level = "DEBUG" if failures.debug else _asked_for() or "WARNING"
    configure_logging(level, stream=stream)
    names = ("", *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NOISY))
    for handler in (handler for name in names for handler in logging.getLogger(name).handlers):
        # By attribute: the handler's class is Prefect's, which this room does not know.
        if hasattr(handler, "console"):
            handler.console.file = stream
            handler.setLevel(level)
        if not failures.debug and (hasattr(handler, "console") or handler.get_name() == "o9"):
            handler.setFormatter(_WithoutTraceback(handler.formatter or logging.Formatter()))


class _WithoutTraceback(logging.Formatter):
    """As `inner`, with the last line of a traceback in its place; --debug shows it whole."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[0] is None:
            return self._inner.format(record)
        brief = copy.copy(record)
        brief.exc_info = brief.exc_text = None
        kind, error, _ = record.exc_info
        return f"{self._inner.format(brief)} ({kind.__name__}: {failures.one_line(str(error))})"


def _asked_for() -> str | None:
    return settings().log_level if "log_level" in settings().model_fields_set else None


_NOISY = ("o9", "prefect", "uvicorn", "fastapi")

"""The console logs of commands that run optimizations.

While a display owns the terminal, logs appear above its bars: warnings and errors, unless more is asked for. What
objectives print appears there, too, each line with its trial; `o9 logs` prints what is kept of it. Call both functions
after Prefect was imported.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from typing import IO

from rich.console import Console
from rich.file_proxy import FileProxy

from o9.cli import failures
from o9.model.logs import ROOT, JsonFormatter, configure_logging, ids_of
from o9.model.settings import settings
from o9.text.escape import shortened, shown
from o9.workers.output import LOGGER, pass_on

MOST_CHARACTERS = 400
_NOISY = ("o9", "prefect", "uvicorn", "fastapi")


def log_through(console: Console, title_of: Callable[[str], str], *, prints: bool = True) -> None:
    """Send O9's and Prefect's console logs, and what objectives print, through `console`.

    title_of: the title of an optimization, printed before its output, by its id. prints: whether to show that output.
    The logs that Prefect's UI shows are not affected.
    """
    pass_on(False)
    stream: IO[str] = FileProxy(console, sys.stderr)  # type: ignore[assignment]
    asked = settings().log_level if "log_level" in settings().model_fields_set else "WARNING"
    level = "DEBUG" if failures.verbose else asked
    configure_logging(level, stream=stream)
    least = logging.getLevelNamesMapping()[level]

    def is_wanted(record: logging.LogRecord) -> bool:
        return prints if record.name == LOGGER.name else record.levelno >= least

    ours, prefects = _ours(), _console_handlers_of_prefect()
    for handler in ours:
        handler.addFilter(is_wanted)
        handler.setLevel(min(least, logging.INFO))
    for handler in prefects:
        handler.console.file = stream  # type: ignore[attr-defined]
        handler.setLevel(level)
    for handler in [*prefects, *ours]:
        if not isinstance(handler.formatter, JsonFormatter):
            handler.setFormatter(_Readable(handler.formatter or logging.Formatter(), title_of))
        if not failures.verbose:
            handler.addFilter(_is_news)


def log_lines() -> None:
    """Log for days to stderr: O9's logs and Prefect's warnings, as text or JSON as the settings say."""
    pass_on(False)
    configure_logging("DEBUG" if failures.verbose else None)
    formatter = _ours()[0].formatter
    for handler in _console_handlers_of_prefect():
        handler.setFormatter(formatter)
        handler.setLevel("DEBUG" if failures.verbose else "WARNING")
        if not failures.verbose:
            handler.addFilter(_is_news)


def _console_handlers_of_prefect() -> list[logging.Handler]:
    """Found by an attribute: their class is Prefect's, which this room does not know."""
    noisy = ["", *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NOISY)]
    handlers = (handler for name in noisy for handler in logging.getLogger(name).handlers)
    return [handler for handler in handlers if hasattr(handler, "console")]


def _ours() -> list[logging.Handler]:
    return [handler for handler in ROOT.handlers if handler.get_name() == "o9"]


class _Readable(logging.Formatter):
    """Formats objectives' output as it was printed, with its title, and everything else by `inner`.

    Without --verbose, a record is one line, and the exception replaces its traceback.
    """

    def __init__(self, inner: logging.Formatter, title_of: Callable[[str], str]) -> None:
        super().__init__()
        self._inner = inner
        self._title_of = title_of

    def format(self, record: logging.LogRecord) -> str:
        if record.name == LOGGER.name:
            title = self._title_of(str(ids_of(record).get("optimization", "")))
            return shown((f"{title}, " if title else "") + record.getMessage().expandtabs())
        if failures.verbose:
            return self._inner.format(record)
        brief = copy.copy(record)
        brief.exc_info = brief.exc_text = None
        text = self._inner.format(brief)
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__}: {record.exc_info[1]})"
        return shortened(text, MOST_CHARACTERS)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for Prefect's messages about runs, which the bars, the summary and `o9 open` show."""
    return not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))

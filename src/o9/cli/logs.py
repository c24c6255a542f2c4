"""Where logs go while a display owns the terminal: above the bars, and only what a person has to know."""

from __future__ import annotations

import copy
import logging
import sys
from typing import IO

from rich.console import Console
from rich.file_proxy import FileProxy

from o9.cli import failures
from o9.model.logs import ROOT, configure_logging
from o9.model.settings import settings


def log_through(console: Console, *, prefect_has_pages: bool = True) -> None:
    """Send O9's and Prefect's console logs through `console`: warnings and errors, unless more was asked for.

    Prefect's own record of the logs, which its UI shows, is not touched. To be called once Prefect is imported.
    prefect_has_pages: False for the local server, which has no UI that its links could lead to.
    """
    stream: IO[str] = FileProxy(console, sys.stderr)  # type: ignore[assignment]
    level = "DEBUG" if failures.debug else _asked_for() or "WARNING"
    configure_logging(level, stream=stream)
    prefects = _console_handlers_of_prefect()
    for handler in prefects:
        handler.console.file = stream  # type: ignore[attr-defined]
        handler.setLevel(level)
        if not prefect_has_pages:
            handler.addFilter(_is_no_link)
    for handler in [*prefects, *(handler for handler in ROOT.handlers if handler.get_name() == "o9")]:
        if not failures.debug:
            handler.setFormatter(_OneLine(handler.formatter or logging.Formatter()))
            handler.addFilter(_is_news)


def log_lines() -> None:
    """For what runs for days: O9's logs and Prefect's warnings on stderr, as the settings want them, text or JSON.

    To be called once Prefect is imported.
    """
    configure_logging("DEBUG" if failures.debug else None)
    formatter = next(handler.formatter for handler in ROOT.handlers if handler.get_name() == "o9")
    for handler in _console_handlers_of_prefect():
        handler.setFormatter(formatter)
        handler.setLevel("DEBUG" if failures.debug else "WARNING")
        if not failures.debug:
            handler.addFilter(_is_news)


def _console_handlers_of_prefect() -> list[logging.Handler]:
    """By attribute: their class is Prefect's, which this room does not know."""
    handlers = (handler for name in _noisy() for handler in logging.getLogger(name).handlers)
    return [handler for handler in handlers if hasattr(handler, "console")]


def _noisy() -> list[str]:
    return ["", *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NOISY)]


class _OneLine(logging.Formatter):
    """As `inner`, with the last line of a traceback in its place, cut to one line; --debug shows it whole."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        brief = copy.copy(record)
        brief.exc_info = brief.exc_text = None
        text = self._inner.format(brief)
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__}: {record.exc_info[1]})"
        return failures.shortened(text)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Prefect says of every run that fails: the bars and the summary say it, with its cause."""
    of_a_run = record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
    return not (of_a_run and str(record.msg).startswith(_SAID_ELSEWHERE))


def _is_no_link(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("View at ")


def _asked_for() -> str | None:
    return settings().log_level if "log_level" in settings().model_fields_set else None


_SAID_ELSEWHERE = ("Finished in state", "Encountered exception", "Task run failed")
_NOISY = ("o9", "prefect", "uvicorn", "fastapi")

"""Structured logs: text, or one JSON object a line, with the ids of the optimization, attempt and step.

Passwords in URLs are hidden, also in exceptions of libraries. O9 logs to the logger `o9`, and shows nothing by itself:
programs call `configure_logging`.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

from o9.model.settings import settings
from o9.model.urls import public_text

_ids: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("o9_log_ids", default={})  # noqa: B039 - never changed in place
ROOT = logging.getLogger("o9")
ROOT.addHandler(logging.NullHandler())


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Add ids, such as `optimization=…, attempt=…`, to all log records of this task or thread."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def bound_ids() -> dict[str, Any]:
    """The ids that are bound here. Log with them from another thread by `extra={"o9": ids}`."""
    return _ids.get()


def configure_logging(level: str | None = None, format: str | None = None, stream: IO[str] | None = None) -> None:
    """Show O9's logs on `stream` (stderr). None takes level or format from the settings. May be called again."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if (format or settings().log_format) == "json" else TextFormatter())
    handler.set_name("o9")
    for old in [h for h in ROOT.handlers if h.get_name() == "o9"]:
        ROOT.removeHandler(old)
    handler.setLevel(level or settings().log_level)
    ROOT.addHandler(handler)
    # The handler's level filters the stream alone: Prefect's log of a run keeps the level of the settings.
    ROOT.setLevel(min(handler.level, logging.getLevelNamesMapping()[settings().log_level]))
    ROOT.propagate = False


class TextFormatter(logging.Formatter):
    """`15:04:05.123 INFO o9.flows  started  optimization=… attempt=1`"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        ids = " ".join(f"{key}={value}" for key, value in ids_of(record).items())
        text = f"{at} {record.levelname} {record.name}  {record.getMessage()}" + (f"  {ids}" if ids else "")
        return public_text(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, the ids, and the exception, if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": public_text(record.getMessage()),
            "node": settings().node_id,
            **ids_of(record),
        }
        if record.exc_info:
            line["exception"] = public_text(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def ids_of(record: logging.LogRecord) -> dict[str, Any]:
    """The ids of a log record."""
    return {**bound_ids(), **getattr(record, "o9", {})}

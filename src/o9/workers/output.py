"""Captures what users' code prints and logs: as log lines, and as text to store, both limited.

Contract. Output goes line by line to the logger `o9.objective`; the excess is counted and reported at the end. The
stored text has its own limit (KEPT_BYTES). One `PrintedLines` serves one evaluation. Of a line overwritten by carriage
returns, as by progress bars, the last version counts; a line that was blanked does not count.

Child processes print into a pipe. In the event loop, `captured` takes what one task and the tasks it starts write to
`sys.stdout` and `sys.stderr`, and the records that they log. With `pass_on(False)` this output no longer reaches the
streams themselves, for a program that shows the log lines.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from o9.model.trial import Output
from o9.model.urls import public_text

LINES_PER_EVALUATION = 200
LINE_LENGTH = 2_000
KEPT_BYTES = 64 << 10
LOGGER = logging.getLogger("o9.objective")
# With escape sequences and carriage returns, printed text could forge or hide lines of a log.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class PrintedLines:
    """Cuts a stream of bytes into log lines. `label` is their prefix; None: they are not logged."""

    def __init__(self, label: str | None) -> None:
        self._label = label
        self._pending = bytearray()
        self._logged = 0
        self._dropped_bytes = 0
        self._kept: list[str] = []
        self._room = KEPT_BYTES
        self._cut = 0

    def feed(self, data: bytes) -> None:
        """Take the next output."""
        if self._logged >= LINES_PER_EVALUATION and self._room <= 0:
            self._dropped_bytes += len(data)
            self._cut += len(data)
            return
        self._pending += data
        *lines, rest = map(_last_written, self._pending.split(b"\n"))
        if len(rest) > LINE_LENGTH:
            lines.append(rest)
            rest = bytearray()
        self._pending = rest
        for line in lines:
            self._take(line)

    def end(self) -> Output | None:
        """Log the rest and the number of bytes left out. Returns the text to store; None if nothing was printed."""
        if self._pending:
            self._take(self._pending)
            self._pending = bytearray()
        if self._dropped_bytes and self._label is not None:
            LOGGER.warning(
                "%s: %d more bytes were printed, not shown (the limit for an evaluation is %d lines of %d characters)",
                self._label, self._dropped_bytes, LINES_PER_EVALUATION, LINE_LENGTH,
            )  # fmt: skip
            self._dropped_bytes = 0
        if not self._kept and not self._cut:
            return None
        return Output("".join(self._kept), self._cut)

    def _take(self, line: bytes | bytearray) -> None:
        text = _CONTROL.sub("�", line.decode("utf-8", "replace").rstrip())
        if not text and line.endswith(b"\r") and line != b"\r":
            return  # a progress bar that was blanked
        self._keep(public_text(text) + "\n")
        if self._logged >= LINES_PER_EVALUATION:
            self._dropped_bytes += len(line) + 1
            return
        self._logged += 1
        self._dropped_bytes += max(0, len(text) - LINE_LENGTH)
        if self._label is not None:
            LOGGER.info("%s: %s", self._label, text[:LINE_LENGTH])

    def _keep(self, text: str) -> None:
        data = text.encode()
        kept = data[: max(0, self._room)].decode(errors="ignore")
        self._cut += len(data) - len(kept.encode())
        self._room -= len(data)
        if kept:
            self._kept.append(kept)


def _last_written(line: bytearray) -> bytearray:
    """Return what follows the last carriage return of a line, except one at its end."""
    return line[line.rfind(b"\r", 0, len(line.rstrip(b"\r"))) + 1 :]


def pass_on(wanted: bool) -> None:
    """Set whether output captured in the event loop also goes to the streams, as by default."""
    _Stream.passes_on = wanted


@contextmanager
def captured(label: str | None) -> Iterator[PrintedLines]:
    """Capture what is printed and logged in this block by this task."""
    lines = PrintedLines(label)
    _streams.take()
    token = _lines.set(lines)
    try:
        yield lines
    finally:
        _lines.reset(token)
        _streams.give_back()
        lines.end()


_lines: contextvars.ContextVar[PrintedLines | None] = contextvars.ContextVar("o9_printed_lines", default=None)


def _feed(text: str) -> bool:
    """Add to the caller's captured output. Returns whether it is captured. The resulting log lines are not captured."""
    lines = _lines.get()
    if lines is None:
        return False
    token = _lines.set(None)
    try:
        lines.feed(text.encode("utf-8", "backslashreplace"))
    finally:
        _lines.reset(token)
    return True


class _Stream:
    """Takes the place of `sys.stdout` or `sys.stderr` while output is captured."""

    passes_on = True

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        if _feed(text) and not self.passes_on:
            return len(text)
        return int(self.inner.write(text) or len(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Records(logging.Handler):
    """A handler of the root logger while output is captured."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("o9."):
            _feed(self.format(record) + "\n")


class _Streams:
    """Replaces the standard streams while output is captured. A stream that users' code sets meanwhile stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._records = _Records()
        self._records.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def take(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                for name in ("stdout", "stderr"):
                    if (stream := getattr(sys, name)) is not None and not isinstance(stream, _Stream):
                        setattr(sys, name, _Stream(stream))
                logging.getLogger().addHandler(self._records)

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for name in ("stdout", "stderr"):
                    if isinstance(stream := getattr(sys, name), _Stream):
                        setattr(sys, name, stream.inner)
                logging.getLogger().removeHandler(self._records)


_streams = _Streams()

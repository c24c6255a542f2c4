"""The built-in channels: the log, the console, a file that is rotated.

Contract. Each writes a notice as plain text. No text in an alert can forge an entry: a record of the log is one line,
and in the console and the file every line of an entry but its first is indented.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from o9.alerts.channels.outcome import MessageChannel
from o9.alerts.messages.render import Message
from o9.alerts.pipeline.alert import Alert
from o9.model.files import private
from o9.model.settings import settings
from o9.model.states import AlertLevel
from o9.text.escape import chat_line
from o9.text.format import moment

logger = logging.getLogger("o9.alerts")
SECONDS = 10.0
FILE_BYTES = 5 * 2**20
FILES_KEPT = 5
IDS_LOGGED = 10

_shown: Callable[[Alert], bool] | None = None


def show_only(wanted: Callable[[Alert], bool] | None) -> None:
    """What the log and the console of this process show of all that goes through them; None: everything.

    For a program that a person watches, and that is about few optimizations of the store. All of it counts as sent.
    """
    global _shown
    _shown = wanted


def _shown_here(message: Message) -> Message | None:
    if _shown is None:
        return message
    notice = message.notice
    firing, resolved = (tuple(filter(_shown, alerts)) for alerts in (notice.firing, notice.resolved))
    if not firing and not resolved:
        return None
    known = sum(map(_shown, notice.firing[len(notice.new) :]))
    return message.about(replace(notice, firing=firing, resolved=resolved, known=known))


_ANSI = {AlertLevel.INFO: 36, AlertLevel.WARNING: 33, AlertLevel.ERROR: 31, AlertLevel.CRITICAL: 91}
_ANSI_RESOLVED = 32


class LogChannel(MessageChannel):
    """Logger `o9.alerts`: one record for each notice, at its level; INFO once all of it is resolved."""

    def __init__(self) -> None:
        super().__init__("log", SECONDS, at_once=1)

    def _write(self, given: Message) -> None:
        if (message := _shown_here(given)) is None:
            return
        notice = message.notice
        alerts = [each.alert_id for each in notice.news_first[:IDS_LOGGED]]
        ids = {"receiver": notice.receiver, "kind": notice.kind.value, "alerts": alerts}
        logger.log(_level_of(message), "%s | %s", message.title, chat_line(message.body()), extra={"o9": ids})


class ConsoleChannel(MessageChannel):
    """The program's stderr at the time of the send; coloured if that is a terminal and NO_COLOR is not set.

    logged: whether a receiver is notified through the log as well. A message that the program's own logging shows on
    the same stream is not printed twice.
    """

    def __init__(
        self, stream: Callable[[], TextIO] | None = None, logged: Callable[[str], bool] = lambda _: False
    ) -> None:
        super().__init__("console", SECONDS, at_once=1)
        self._stream = stream or (lambda: sys.stderr)
        self._logged = logged

    def _write(self, given: Message) -> None:
        if (message := _shown_here(given)) is None:
            return
        stream = self._stream()
        if self._logged(message.notice.receiver) and _log_is_shown_on(stream, _level_of(message)):
            return
        title = message.title
        if stream.isatty() and not os.environ.get("NO_COLOR"):
            title = f"\x1b[1;{_ANSI_RESOLVED if message.over else _ANSI[message.level]}m{title}\x1b[0m"
        text = f"{title}\n{_indented(message.body())}\n"
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()


class FileChannel(MessageChannel):
    """A file (None: O9_ALERTS_LOG). Above `most_bytes` it is renamed to `NAME.1`, and older ones up to `NAME.kept`.
    Several processes may write to it.
    """

    def __init__(self, path: str | Path | None = None, most_bytes: int = FILE_BYTES, kept: int = FILES_KEPT) -> None:
        super().__init__("file", SECONDS, at_once=1)
        self._path = Path(path or settings().alerts_log).expanduser()
        self._most_bytes = most_bytes
        self._kept = kept

    def _write(self, message: Message) -> None:
        entry = f"{moment(message.notice.at)}  {message.title}\n{_indented(message.body())}\n".encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path.with_name(f"{self._path.name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.exists() and self._path.stat().st_size + len(entry) > self._most_bytes:
                self._rotate()
            with open(self._path, "ab", opener=private) as file:
                file.write(entry)

    def _rotate(self) -> None:
        old = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        for newer, older in zip(reversed(old[:-1]), reversed(old[1:]), strict=True):
            if newer.exists():
                newer.replace(older)


def _level_of(message: Message) -> int:
    level: int = logging.INFO if message.over else getattr(logging, message.level.name)
    return level


def _log_is_shown_on(stream: TextIO, level: int) -> bool:
    """Whether a record of the channel `log` goes to this stream, by the handlers that the program has."""
    if not logger.isEnabledFor(level):
        return False
    at: logging.Logger | None = logger
    while at is not None:
        there = (each for each in at.handlers if _bare(getattr(each, "stream", None)) is _bare(stream))
        if any(level >= handler.level for handler in there):
            return True
        at = at.parent if at.propagate else None
    return False


def _bare(stream: object) -> object:
    """The stream behind a proxy of Rich's live display."""
    return getattr(stream, "rich_proxied_file", stream)


def _indented(text: str) -> str:
    return "\n".join(f"  {each}" if each else "" for each in text.split("\n"))

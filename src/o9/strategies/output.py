"""What users' code prints in a child process, as log lines: bounded in length, in number and in volume.

Contract. Bytes in, lines to the logger `o9.objective`; what is over the limits is counted and said at the end, never
logged. One instance serves one evaluation.
"""

from __future__ import annotations

import logging
import re

LINES_PER_EVALUATION = 200
LINE_LENGTH = 2_000
LOGGER = logging.getLogger("o9.objective")
# Escape sequences and carriage returns would let printed text forge or hide lines of a log.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class PrintedLines:
    """Cuts a stream of bytes into log lines. `label` says whose they are."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._pending = bytearray()
        self._logged = 0
        self._dropped_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what was printed next."""
        if self._logged >= LINES_PER_EVALUATION:
            self._dropped_bytes += len(data)
            return
        self._pending += data
        *lines, rest = self._pending.split(b"\n")
        if len(rest) > LINE_LENGTH:
            lines.append(rest)
            rest = bytearray()
        self._pending = bytearray(rest)
        for line in lines:
            self._log(line)

    def end(self) -> None:
        """Log what is left, and how much was not shown."""
        if self._pending:
            self._log(self._pending)
            self._pending = bytearray()
        if self._dropped_bytes:
            LOGGER.warning(
                "%s: printed %d bytes more, not shown (the limit is %d lines of %d characters for each evaluation)",
                self._label,
                self._dropped_bytes,
                LINES_PER_EVALUATION,
                LINE_LENGTH,
            )

    def _log(self, line: bytes | bytearray) -> None:
        if self._logged >= LINES_PER_EVALUATION:
            self._dropped_bytes += len(line) + 1
            return
        self._logged += 1
        self._dropped_bytes += max(0, len(line) - LINE_LENGTH)
        text = line[:LINE_LENGTH].decode("utf-8", "replace").rstrip()
        LOGGER.info("%s: %s", self._label, _CONTROL.sub("�", text))

"""What keeps a loop going: whatever one pass raises is logged, and the next pass comes."""

from __future__ import annotations

import logging
from types import TracebackType

from o9.model.errors import OptimizationError

LEAST_SECONDS = 0.5  # between two looks, however small the interval that a user gives


class ErrorBoundary:
    """Around each pass of a loop that must outlive every error: `with boundary:`.

    The first failure is logged, then only failures of another kind, until a pass succeeds. Cancellation and interrupts
    go through.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        """`what` could not be done: `looking at what runs`."""
        self._logger = logger
        self._what = what
        self.error: Exception | None = None  # of the last pass

    def __enter__(self) -> None:
        """A boundary belongs to one loop: its passes never overlap."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None:
            self._tell(error)
        self.error = error
        return error is not None

    def _tell(self, error: Exception) -> None:
        if type(error) is type(self.error):
            self._logger.debug("%s still fails: %s", self._what, error)
        elif isinstance(error, OptimizationError):
            self._logger.warning("%s failed, trying again: %s", self._what, error)
        else:
            self._logger.error("%s failed, trying again: %r", self._what, error, exc_info=error)

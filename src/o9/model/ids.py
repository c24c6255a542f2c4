"""The ids of what is being worked on, for every log record that is made inside, in this task or thread.

`bound(optimization=…, attempt=…, step=…)`, whichever module logs; `o9.model.logs` shows them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ids: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("o9_log_ids", default={})  # noqa: B039 - never changed in place


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Add ids to all log records made inside."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def bound_ids() -> dict[str, Any]:
    """The ids bound here. To log with them from another thread: `extra={"o9": ids}`."""
    return _ids.get()

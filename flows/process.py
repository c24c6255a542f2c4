"""What a flow run does to the process that it runs in: each flow of O9 calls `run_begins` first.

Its logs reach Prefect, and SIGTERM goes back to whoever handled it. While it runs a flow, Prefect handles the signal by
an error, which is raised in whatever the main thread does then. That is right in a process of the flow's own. A node
says by `running_beside` that its process is not one; there the signal is Prefect's only for the moment in which its
server hears that the run begins.
"""

from __future__ import annotations

import signal
import threading
from contextvars import ContextVar
from typing import Any

from prefect.utilities.engine import is_prefect_sigterm_handler_installed

from o9.tasks.run_logs import forward_to_prefect, keep_engine_off_console

FLOWS = frozenset({
    "optimization-lifecycle", "check-health", "compute-statistics", "deliver-alerts", "prune-history",
    "reconcile-states",
})  # fmt: skip
_beside: ContextVar[bool] = ContextVar("o9-beside", default=False)
_handled_before: Any = None


def running_beside() -> None:
    """The flows that the caller's task runs from here on leave SIGTERM to whoever handles it now."""
    global _handled_before
    _beside.set(True)
    keep_engine_off_console(FLOWS)
    if not is_prefect_sigterm_handler_installed():  # it is, for a moment, where another flow begins
        _handled_before = signal.getsignal(signal.SIGTERM)


def run_begins() -> None:
    forward_to_prefect()
    if not _beside.get() or _handled_before is None or threading.current_thread() is not threading.main_thread():
        return
    if is_prefect_sigterm_handler_installed():
        signal.signal(signal.SIGTERM, _handled_before)

"""O9's own log records in Prefect's run logs: what is logged inside a flow or task run is shown with that run.

What Prefect's engine says of each run of a node's flows ("Finished in state Completed()") is recorded, but kept off the
console, where it would bury what matters. O9_LOG_LEVEL=DEBUG, or `o9 -v`, shows it.

Contract. `forward_to_prefect` may be called again and then does nothing. What is logged outside of a run does not reach
Prefect. Prefect's settings (PREFECT_LOGGING_TO_API_ENABLED and the like) count.
"""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from o9.model.logs import ROOT
from o9.model.settings import settings

_NAME = "o9-prefect-run"
_quiet: set[str] = set()  # names of flows


class _RunLogHandler(APILogHandler):
    def emit(self, record: logging.LogRecord) -> None:
        # Prefect's own handler warns of each record that belongs to no run.
        if TaskRunContext.get() is not None or FlowRunContext.get() is not None:
            super().emit(record)


def keep_engine_off_console(flow: str) -> None:
    """From now on, for the flow of this name. May be called again."""
    _quiet.add(flow)
    if settings().log_level == "DEBUG" or ROOT.isEnabledFor(logging.DEBUG):
        return
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "console") and not any(isinstance(each, _NotOfEngine) for each in handler.filters):
            handler.addFilter(_NotOfEngine())


class _NotOfEngine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "flow_name", None) not in _quiet:
            return True
        return not str(record.msg).startswith(_ENGINE_SAYS)


_ENGINE_SAYS = ("Finished in state", "Beginning flow run", "Beginning subflow run", "Created task run", "View at")


def forward_to_prefect() -> None:
    """From now on, records of the logger `o9` and those below it reach the run that they were logged in."""
    if any(handler.get_name() == _NAME for handler in ROOT.handlers):
        return
    handler = _RunLogHandler()
    handler.set_name(_NAME)
    ROOT.addHandler(handler)
    if ROOT.level == logging.NOTSET:
        # Left alone, it would inherit WARNING from Python's root logger, and a run would show nothing of its course.
        ROOT.setLevel(settings().log_level)

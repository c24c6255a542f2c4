"""Sends O9's log records to Prefect, which shows those of a flow or task run with that run.

Messages of Prefect's engine about each run of a node's flows ("Finished in state Completed()") are recorded, but kept
off the console. O9_LOG_LEVEL=DEBUG, or `o9 -v`, shows them.

Contract. A second call of `forward_to_prefect` does nothing. Records from outside of a run do not reach Prefect.
Prefect's settings, such as PREFECT_LOGGING_TO_API_ENABLED, apply.
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
        # Prefect's handler warns of each record that belongs to no run.
        if TaskRunContext.get() is not None or FlowRunContext.get() is not None:
            super().emit(record)


def hide_engine_messages(flow: str) -> None:
    """Keep the engine's messages about the flow of this name off the console. May be called again."""
    _quiet.add(flow)
    if settings().log_level == "DEBUG" or ROOT.isEnabledFor(logging.DEBUG):
        return
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "console") and not any(isinstance(each, _EngineFilter) for each in handler.filters):
            handler.addFilter(_EngineFilter())


class _EngineFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "flow_name", None) not in _quiet:
            return True
        return not str(record.msg).startswith(_ENGINE_MESSAGES)


_ENGINE_MESSAGES = ("Finished in state", "Beginning flow run", "Beginning subflow run", "Created task run", "View at")


def forward_to_prefect() -> None:
    """Send records of the logger `o9` and its children to the run that they are logged in."""
    if any(handler.get_name() == _NAME for handler in ROOT.handlers):
        return
    handler = _RunLogHandler()
    handler.set_name(_NAME)
    ROOT.addHandler(handler)
    if ROOT.level == logging.NOTSET:
        # Otherwise it would inherit WARNING from Python's root logger, and a run would show no progress.
        ROOT.setLevel(settings().log_level)

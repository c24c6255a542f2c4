"""O9's own log records in Prefect's run logs: what is logged inside a flow or task run is shown with that run.

Contract. `forward_to_prefect` may be called again and then does nothing. What is logged outside of a run goes nowhere
near Prefect. Prefect's settings (PREFECT_LOGGING_TO_API_ENABLED and the like) count.
"""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from o9.model.logs import ROOT
from o9.model.settings import settings

_NAME = "o9-prefect-run"


class _RunLogHandler(APILogHandler):
    def emit(self, record: logging.LogRecord) -> None:
        # Prefect's own handler warns of each record that belongs to no run.
        if TaskRunContext.get() is not None or FlowRunContext.get() is not None:
            super().emit(record)


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

"""Custom rules: users' functions that may change a report.

Contract. A rule gets a copy of the report. Its changes count only if it returns in time and leaves a valid report. A
sync rule runs in its own thread, which is abandoned if it hangs; an async rule runs in the event loop, and is
cancelled. Only an async rule that blocks the event loop cannot be stopped.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from o9.health.checks.check import PARTS
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationHealthReport
from o9.model.search_space import is_number
from o9.user_code.calls import Calls, TooLong

logger = logging.getLogger(__name__)
RULE_SECONDS = 30.0

Rule = Callable[[str, OptimizationHealthReport], Any]


async def apply_rule(
    rule: Rule, report: OptimizationHealthReport, seconds: float = RULE_SECONDS
) -> OptimizationHealthReport:
    """Return the report as the rule left it; if the rule failed, the report as it was, with an issue that names it."""
    name = name_of(rule)
    mine = OptimizationHealthReport.from_dict(report.to_dict())
    awaits = inspect.iscoroutinefunction(rule)
    call = partial(_awaited, rule) if awaits else rule
    try:
        await Calls(f"health rule {name}").run(lambda: call(report.optimization_id, mine), seconds, awaits=awaits)
    except TooLong:
        return _failed(report, name, f"it took over {seconds:g} s")
    except Exception as error:
        logger.warning("the health rule %s failed", name, exc_info=error)
        return _failed(report, name, f"it raised {type(error).__name__}: {error}"[:500])
    try:
        return _checked(mine, report)
    except (TypeError, ValueError, RecursionError) as error:
        return _failed(report, name, f"it left an invalid report: {error}"[:500])


def name_of(rule: Rule) -> str:
    return str(getattr(rule, "__qualname__", None) or type(rule).__qualname__)


async def _awaited(rule: Rule, optimization_id: str, report: OptimizationHealthReport) -> None:
    try:
        await rule(optimization_id, report)
    except SystemExit as error:  # in a task it would end the event loop
        raise RuntimeError("it called sys.exit") from error


def _checked(mine: OptimizationHealthReport, before: OptimizationHealthReport) -> OptimizationHealthReport:
    """Return the rule's report if it is valid: scores 0 to 1 or None, and JSON values. Id and time are restored."""
    mine.optimization_id, mine.timestamp = before.optimization_id, before.timestamp
    fields = mine.to_dict()
    for part in PARTS:
        score = fields[f"{part}_score"]
        if score is not None and not (is_number(score) and 0 <= score <= 1):
            raise OptimizationValidationError(
                f"{part}_score", f"{score!r:.80} is neither a number from 0 to 1 nor None"
            )
    for name in ("issues", "recommendations"):
        if not isinstance(fields[name], list) or not all(isinstance(one, str) for one in fields[name]):
            raise OptimizationValidationError(name, "it is not a list of strings")
    if not isinstance(fields["suspend"], str):
        raise OptimizationValidationError("suspend", f"{fields['suspend']!r:.80} is not a string with the reason")
    json.dumps(fields, allow_nan=False)
    return OptimizationHealthReport.from_dict(fields)


def _failed(report: OptimizationHealthReport, name: str, why: str) -> OptimizationHealthReport:
    return replace(
        report,
        issues=[*report.issues, f"rule {name}: {why}; its changes to this report are discarded"],
        recommendations=[*report.recommendations, f"rule {name}: fix it, or do not register it"],
    )

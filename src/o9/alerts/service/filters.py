"""Users' own rules, called for each alert before it is recorded: only False drops it.

Contract. A rule gets a copy. It has a limited time for all alerts that arrived together, and is not called while an
earlier call hangs (`o9.user_code.calls`). A rule that fails drops nothing: the error is logged, once until it succeeds.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.strategies.registry import is_async
from o9.user_code.calls import Calls, Unanswered

logger = logging.getLogger(__name__)
RULE_SECONDS = 10.0  # for all alerts that arrived together

FilterFunction = Callable[[OptimizationAlert], Any]


class AlertFilters:
    """The rules, in the order of their registration."""

    def __init__(self, seconds: float = RULE_SECONDS) -> None:
        self._seconds = seconds
        self._rules: list[_Filter] = []

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, rule: FilterFunction) -> None:
        """Raises OptimizationValidationError for what cannot be called."""
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} cannot be called; give a function of one alert")
        self._rules.append(_Filter(rule, self._seconds))

    async def dropped(self, alerts: Sequence[OptimizationAlert]) -> dict[int, str]:
        """Which of `alerts` are dropped, by their place, and by which rule."""
        dropped: dict[int, str] = {}
        for rule in self._rules:
            left = [place for place in range(len(alerts)) if place not in dropped]
            answers = await rule.answers([copy.deepcopy(alerts[place]) for place in left])
            dropped |= {place: rule.name for place, answer in zip(left, answers, strict=True) if answer is False}
        return dropped


class _Filter:
    def __init__(self, rule: FilterFunction, seconds: float) -> None:
        self.name = str(getattr(rule, "__qualname__", None) or type(rule).__qualname__)
        self._rule = rule
        self._seconds = seconds
        self._calls = Calls(f"alert rule {self.name}", at_once=1)
        self._failed = False

    async def answers(self, alerts: Sequence[OptimizationAlert]) -> list[Any]:
        """For each alert; an error, which drops nothing, where the rule failed or hangs."""
        awaits = is_async(self._rule)
        ask = (lambda: self._awaited(alerts)) if awaits else (lambda: list(map(self._answer, alerts)))
        try:
            answers: list[Any] = await self._calls.run(ask, self._seconds, awaits=awaits)
        except (Unanswered, RuntimeError) as error:
            answers = [error] * len(alerts)
        failure = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failure is not None:
            level = logging.DEBUG if self._failed else logging.ERROR
            what = f"{type(failure).__name__}: {failure}"
            logger.log(level, "the alert rule %s failed, and drops nothing: %s", self.name, what)
        self._failed = failure is not None
        return answers

    async def _awaited(self, alerts: Sequence[OptimizationAlert]) -> list[Any]:
        answers: list[Any] = []
        for alert in alerts:
            try:
                answers.append(await self._rule(alert))
            except Exception as error:  # noqa: BLE001 - a user's rule: what it raises is its answer
                answers.append(error)
        return answers

    def _answer(self, alert: OptimizationAlert) -> Any:
        try:
            return self._rule(alert)
        except Exception as error:  # noqa: BLE001 - as above
            return error

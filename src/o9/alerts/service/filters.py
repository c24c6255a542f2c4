"""Users' own rules, called for each alert before it is recorded: only False drops it.

Contract. A rule gets a copy. It works for a limited time, and as long as a call hangs it is not asked again
(`o9.user_code.calls`). A rule that fails drops nothing: the error is logged, and the alert goes on. Alerts that a rule
itself sends are not filtered: it would wait for itself.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.strategies.registry import is_async
from o9.user_code.calls import Calls, Unanswered

logger = logging.getLogger(__name__)
RULE_SECONDS = 10.0  # for all alerts that arrived together

FilterFunction = Callable[[OptimizationAlert], Any]


_filtering: ContextVar[bool] = ContextVar("o9_alert_rule", default=False)


def is_filtering() -> bool:
    """Whether this is called by a rule."""
    return _filtering.get()


@contextmanager
def _in_a_filter() -> Iterator[None]:
    token = _filtering.set(True)
    try:
        yield
    finally:
        _filtering.reset(token)


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
        self._rules.append(_Filter(rule))

    async def dropped(self, alerts: Sequence[OptimizationAlert]) -> dict[int, str]:
        """Which of `alerts` are dropped, by their place, and by which rule."""
        dropped: dict[int, str] = {}
        for rule in self._rules:
            left = [place for place in range(len(alerts)) if place not in dropped]
            answers = await rule.ask([alerts[place] for place in left], self._seconds)
            dropped |= {place: rule.name for place, answer in zip(left, answers, strict=True) if answer is False}
        return dropped


class _Filter:
    """One rule."""

    def __init__(self, rule: FilterFunction) -> None:
        self.name = str(getattr(rule, "__qualname__", None) or type(rule).__qualname__)
        self._rule = rule
        self._calls = Calls(f"alert rule {self.name}", at_once=1)
        self._troubles = 0

    async def ask(self, alerts: Sequence[OptimizationAlert], seconds: float) -> list[Any]:
        """Its answers; None, which drops nothing, if it failed or hangs."""
        copies = [copy.deepcopy(alert) for alert in alerts]
        before = self._troubles
        answers: list[Any]
        try:
            if is_async(self._rule):
                answers = await self._calls.run(lambda: self._awaited(copies), seconds, awaits=True)
            else:
                answers = await self._calls.run(lambda: [self._answer(alert) for alert in copies], seconds)
        except (Unanswered, RuntimeError) as error:
            self._trouble(f"hangs ({error}); alerts go on without it, and it is not asked again until it is back")
            answers = [None] * len(copies)
        if self._troubles == before:
            self._troubles = 0
        return answers

    async def _awaited(self, alerts: Sequence[OptimizationAlert]) -> list[Any]:
        answers: list[Any] = []
        for alert in alerts:
            try:
                with _in_a_filter():
                    answers.append(await self._rule(alert))
            except Exception as error:  # noqa: BLE001 - a user's rule: what it raises is logged, and drops nothing
                answers.append(self._failed(error))
        return answers

    def _answer(self, alert: OptimizationAlert) -> Any:
        try:
            with _in_a_filter():
                return self._rule(alert)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(error)

    def _failed(self, error: Exception) -> Any:
        self._trouble(f"failed, and drops nothing: {type(error).__name__}: {error}")
        return None

    def _trouble(self, what: str) -> None:
        """Said once, until it is over."""
        logger.log(logging.DEBUG if self._troubles else logging.ERROR, "the alert rule %s %s", self.name, what)
        self._troubles += 1

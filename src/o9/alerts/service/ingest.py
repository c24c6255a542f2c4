"""Ingesting alerts: those that arrive together are filtered and recorded together.

Contract. Owned by one event loop. `add` returns when the alerts are durable; each is refused by itself. While a batch
is written the next one gathers, so that what arrives decides how large they are; no more than BATCH, for the store's
other writers take turns with them. A caller that is cancelled does not undo what it added.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

from o9.alerts.pipeline.alert import NotifyReason
from o9.alerts.service.repository import new_alert_of
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store.alerts.episodes import NewAlert, RaiseAlerts, Recorded
from o9.store.alerts.outbox import RecordSuppressed, Suppressed
from o9.store.core.column_types import moment
from o9.store.store import Store
from o9.strategies.registry import is_async
from o9.user_code.calls import Calls, Unanswered

logger = logging.getLogger(__name__)
BATCH = 4_000
RULE_SECONDS = 10.0  # for all alerts that arrived together
AT_ONCE = 250  # of a list, before whatever else runs in the loop has its turn

_recording: ContextVar[bool] = ContextVar("o9_recording_alerts", default=False)
"""Set while alerts are filtered and recorded: what a filter itself sends is not filtered, and does not wait."""

FilterFunction = Callable[[OptimizationAlert], Any]
Ingested = Recorded | OptimizationError | None
"""What became of an alert: None where a rule dropped it, an error where it was refused."""


class _Parcel(NamedTuple):
    """What one caller added, at most BATCH."""

    alerts: Sequence[OptimizationAlert]
    new_alerts: Sequence[NewAlert]
    answers: asyncio.Future[Sequence[Ingested]]


class AlertIngest:
    """Writes to `store`, and to no other from its first alert on."""

    def __init__(self, store: Store, filters: Sequence[AlertFilter]) -> None:
        self._store = store
        self._filters = filters
        self._waiting: deque[_Parcel] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, alerts: Sequence[OptimizationAlert], resolve_timeout: timedelta | None) -> list[Ingested]:
        """What became of each, in their order: an error is an OptimizationValidationError, which names the field, or an
        OptimizationConflictError for an id that is taken.
        """
        answers: list[Ingested] = []
        left = iter(alerts)
        while piece := list(islice(left, BATCH)):
            refused: dict[int, OptimizationError] = {}
            good, new_alerts = [], []
            for place, alert in enumerate(piece):
                if place % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                try:
                    new_alerts.append(new_alert_of(alert, resolve_timeout))
                    good.append(alert)
                except OptimizationValidationError as error:
                    refused[place] = error
            given = iter(await self._take(good, new_alerts) if good else ())
            answers += [refused[place] if place in refused else next(given) for place in range(len(piece))]
        return answers

    async def idle(self) -> None:
        """Returns when all alerts are recorded."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def _take(
        self, alerts: Sequence[OptimizationAlert], new_alerts: Sequence[NewAlert]
    ) -> asyncio.Future[Sequence[Ingested]]:
        if _recording.get():
            return self._store.write_async(RaiseAlerts(new_alerts))
        answers: asyncio.Future[Sequence[Ingested]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Parcel(alerts, new_alerts, answers))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="o9-alerts-intake")
        return answers

    async def _write(self) -> None:
        _recording.set(True)
        while self._waiting:
            parcels = [self._waiting.popleft()]
            size = len(parcels[0].new_alerts)
            while self._waiting and size + len(self._waiting[0].new_alerts) <= BATCH:
                parcels.append(self._waiting.popleft())
                size += len(parcels[-1].new_alerts)
            try:
                answers = iter(await self._recorded(parcels))
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                for parcel in parcels:
                    if not parcel.answers.done():
                        parcel.answers.set_exception(error)
                continue
            for parcel in parcels:
                mine = list(islice(answers, len(parcel.new_alerts)))
                if not parcel.answers.done():  # else its caller was cancelled
                    parcel.answers.set_result(mine)

    async def _recorded(self, parcels: Sequence[_Parcel]) -> Sequence[Ingested]:
        new_alerts = [new for parcel in parcels for new in parcel.new_alerts]
        if not self._filters:
            return await self._store.write_async(RaiseAlerts(new_alerts))
        dropped = await dropped_by(self._filters, [alert for parcel in parcels for alert in parcel.alerts])
        kept = [new for place, new in enumerate(new_alerts) if place not in dropped]
        writing = self._store.write_async(RaiseAlerts(kept))
        if dropped:
            at = moment(utc_now())
            suppressed = [
                Suppressed(new_alerts[place].alert_id, "", NotifyReason.DROPPED.value, rule, at)
                for place, rule in dropped.items()
            ]
            await self._store.write_async(RecordSuppressed(suppressed))
        given = iter(await writing)
        return [None if place in dropped else next(given) for place in range(len(new_alerts))]


class AlertFilter:
    """A user's own rule, asked about each alert before it is recorded: only False drops an alert.

    It gets a copy. It has a limited time for all alerts that arrived together, and is not called while an earlier call
    hangs. Where it fails it drops nothing: that is logged, once until it succeeds. Raises OptimizationValidationError
    for what cannot be called.
    """

    def __init__(self, rule: FilterFunction, seconds: float = RULE_SECONDS) -> None:
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} cannot be called; give a function of one alert")
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


async def dropped_by(rules: Sequence[AlertFilter], alerts: Sequence[OptimizationAlert]) -> dict[int, str]:
    """Which of `alerts` are dropped, by their place, and by which rule; the rules are asked in their order."""
    dropped: dict[int, str] = {}
    for rule in rules:
        left = [place for place in range(len(alerts)) if place not in dropped]
        answers = await rule.answers([copy.deepcopy(alerts[place]) for place in left])
        dropped |= {place: rule.name for place, answer in zip(left, answers, strict=True) if answer is False}
    return dropped

"""The ingest of alerts, which are filtered and recorded in batches.

Contract. It belongs to one event loop. `add` returns when the alerts are durable; each is accepted or refused on its
own. While a batch is written the next one gathers, up to BATCH alerts, so that the store's other writers get their
turn. A caller that is cancelled does not undo what it added.
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
FILTER_SECONDS = 10.0  # for all alerts of a batch
AT_ONCE = 250  # alerts that are validated before the event loop gets its turn

_recording: ContextVar[bool] = ContextVar("o9_recording_alerts", default=False)
"""Set while alerts are filtered and recorded: alerts that a filter sends are not filtered, and do not wait."""

FilterFunction = Callable[[OptimizationAlert], Any]
Ingested = Recorded | OptimizationError | None
"""The result for an alert: None if a filter dropped it, an error if it was refused."""


class _Parcel(NamedTuple):
    """The alerts of one call, at most BATCH."""

    alerts: Sequence[OptimizationAlert]
    new_alerts: Sequence[NewAlert]
    answers: asyncio.Future[Sequence[Ingested]]


class AlertIngest:
    def __init__(self, store: Store, filters: Sequence[AlertFilter]) -> None:
        self._store = store
        self._filters = filters
        self._waiting: deque[_Parcel] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, alerts: Sequence[OptimizationAlert], resolve_timeout: timedelta | None) -> list[Ingested]:
        """Record the alerts, and return the result for each in their order.

        An error is an OptimizationValidationError, or an OptimizationConflictError for an id that is taken.
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
        """Wait until all alerts are recorded."""
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
            except Exception as error:  # noqa: BLE001 - any error is passed to the callers
                for parcel in parcels:
                    if not parcel.answers.done():
                        parcel.answers.set_exception(error)
                continue
            for parcel in parcels:
                mine = list(islice(answers, len(parcel.new_alerts)))
                if not parcel.answers.done():  # its caller may have been cancelled
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
                Suppressed(new_alerts[place].alert_id, "", NotifyReason.DROPPED.value, name, at)
                for place, name in dropped.items()
            ]
            await self._store.write_async(RecordSuppressed(suppressed))
        given = iter(await writing)
        return [None if place in dropped else next(given) for place in range(len(new_alerts))]


class AlertFilter:
    """A user's function (`register_alert_rule`), called with a copy of each alert before it is recorded.

    Only the answer False drops an alert. The time for the alerts of a batch is limited, and the function is not called
    while an earlier call hangs. If it fails it drops nothing, which is logged once until it succeeds again. Raises
    OptimizationValidationError if it is not callable.
    """

    def __init__(self, rule: FilterFunction, seconds: float = FILTER_SECONDS) -> None:
        if not callable(rule):
            raise OptimizationValidationError("rule", f"{rule!r:.80} is not callable; pass a function of one alert")
        self.name = str(getattr(rule, "__qualname__", None) or type(rule).__qualname__)
        self._rule = rule
        self._seconds = seconds
        self._calls = Calls(f"alert rule {self.name}", at_once=1)
        self._failed = False

    async def answers(self, alerts: Sequence[OptimizationAlert]) -> list[Any]:
        """Return the function's answer for each alert; an error, which drops nothing, if it failed or hangs."""
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
            logger.log(level, "the alert rule %s failed and drops nothing: %s", self.name, what)
        self._failed = failure is not None
        return answers

    async def _awaited(self, alerts: Sequence[OptimizationAlert]) -> list[Any]:
        answers: list[Any] = []
        for alert in alerts:
            try:
                answers.append(await self._rule(alert))
            except Exception as error:  # noqa: BLE001 - any error of user code
                answers.append(error)
        return answers

    def _answer(self, alert: OptimizationAlert) -> Any:
        try:
            return self._rule(alert)
        except Exception as error:  # noqa: BLE001 - any error of user code
            return error


async def dropped_by(filters: Sequence[AlertFilter], alerts: Sequence[OptimizationAlert]) -> dict[int, str]:
    """Return the indexes of the alerts that are dropped, each with the name of the first filter that does so."""
    dropped: dict[int, str] = {}
    for each in filters:
        left = [place for place in range(len(alerts)) if place not in dropped]
        answers = await each.answers([copy.deepcopy(alerts[place]) for place in left])
        dropped |= {place: each.name for place, answer in zip(left, answers, strict=True) if answer is False}
    return dropped

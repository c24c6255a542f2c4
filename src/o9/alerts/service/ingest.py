"""Ingesting alerts: those that arrive together are filtered and recorded together.

Contract. Owned by one event loop. `add` and `add_all` return when the alerts are durable; each is refused by
itself. While a batch is written the next one gathers, so that what arrives decides how large they are; no more than
BATCH, for the store's other writers take turns with them. A caller that is cancelled does not undo what it added.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from o9.alerts.pipeline.reasons import NotifyReason
from o9.alerts.service.filters import AlertFilters
from o9.alerts.service.repository import new_alert_of
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store.alerts.episodes import NewAlert, RaiseAlerts, Recorded
from o9.store.alerts.outbox import RecordSuppressed, Suppressed
from o9.store.core.column_types import moment
from o9.store.store import Store

BATCH = 4_000
AT_ONCE = 250  # of a list, before whatever else runs in the loop has its turn

_recording: ContextVar[bool] = ContextVar("o9_recording_alerts", default=False)
"""Set while alerts are filtered and recorded: what a filter itself sends is not filtered, and does not wait."""

Ingested = Recorded | OptimizationError | None
"""What became of an alert: None where a rule dropped it, an error where it was refused."""


class _Parcel(NamedTuple):
    """What one caller added, at most BATCH."""

    alerts: Sequence[OptimizationAlert]
    new_alerts: Sequence[NewAlert]
    answers: asyncio.Future[Sequence[Ingested]]


class AlertIngest:
    """Writes to `store`, and to no other from its first alert on."""

    def __init__(self, store: Store, filters: AlertFilters) -> None:
        self._store = store
        self._filters = filters
        self._waiting: deque[_Parcel] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, alert: OptimizationAlert, resolve_timeout: timedelta | None) -> Recorded | None:
        """What became of it; None where a rule dropped it.

        Raises OptimizationValidationError, naming the field; OptimizationConflictError for an id that is taken.
        """
        (answer,) = await self._take((alert,), (new_alert_of(alert, resolve_timeout),))
        if isinstance(answer, OptimizationError):
            raise answer
        return answer

    async def add_all(self, alerts: Sequence[OptimizationAlert], resolve_timeout: timedelta | None) -> list[Ingested]:
        """What became of each, in their order."""
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
        dropped = await self._filters.dropped([alert for parcel in parcels for alert in parcel.alerts])
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

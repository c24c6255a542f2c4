"""Taking alerts in: those that arrive together are asked about, and recorded, together.

Contract. Owned by one event loop. `tell` and `tell_all` answer when the alerts are durable; what is refused is refused
alone. While a batch is written the next one gathers, so that what arrives decides how large they are; no more than
BATCH, for the store's other writers take turns with them. A caller that is cancelled does not undo what it told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from o9.alerts.pipeline.reasons import Reason
from o9.alerts.service.filters import Opinions, is_judging
from o9.alerts.service.repository import telling_of
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store.alerts import RaiseAlerts, Telling, Told
from o9.store.codec import moment
from o9.store.outbox import RecordUntold, Untold
from o9.store.store import Store

BATCH = 4_000
AT_ONCE = 250  # of a list, before whatever else runs in the loop has its turn

Answer = Told | OptimizationError | None
"""What became of an alert: None where a rule dropped it, an error where it was refused."""


class _Parcel(NamedTuple):
    """What one caller told, at most BATCH."""

    alerts: Sequence[OptimizationAlert]
    tellings: Sequence[Telling]
    answers: asyncio.Future[Sequence[Answer]]


class Intake:
    """Writes to `store`, and to no other from its first alert on."""

    def __init__(self, store: Store, opinions: Opinions) -> None:
        self._store = store
        self._opinions = opinions
        self._waiting: deque[_Parcel] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def tell(self, alert: OptimizationAlert, resolve_timeout: timedelta | None) -> Told | None:
        """What became of it; None where a rule dropped it.

        Raises OptimizationValidationError, naming the field; OptimizationConflictError for an id that is taken.
        """
        (answer,) = await self._take((alert,), (telling_of(alert, resolve_timeout),))
        if isinstance(answer, OptimizationError):
            raise answer
        return answer

    async def tell_all(self, alerts: Sequence[OptimizationAlert], resolve_timeout: timedelta | None) -> list[Answer]:
        """What became of each, in their order."""
        answers: list[Answer] = []
        left = iter(alerts)
        while piece := list(islice(left, BATCH)):
            refused: dict[int, OptimizationError] = {}
            good, tellings = [], []
            for place, alert in enumerate(piece):
                if place % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                try:
                    tellings.append(telling_of(alert, resolve_timeout))
                    good.append(alert)
                except OptimizationValidationError as error:
                    refused[place] = error
            told = iter(await self._take(good, tellings) if good else ())
            answers += [refused[place] if place in refused else next(told) for place in range(len(piece))]
        return answers

    async def idle(self) -> None:
        """Returns when all that was told is recorded."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def _take(
        self, alerts: Sequence[OptimizationAlert], tellings: Sequence[Telling]
    ) -> asyncio.Future[Sequence[Answer]]:
        if is_judging():
            return self._store.write_async(RaiseAlerts(tellings))
        answers: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Parcel(alerts, tellings, answers))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="o9-alerts-intake")
        return answers

    async def _write(self) -> None:
        while self._waiting:
            parcels = [self._waiting.popleft()]
            size = len(parcels[0].tellings)
            while self._waiting and size + len(self._waiting[0].tellings) <= BATCH:
                parcels.append(self._waiting.popleft())
                size += len(parcels[-1].tellings)
            try:
                answers = iter(await self._recorded(parcels))
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                for parcel in parcels:
                    if not parcel.answers.done():
                        parcel.answers.set_exception(error)
                continue
            for parcel in parcels:
                mine = list(islice(answers, len(parcel.tellings)))
                if not parcel.answers.done():  # else its caller was cancelled
                    parcel.answers.set_result(mine)

    async def _recorded(self, parcels: Sequence[_Parcel]) -> Sequence[Answer]:
        tellings = [telling for parcel in parcels for telling in parcel.tellings]
        if not self._opinions:
            return await self._store.write_async(RaiseAlerts(tellings))
        dropped = await self._opinions.dropped([alert for parcel in parcels for alert in parcel.alerts])
        kept = [telling for place, telling in enumerate(tellings) if place not in dropped]
        writing = self._store.write_async(RaiseAlerts(kept))
        if dropped:
            at = moment(utc_now())
            untold = [
                Untold(tellings[place].alert_id, "", Reason.DROPPED.value, rule, at) for place, rule in dropped.items()
            ]
            await self._store.write_async(RecordUntold(untold))
        told = iter(await writing)
        return [None if place in dropped else next(told) for place in range(len(tellings))]

"""Taking alerts in: those that arrive together are asked about, and recorded, together.

Contract. Owned by one event loop. `tell` answers when the alert is durable, or raises for this one alone. While a batch
is written the next one gathers, so that what arrives decides how large they are; no more than BATCH, for the store's
other writers take turns with them. A caller that is cancelled does not undo what it told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import NamedTuple

from o9.alerts.opinions import Opinions
from o9.alerts.record import telling_of
from o9.model.errors import OptimizationConflictError
from o9.model.optimization import OptimizationAlert, utc_now
from o9.store.alerts import RaiseAlerts, Telling, Told
from o9.store.codec import moment
from o9.store.outbox import RecordUntold, Untold
from o9.store.store import Store

BATCH = 2_000
DROPPED = "dropped by a rule"


class _Waiting(NamedTuple):
    alert: OptimizationAlert
    telling: Telling
    answer: asyncio.Future[Told | None]


class Intake:
    """Writes to `store`, and to no other from its first alert on."""

    def __init__(self, store: Store, opinions: Opinions) -> None:
        self._store = store
        self._opinions = opinions
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def tell(self, alert: OptimizationAlert, resolve_timeout: timedelta | None) -> Told | None:
        """What became of it; None where a rule dropped it.

        Raises OptimizationValidationError, naming the field; OptimizationConflictError for an id that is taken.
        """
        answer: asyncio.Future[Told | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(alert, telling_of(alert, resolve_timeout), answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="o9-alerts-intake")
        return await answer

    async def idle(self) -> None:
        """Returns when all that was told is recorded."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                answers = await self._recorded(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                answers = [error] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue  # its caller was cancelled
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    async def _recorded(self, batch: list[_Waiting]) -> list[Told | Exception | None]:
        dropped: dict[int, str] = {}
        if self._opinions:
            dropped = await self._opinions.dropped([waiting.alert for waiting in batch])
        kept = [waiting.telling for place, waiting in enumerate(batch) if place not in dropped]
        writes: list[asyncio.Future[list[Told | OptimizationConflictError]]] = []
        if kept:
            writes.append(self._store.write_async(RaiseAlerts(kept)))
        if dropped:
            at = moment(utc_now())
            untold = [Untold(batch[place].telling.alert_id, "", DROPPED, rule, at) for place, rule in dropped.items()]
            await self._store.write_async(RecordUntold(untold))
        told = iter(await writes[0] if writes else [])
        return [None if place in dropped else next(told) for place in range(len(batch))]

"""The delivery of notifications through this node's channels, in order within a group, with every try recorded.

Contract. It belongs to one event loop. Each channel has a worker while it has something to send, one send at a time; a
channel that fails or hangs delays no other. A try is recorded before it begins, and its result after it. So nothing is
lost when a node dies, and a message is sent twice only if it is unknown whether it arrived: the node died between
sending and recording, or there was no answer. The repetition says so and is counted. `keep` must be called every third
of a lease; otherwise other nodes take over what is being sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from o9.alerts.channels.outcome import Channel, Failed, Sent, failed
from o9.alerts.config.schema import Configuration
from o9.alerts.messages.render import SHOWN, Message
from o9.alerts.pipeline.alert import Notice
from o9.alerts.service.repository import notice_in
from o9.lifecycle.heartbeat import dead_on_this_host
from o9.model.errors import OptimizationError, OptimizationStoreError, StoreUnavailableError
from o9.model.loops import Backoff, with_retries
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.alerts.outbox import AnnounceChannels, BeginTry, EndTry, WithdrawChannels
from o9.store.core.unit import Row
from o9.store.store import Store
from o9.text.format import duration

logger = logging.getLogger(__name__)
STOP_GRACE_SECONDS, CUT_OFF_SECONDS = 2.0, 1.0
FIRST_PAUSE, LONGEST_PAUSE, TRIED_FOR = timedelta(seconds=5), timedelta(minutes=5), timedelta(hours=24)
STORE_AWAY = Backoff(1.0, 1.0)
CUT_OFF = failed("cut off when its node stopped", in_doubt=True)

OnAttempt = Callable[[dict[str, Any]], None]


@dataclass
class Delivery:
    """`on_attempt` is called with the entry (`entry_of`) of each try that has ended."""

    store: Store
    node: str
    lease_seconds: float
    on_attempt: OnAttempt | None = None
    _channels: dict[str, Channel] = field(default_factory=dict, init=False)
    _announced: tuple[str, ...] = field(default=(), init=False)
    _configuration: Configuration = field(default_factory=Configuration, init=False)
    _workers: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    _sending: set[int] = field(default_factory=set, init=False)
    _not_before: dict[str, float] = field(default_factory=dict, init=False)
    _stopping: bool = field(default=False, init=False)

    def use(self, channels: Mapping[str, Channel], announced: tuple[str, ...], configuration: Configuration) -> None:
        """Set the channels. announced: those that other nodes may not have."""
        self._channels, self._announced = dict(channels), announced
        self._configuration = configuration

    async def keep(self) -> None:
        """Renew this node's claims. Raises OptimizationStoreError if the store is unavailable."""
        sending = list(self._sending)
        await self.store.write_async(AnnounceChannels(self.node, self._announced, self.lease_seconds, sending))

    async def send_due(self) -> None:
        """Start workers for the channels that have due notifications. Raises OptimizationStoreError."""
        now = time.monotonic()
        idle = [name for name in self._channels if name not in self._workers and self._not_before.get(name, 0.0) <= now]
        if idle and not self._stopping:
            for name in await asyncio.to_thread(self._due, idle):
                if name not in self._workers:
                    self._workers[name] = asyncio.create_task(self._work(name), name=f"o9-alerts-{name}")

    async def idle(self) -> None:
        """Wait until nothing is being sent, and nothing is due that could be sent."""
        while True:
            await self.send_due()
            if not self._workers:
                return
            await asyncio.wait(set(self._workers.values()))

    def wait_seconds(self) -> float | None:
        """Return the seconds until the first throttled channel may send again; None if none is throttled."""
        now = time.monotonic()
        left = [at - now for at in self._not_before.values() if at > now]
        return min(left, default=None)

    async def stop(self) -> None:
        """Wait briefly for what is being sent, then cancel it. A try that cannot be cancelled is abandoned: it stays
        open in the store and is sent again.
        """
        self._stopping = True
        left = set(self._workers.values())
        if left:
            _, left = await asyncio.wait(left, timeout=STOP_GRACE_SECONDS)
            for worker in left:
                worker.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=CUT_OFF_SECONDS)
        if left:
            logger.error("%d channels could not be stopped; their messages will be sent again", len(left))
        await self.store.write_async(WithdrawChannels(self.node))

    def _due(self, channels: list[str]) -> list[str]:
        """Blocks."""
        if not self.store.read(queries.has_pending_notifications):
            return []
        return self.store.read(queries.due_channels, channels, dead_on_this_host(self.store))

    async def _work(self, name: str) -> None:
        """Send through one channel until nothing is due."""
        throttles = {
            receiver: (throttle.messages, throttle.every.total_seconds())
            for receiver in self._configuration.receivers
            if (throttle := self._configuration.throttle_of(receiver)) is not None
        }
        try:
            while not self._stopping and (channel := self._channels.get(name)) is not None:
                dead = await asyncio.to_thread(dead_on_this_host, self.store)
                begun = await self.store.write_async(BeginTry(name, self.node, self.lease_seconds, dead, throttles))
                if begun is None:
                    return
                if isinstance(begun, float):
                    self._not_before[name] = time.monotonic() + begun
                    return
                await self._try(channel, begun)
        except OptimizationError as error:
            logger.warning("the channel %r waits: %s", name, error)
        finally:
            del self._workers[name]

    async def _try(self, channel: Channel, row: Row) -> None:
        self._sending.add(row["id"])
        try:
            try:
                outcome = await self._send(channel, row)
            except asyncio.CancelledError:
                end = EndTry(row["id"], row["tries"], row["claimed_by"])
                await self._end(row, replace(end, error=CUT_OFF.reason, retry_in=0.0, in_doubt=True))
                raise
            await self._end(row, end_of(row, outcome, utc_now(), random.random()))
        finally:
            self._sending.discard(row["id"])

    async def _send(self, channel: Channel, row: Row) -> Sent | Failed:
        try:
            counts = getattr(channel, "shows_the_first", False)
            notice = await asyncio.to_thread(self._notice, row, counts)
            known = self._configuration.receivers.get(row["receiver"])
            templates = {**self._configuration.templates, **(known.templates if known else {})}
            message = Message(notice, templates, self._configuration.link)
        except OptimizationStoreError:
            raise
        except Exception as error:  # an internal error must not block the channel's other messages
            logger.exception("could not render a message to %s (%s)", row["channel"], row["receiver"])
            return Failed(f"the message could not be rendered: {type(error).__name__}")
        try:
            return await channel.send(message, notice)
        except Exception as error:  # channels should not raise; a user's may
            logger.exception("the channel %r raised an error", row["channel"])
            return Failed(f"it raised {type(error).__name__}")

    def _notice(self, row: Row, counts: bool) -> Notice:
        """Read the notice. Blocks. counts: only levels and titles are read of alerts that are not shown."""
        begins, read = len(row["firing"]) - row["known"], self.store.read
        names = [*row["firing"][:begins], *row["resolved"], *row["firing"][begins:]]
        if counts and len(names) > SHOWN and len(shown := read(queries.episodes, names[:SHOWN])) == SHOWN:
            return notice_in(row, shown, read(queries.alert_titles, names[SHOWN:]))
        return notice_in(row, read(queries.episodes, names))

    async def _end(self, row: Row, end: EndTry) -> None:
        writing = with_retries(
            lambda: self.store.write_async(end), StoreUnavailableError, STORE_AWAY, self._not_written
        )
        mine = await asyncio.shield(writing)
        where = f"{row['channel']} ({row['receiver']})"
        if not mine:
            logger.warning(
                "%s: another node took over the message that this one was sending; it may arrive twice", where
            )
        elif end.error is None:
            logger.debug("%s: sent", where)
        elif end.retry_in is None:
            logger.error("%s: given up: %s", where, end.error)
        else:
            again = f"retrying in {end.retry_in:.0f} s"
            logger.log(logging.WARNING if row["tries"] == 1 else logging.DEBUG, "%s: %s; %s", where, end.error, again)
        if self.on_attempt is not None:
            self.on_attempt(entry_of(row, end))

    def _not_written(self, error: Exception, _: int) -> None:
        """Retry the write, unless stopping: while the store is unavailable, no other node can take over either."""
        if self._stopping:
            raise error


def end_of(row: Row, outcome: Sent | Failed, now: datetime, chance: float) -> EndTry:
    """Return the result of a try.

    Pauses double up to LONGEST_PAUSE, less up to half by `chance` (jitter), but are at least what the service asked for
    (`Retry-After`). After TRIED_FOR the notification is given up.
    """
    end = EndTry(row["id"], row["tries"], row["claimed_by"])
    if isinstance(outcome, Sent):
        return end
    end = replace(end, error=outcome.reason, in_doubt=outcome.in_doubt)
    left = datetime.fromisoformat(row["created_at"]) + TRIED_FOR - now
    if outcome.permanent or left <= timedelta(0):
        why = "a retry cannot succeed" if outcome.permanent else f"it was tried for {duration(TRIED_FOR)}"
        return replace(end, error=f"{outcome.reason} (given up: {why})")
    pause = min(FIRST_PAUSE * 2 ** min(row["tries"] - 1, 30), LONGEST_PAUSE) * (1 - chance / 2)
    asked = outcome.retry_after or timedelta(0)
    retry_in = min(max(pause, asked), left)
    return replace(end, retry_in=retry_in.total_seconds(), pause=min(asked, retry_in).total_seconds())


def entry_of(row: Row, end: EndTry) -> dict[str, Any]:
    """Return a try in the form for callbacks. `status`: sent, pending (retried in `retry_in` seconds) or failed."""
    status = "sent" if end.error is None else "failed" if end.retry_in is None else "pending"
    known = {name: row[name] for name in ("receiver", "channel", "kind", "reason", "group_key", "number", "tries")}
    return {
        **known, "status": status, "error": end.error, "retry_in": end.retry_in, "alerts": row["firing"],
        "resolved": row["resolved"],
    }  # fmt: skip

"""Sending: what was decided goes out through this node's channels, in order within a group, each try on the record.

Contract. Owned by one event loop. Each channel has a worker while it has something to send, one send at a time; one
that fails or hangs holds up itself alone. A try is written before it begins; its end, and with it what becomes of the
notification, behind it. So nothing is lost when a node dies, and a message is sent twice only where it is unknown
whether it arrived: the node died between sending and writing, or no answer came. The repetition says so, and is
counted. `keep` has to be called every third of a lease, else other nodes take over what is being sent.
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
    """`on_attempt` gets each attempt that ended: what `entry_of` gives."""

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
        """Send through these from now on. `announced`: those that other nodes may not have."""
        self._channels, self._announced = dict(channels), announced
        self._configuration = configuration

    async def keep(self) -> None:
        """Renew this node's claims. Raises OptimizationStoreError where the store is away."""
        sending = list(self._sending)
        await self.store.write_async(AnnounceChannels(self.node, self._announced, self.lease_seconds, sending))

    async def look(self) -> None:
        """Begin to send what is due and not being sent. Raises OptimizationStoreError where the store is away."""
        now = time.monotonic()
        idle = [name for name in self._channels if name not in self._workers and self._not_before.get(name, 0.0) <= now]
        if idle and not self._stopping:
            for name in await asyncio.to_thread(self._due, idle):
                if name not in self._workers:
                    self._workers[name] = asyncio.create_task(self._work(name), name=f"o9-alerts-{name}")

    async def idle(self) -> None:
        """Returns when nothing is being sent, and nothing is due that could be."""
        while True:
            await self.look()
            if not self._workers:
                return
            await asyncio.wait(set(self._workers.values()))

    def wait_seconds(self) -> float | None:
        """Until the first channel that a throttle holds back may send again; None: none is."""
        now = time.monotonic()
        left = [at - now for at in self._not_before.values() if at > now]
        return min(left, default=None)

    async def stop(self) -> None:
        """Let what is being sent come to its end for a while; then cut it off, and say so in the log.

        A channel that does not let itself be cut off is left: its try stays open in the store, and so it is sent again.
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
            logger.error("%d channels cannot be stopped; what they were sending is sent again", len(left))
        await self.store.write_async(WithdrawChannels(self.node))

    def _due(self, channels: list[str]) -> list[str]:
        """In a thread."""
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
        except Exception as error:  # an internal error must not hold up all others of the channel
            logger.exception("a message to %s (%s) could not be made", row["channel"], row["receiver"])
            return Failed(f"the message could not be made: {type(error).__name__}")
        try:
            return await channel.send(message, notice)
        except Exception as error:  # a channel that breaks its contract fails like any other
            logger.exception("the channel %r raised", row["channel"])
            return Failed(f"it raised {type(error).__name__}")

    def _notice(self, row: Row, counts: bool) -> Notice:
        """In a thread: a group may be large. counts: of those that are not shown only what is counted is read."""
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
            logger.warning("%s: another node took over what this one was sending; it may arrive twice", where)
        elif end.error is None:
            logger.debug("%s: sent", where)
        elif end.retry_in is None:
            logger.error("%s: given up: %s", where, end.error)
        else:
            again = f"trying again in {end.retry_in:.0f} s"
            logger.log(logging.WARNING if row["tries"] == 1 else logging.DEBUG, "%s: %s; %s", where, end.error, again)
        if self.on_attempt is not None:
            self.on_attempt(entry_of(row, end))

    def _not_written(self, error: Exception, _: int) -> None:
        """It is tried again: as long as the store is away, no other node can take the notification over either."""
        if self._stopping:
            raise error


def end_of(row: Row, outcome: Sent | Failed, now: datetime, chance: float) -> EndTry:
    """What becomes of a notification after a try.

    Pauses double up to the longest, less up to half by `chance`, by which those of many spread out. What the service
    asks for (`Retry-After`) is kept to. The last try is a day after the message was due at the latest.
    """
    end = EndTry(row["id"], row["tries"], row["claimed_by"])
    if isinstance(outcome, Sent):
        return end
    end = replace(end, error=outcome.reason, in_doubt=outcome.in_doubt)
    left = datetime.fromisoformat(row["created_at"]) + TRIED_FOR - now
    if outcome.permanent or left <= timedelta(0):
        why = "the channel refused it for good" if outcome.permanent else f"it was tried for {duration(TRIED_FOR)}"
        return replace(end, error=f"{outcome.reason} (given up: {why})")
    pause = min(FIRST_PAUSE * 2 ** min(row["tries"] - 1, 30), LONGEST_PAUSE) * (1 - chance / 2)
    asked = outcome.retry_after or timedelta(0)
    retry_in = min(max(pause, asked), left)
    return replace(end, retry_in=retry_in.total_seconds(), pause=min(asked, retry_in).total_seconds())


def entry_of(row: Row, end: EndTry) -> dict[str, Any]:
    """One attempt, as callbacks get it. `status`: sent, pending (tried again in `retry_in` seconds) or failed."""
    status = "sent" if end.error is None else "failed" if end.retry_in is None else "pending"
    said = {name: row[name] for name in ("receiver", "channel", "kind", "reason", "group_key", "number", "tries")}
    return {
        **said, "status": status, "error": end.error, "retry_in": end.retry_in, "alerts": row["firing"],
        "resolved": row["resolved"],
    }  # fmt: skip

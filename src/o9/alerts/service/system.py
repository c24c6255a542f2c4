"""The alert system, which records, groups, silences and routes alerts, and sends their messages.

Contract. When `send_alert` returns, the alert is durable: it will be delivered, or its record will say why not,
whatever process dies. One of the nodes that share a store decides (`o9.alerts.service.leader`); each sends through its
own channels (`o9.alerts.service.delivery`). Nothing is sent while no system is started. Answers come from the record,
so they are the same on every node. A system belongs to the event loop that opened or started it; from another loop,
methods that send or change alerts raise OptimizationError. Decisions run in a thread, and a send that hangs delays no
other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Any, TypeVar

from o9.alerts.channels.registry import ChannelRegistry
from o9.alerts.config.fields import LONGEST
from o9.alerts.config.schema import AlertsFile, Configuration
from o9.alerts.pipeline.matchers import parse
from o9.alerts.pipeline.stages import new_silence
from o9.alerts.service.delivery import STOP_GRACE_SECONDS, Delivery
from o9.alerts.service.ingest import AlertFilter, AlertIngest, FilterFunction
from o9.alerts.service.leader import LEASE, Leader, TickResult
from o9.alerts.service.repository import add_silence, alert_of_row, history
from o9.model.component import Registered
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.loops import ErrorBoundary, cancel_and_wait, check_loop
from o9.model.optimization import OptimizationAlert, as_utc, utc_now
from o9.model.settings import settings
from o9.model.states import AlertLevel
from o9.model.validation import alert_level, validate_seconds
from o9.store import queries
from o9.store.alerts.episodes import AcknowledgeAlert, Recorded, ResolveAlert
from o9.store.alerts.silences import EndSilence
from o9.store.core.column_types import free_text, moment
from o9.store.core.component import StoreComponent
from o9.store.core.unit import Operation
from o9.store.store import Store

logger = logging.getLogger(__name__)
_numbers = itertools.count(1)
T = TypeVar("T")
POLL_SECONDS = 1.0  # for alerts of other processes, and for a missing leader
MISSING_SECONDS = 10.0  # before a channel that no node has is logged; programs register theirs after the start
TICK_PAUSE_SECONDS = 0.05  # between two ticks, so that alerts that arrive meanwhile are decided together


class AlertNotificationSystem(StoreComponent):
    """Sends alerts. Without a store it opens the one at `storage_path`; `alerts_file` defaults to O9_ALERTS_FILE.

    notification_channels: by name, see `register_notification_channel`. resolve_block: loads a block by its name.

    Events: `alert(alert)` when an alert begins to fire and `resolved(alert)` when it ends, in the process that sent or
    noticed that; `notification(entry)` after each try of this node, see `o9.alerts.service.delivery.entry_of`.
    """

    events = ("alert", "resolved", "notification")

    def __init__(
        self,
        notification_channels: Mapping[str, Any] | None = None,
        *,
        store: Store | None = None,
        storage_path: str | None = None,
        alerts_file: str | None = None,
        resolve_block: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__(store, storage_path)
        self._registry = ChannelRegistry(resolve_block)
        self._filters: list[AlertFilter] = []
        self._file = AlertsFile(alerts_file or settings().alerts_file or None, self._registry.channels)
        self._node = f"{settings().node_id}/alerts-{next(_numbers)}"
        self._owner: asyncio.AbstractEventLoop | None = None  # opened or started it
        self._ingest: AlertIngest | None = None
        self._running: Running | None = None
        self._emitting: set[asyncio.Task[None]] = set()
        for name, channel in (notification_channels or {}).items():
            self._registry.register(name, channel)

    def use_node(self, node: str) -> None:
        """Set the node's name, by which others see that its process has died. Call it before `start`."""
        self._node = node

    async def send_alert(
        self, alert: OptimizationAlert, *, resolve_timeout: timedelta | float | None = None
    ) -> str | None:
        """Record an alert durably. An alert with `resolved` set ends its episode.

        Returns the id of the episode, which is that of its first alert, or None if a rule dropped the alert.

        Sending an alert again under its id with a later timestamp says that it still fires; receivers are not notified
        twice, and the earliest timestamp is the start. Sending it again unchanged has no effect. Other content needs
        another id, and belongs to the same episode if the labels are equal. A resolved alert needs a new id to fire
        again. Messages are cut after 20,000 characters.

        resolve_timeout: a timedelta or seconds, after which it is resolved unless it is sent again. Raises
        OptimizationValidationError with the field, OptimizationConflictError for an id that has other content.
        """
        (answer,) = await self.send_alerts([alert], resolve_timeout=resolve_timeout)
        if isinstance(answer, OptimizationError):
            raise answer
        return answer

    async def send_alerts(
        self, alerts: Sequence[OptimizationAlert], *, resolve_timeout: timedelta | float | None = None
    ) -> list[str | OptimizationError | None]:
        """Send many alerts at half the cost. The answer has an error in the place of a refused alert."""
        self._here()
        if self._ingest is None:
            self._ingest = AlertIngest(self.store, self._filters)
        timeout = self.configuration.resolve_timeout if resolve_timeout is None else resolve_timeout
        answers = await self._ingest.add(alerts, None if timeout is None else span("resolve_timeout", timeout))
        for alert, became in zip(alerts, answers, strict=True):
            if isinstance(became, Recorded):
                if became.began or became.ended:
                    self._wake()
                if became.began and not alert.resolved:
                    self._emit_soon("alert", alert)
                if became.ended:
                    self._notify_ended([became.episode])
        return [became.episode if isinstance(became, Recorded) else became for became in answers]

    async def get_alerts(
        self,
        optimization_id: str | None = None,
        level: AlertLevel | str | None = None,
        *,
        limit: int = 1_000,
        before: OptimizationAlert | None = None,
    ) -> list[OptimizationAlert]:
        """Return the newest `limit` (1 to 1000) alerts, newest first by timestamp; with `before`, only older ones.

        An alert is resolved if its episode is over, whichever of the episode's alerts ended it.
        """
        about = None if optimization_id is None else text("optimization_id", optimization_id)
        wanted = None if level is None else alert_level(level).value
        place = None if before is None else (moment(as_utc(before.timestamp)), before.alert_id)
        now = utc_now()
        rows = await self.store.read_async(
            queries.alerts, optimization_id=about, level=wanted, limit=limit, before=place
        )
        return [alert_of_row(row, now) for row in rows]

    async def resolve_alert(self, alert_id: str, by: str = "") -> bool:
        """End the alert's episode. Returns False if it was over. Raises OptimizationError for an unknown id."""
        ended = await self._write(ResolveAlert(text("alert_id", alert_id), text("by", by)))
        if ended:
            self._notify_ended([alert_id])
        return ended

    async def acknowledge_alert(self, alert_id: str, by: str = "") -> bool:
        """Acknowledge an alert, so that it is neither repeated nor escalated.

        Returns False if it was resolved or acknowledged already. Raises OptimizationError for an unknown id.
        """
        return await self._write(AcknowledgeAlert(text("alert_id", alert_id), text("by", by)))

    def register_notification_channel(self, name: str, channel: Any) -> Registered:
        """Register a channel. Without a configuration file it gets every alert.

        channel: a function or coroutine function of one alert, an Apprise URL, an object with `notify(body, subject)`
        such as Prefect's notification blocks, `block:NAME`, or a channel of `o9.alerts.channels`. Raises
        OptimizationValidationError for anything else.
        """
        self._registry.register(name, channel)
        if self._running is not None:
            self._running.use_channels()
        return Registered()

    def register_alert_rule(self, rule: FilterFunction) -> Registered:
        """Call `rule(alert)`, sync or async, for each alert that this program sends; only the answer False drops it."""
        self._filters.append(AlertFilter(rule))
        return Registered()

    async def suppress_alert(
        self, pattern: str, duration: timedelta | float, *, author: str = "", comment: str = ""
    ) -> str:
        """Silence alerts that contain `pattern` in the title or message, or whose optimization has this id.

        pattern: with `*` or `?` it must match all of one of the three. duration: a timedelta, or seconds. Returns the
        silence's id; raises OptimizationValidationError.
        """
        return await self.silence_alerts("", duration, pattern=pattern, author=author, comment=comment)

    async def silence_alerts(
        self,
        matchers: str,
        duration: timedelta | float,
        *,
        pattern: str = "",
        starts_at: datetime | None = None,
        author: str = "",
        comment: str = "",
    ) -> str:
        """Silence alerts by Alertmanager's matchers, such as `title="Drawdown", level=~"info|warning"`."""
        silence = new_silence(
            utc_now(),
            span("duration", duration),
            parse(text("matchers", matchers)) if matchers else (),
            pattern=text("pattern", pattern),
            starts_at=None if starts_at is None else as_utc(starts_at),
            author=text("author", author),
            comment=text("comment", comment),
        )
        await self._write(add_silence(silence))
        return silence.silence_id

    async def end_silence(self, silence_id: str, by: str = "") -> bool:
        """End a silence early. Returns False if it was over. Raises OptimizationError for an unknown id."""
        return await self._write(EndSilence(text("silence_id", silence_id), text("by", by)))

    async def get_silences(self) -> list[dict[str, Any]]:
        """Return the active and future silences, in the order of their ends."""
        return await self.store.read_async(queries.silences)

    async def get_notification_history(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return notifications, and why others were suppressed, newest first; `limit` is 1 to 1000.

        `status` is sent, pending or failed, with the `tries`, or suppressed, with the `alert_id`, the `reason` (a code
        of `NotifyReason`) and what it was `by`. The `outcome` of a try is sent, failed, unknown (it may have arrived),
        possible_double (sent again after that), or None while it runs.
        """
        return await asyncio.to_thread(history, self.store, limit)

    async def get_alert_statistics(self) -> dict[str, Any]:
        """Return counts over all time, and of what fires now.

        `received`, `begun`, `resolved`, `acknowledged`, `firing`: alerts by level; several that are received may be one
        that began. `sent`, `failed`: notifications by channel. `possible_doubles`: tries by channel that may have
        arrived and were repeated. `suppressed`: by reason. `channels`: the state of each. `leader`: the deciding node,
        or None.
        """
        return await asyncio.to_thread(_statistics, self.store)

    async def deliver_once(self) -> dict[str, Any]:
        """Decide and send everything that is due, then stop: for scheduled runs, without a permanent node.

        Returns `led`, whether this node decided, the number of `notices` that it made, and of its tries by status.
        """
        tries: list[str] = []
        running = self._made(lambda entry: tries.append(entry["status"]))
        led, notices = await running.once()
        return {"led": led, "notices": notices, **{name: tries.count(name) for name in ("sent", "pending", "failed")}}

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self._file.configuration

    async def _open(self) -> None:
        self._file.reload()
        await super()._open()
        self._ingest = None  # it belongs to the previous store
        self._owner = asyncio.get_running_loop()

    async def _begin(self) -> None:
        self._here()
        self._running = self._made(lambda entry: self._emit_soon("notification", entry))
        await self._running.start()

    async def _end(self) -> None:
        running, self._running = self._running, None
        if self._owner is not asyncio.get_running_loop():
            logger.warning("the event loop of the alerts ended before they were stopped; their leases will expire")
            self._emitting.clear()
            return
        if running is not None:
            await running.stop()
        _, late = await asyncio.wait(set(self._emitting), timeout=STOP_GRACE_SECONDS) if self._emitting else ((), ())
        for task in late:
            logger.error("cancelled a callback that still ran %g s after the stop", STOP_GRACE_SECONDS)
            task.cancel()

    async def _close(self) -> None:
        if self._ingest is not None and self._owner is asyncio.get_running_loop():
            await self._ingest.idle()
        self._ingest = None
        await super()._close()

    def _made(self, tried: Callable[[dict[str, Any]], None]) -> Running:
        lease = settings().lease_seconds
        return Running(self.store, self._node, lease, self._file, self._registry, self._notify_ended, tried)

    def _here(self) -> None:
        """Raises OptimizationError in another event loop, unless its own has ended."""
        here = asyncio.get_running_loop()
        if here is not self._owner:
            check_loop(self._owner, type(self).__name__)
            self._owner, self._ingest = here, None

    async def _write(self, command: Operation[T]) -> T:
        self._here()
        answer = await self.store.write_async(command)
        self._wake()
        return answer

    def _wake(self) -> None:
        if self._running is not None:
            self._running.wake()

    def _notify_ended(self, episodes: Iterable[str]) -> None:
        if self.callbacks_of("resolved"):
            names = list(episodes)
            self._soon(lambda: self._emit_ended(names))

    async def _emit_ended(self, episodes: list[str]) -> None:
        for name in episodes:
            row = await self.store.read_async(queries.alert, name)
            if row is not None:
                await self.emit("resolved", alert_of_row(row, utc_now()))

    def _emit_soon(self, event: str, about: Any) -> None:
        if self.callbacks_of(event):
            self._soon(lambda: self.emit(event, about))

    def _soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run callbacks in a task, so that a slow one delays nothing else."""
        task = asyncio.create_task(work(), name="o9-alerts-callbacks")
        self._emitting.add(task)
        task.add_done_callback(self._emitting.discard)


@dataclass
class Running:
    """The loops of a started alert system: they decide, if this node leads, and send.

    An unavailable store, a refused file or a failing channel is logged once and retried; the loops run until `stop`.
    What is still waiting then is sent by another node, or after the next start.

    ended: called with the episodes that expired. tried: called with the entry of each try of this node.
    """

    store: Store
    node: str
    lease_seconds: float
    file: AlertsFile
    registry: ChannelRegistry
    ended: Callable[[tuple[str, ...]], None]
    tried: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self._leader = Leader(self.store, self.node, self.lease_seconds, self.file)
        self._delivery = Delivery(self.store, self.node, self.lease_seconds, self.tried)
        self._configuration: Configuration | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tick: asyncio.Future[TickResult] | None = None
        self._new_alerts, self._to_send, self._to_keep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._missing: dict[str, float] = {}  # channels that no node has, since when; inf once logged

    async def start(self) -> None:
        """Raises OptimizationError if the store is unavailable."""
        self.use_channels()
        await self._delivery.keep()
        loops: tuple[tuple[str, Callable[[], Awaitable[float]], asyncio.Event], ...] = (
            ("decide", self._decide, self._new_alerts),
            ("send", self._send, self._to_send),
            ("keep", self._keep, self._to_keep),
        )
        self._tasks = [
            asyncio.create_task(self._repeat(name, act, wake), name=f"o9-alerts-{name}") for name, act, wake in loops
        ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)
        if self._tick is not None:  # its thread cannot be cancelled
            await asyncio.wait({self._tick})
        with contextlib.suppress(OptimizationError):  # if the store is unavailable, the lease expires
            await self._delivery.stop()
            await asyncio.to_thread(self._leader.leave)

    def wake(self) -> None:
        """Decide soon, since there are new alerts."""
        self._new_alerts.set()

    def use_channels(self) -> None:
        """Use the present channels and configuration."""
        self._configuration = self.file.configuration
        self._delivery.use(self.registry.channels(self._configuration), self.registry.own, self._configuration)
        self._to_keep.set()
        self._to_send.set()

    async def once(self) -> tuple[bool, int]:
        """Decide and send everything that is due, then stop. Returns whether this node led, and how many notices."""
        self.use_channels()
        notices, led = 0, False
        try:
            await self._delivery.keep()
            while True:
                ticked = await asyncio.to_thread(self._leader.tick)
                led, notices = ticked.leads, notices + ticked.notices
                if not ticked.behind:
                    break
            await self._delivery.idle()
        finally:
            await self.stop()
        return led, notices

    async def _repeat(self, name: str, act: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
        """Call `act` again and again, after the seconds that it returns or when woken."""
        boundary = ErrorBoundary(logger, f"alerts: the loop {name!r}")
        while True:
            wake.clear()
            seconds = POLL_SECONDS
            with boundary:
                seconds = await act()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wake.wait()

    async def _decide(self) -> float:
        await asyncio.sleep(TICK_PAUSE_SECONDS)
        self._new_alerts.clear()
        self._tick = asyncio.ensure_future(asyncio.to_thread(self._leader.tick))
        ticked = await asyncio.shield(self._tick)
        if self.file.configuration is not self._configuration:
            self.use_channels()
        if ticked.ended:
            self.ended(ticked.ended)
        if ticked.notices:
            self._to_send.set()
        if not ticked.leads:
            await asyncio.sleep(POLL_SECONDS)
            return 0.0
        if ticked.behind:
            return 0.0
        until = POLL_SECONDS if ticked.next_at is None else (ticked.next_at - self._leader.now()).total_seconds()
        return min(max(until, 0.0), POLL_SECONDS)

    async def _send(self) -> float:
        await self._delivery.send_due()
        throttled = self._delivery.wait_seconds()
        return POLL_SECONDS if throttled is None else min(throttled, POLL_SECONDS)

    async def _keep(self) -> float:
        await self._delivery.keep()
        if (renewal := self._leader.renewal()) is not None:
            self._leader.renewed(await self.store.write_async(renewal))
        assert self._configuration is not None
        unknown = self.registry.unknown(self._configuration)
        elsewhere = await self.store.read_async(queries.sending_channels) if unknown else []
        now = time.monotonic()
        self._missing = {each: self._missing.get(each, now) for each in unknown if each not in elsewhere}
        for channel in [name for name, since in self._missing.items() if now - since >= MISSING_SECONDS]:
            self._missing[channel] = inf
            logger.error(
                "the receiver %r names the channel %r, which no node has: register it or correct the file; "
                "its messages wait", unknown[channel], channel,
            )  # fmt: skip
        return min(self.lease_seconds / 3, *(since + MISSING_SECONDS - now for since in self._missing.values()), inf)


def text(field: str, value: Any) -> str:
    """Return text in the form that the store holds. Raises OptimizationValidationError for other values."""
    if not isinstance(value, str):
        raise OptimizationValidationError(field, f"expected text, got {type(value).__name__}")
    return free_text(value)


def span(field: str, value: Any) -> timedelta:
    """Return a timedelta or seconds, above 0, as a timedelta. Raises OptimizationValidationError."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else validate_seconds(field, value)
    if not 0 < seconds <= LONGEST.total_seconds():
        raise OptimizationValidationError(field, f"{value!r:.80} is not above 0 and at most {LONGEST.days:,} days")
    return timedelta(seconds=seconds)


def _statistics(store: Store) -> dict[str, Any]:
    """Blocks."""
    names = ("received", "begun", "resolved", "acknowledged", "sent", "failed", "suppressed", "possible_double")
    counted: dict[str, dict[str, int]] = {name: {} for name in names}
    for row in store.read(queries.alert_counts):
        counted.setdefault(str(row["what"]), {})[row["name"]] = row["count"]
    held = store.read(queries.leader, LEASE)
    leads = held is not None and held["node"] is not None and store.read(queries.seconds_left, held["expires_at"]) > 0
    counted["possible_doubles"] = counted.pop("possible_double")
    return {
        **counted,
        "firing": store.read(queries.firing_alerts),
        "channels": store.read(queries.alert_channels),
        "leader": held["node"] if held is not None and leads else None,
    }

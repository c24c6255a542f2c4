"""The alert system: alerts are recorded, grouped, silenced and routed, and their messages sent, by one of many nodes.

Contract. An alert that `send_alert` returned for is durable, and is delivered or its record says why not, whatever dies
meanwhile. Of the nodes that share a store one decides (`o9.alerts.service.leader`), and each sends through the channels
that it has (`o9.alerts.service.delivery`). Answers come from the record, so they are the same on every node. Nothing is
sent while no system is started. It belongs to the event loop that opened or started it: what sends or changes raises
OptimizationError in another one. Decisions run in a thread, and a hanging send holds up no other.
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
from o9.alerts.service.leader import LEASE, Leader, Ticked
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
LOOK_SECONDS = 1.0  # for alerts of other processes, and for a leader that has gone
MISSING_SECONDS = 10.0  # a channel that no node has: a program registers its own after it has started
TICK_PAUSE_SECONDS = 0.05  # between two decisions, so that what arrives meanwhile is decided together


class AlertNotificationSystem(StoreComponent):
    """Given no store, it opens the one at `storage_path`; `alerts_file` None takes O9_ALERTS_FILE, where that is set.

    notification_channels: by name, see `register_notification_channel`. resolve_block: loads a block by its name.

    Events: `alert(alert)` when one begins to fire, `resolved(alert)` when one is over, each where that was sent or
    noticed; `notification(entry)` after each try of this node, see `o9.alerts.service.delivery.entry_of`.
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
        self._owner: asyncio.AbstractEventLoop | None = None  # in which it was opened, or started
        self._ingest: AlertIngest | None = None
        self._running: Running | None = None
        self._emitting: set[asyncio.Task[None]] = set()
        for name, channel in (notification_channels or {}).items():
            self._registry.register(name, channel)

    def use_node(self, node: str) -> None:
        """Lead and send under this name, by which others see that its process has died; before `start`."""
        self._node = node

    async def send_alert(
        self, alert: OptimizationAlert, *, resolve_timeout: timedelta | float | None = None
    ) -> str | None:
        """Record an alert durably; one with `resolved` set resolves its episode. Returns the id of the episode: that of
        its first alert. None: a rule dropped the alert, and the history says so.

        An alert that is sent again under its id, with a later timestamp, still fires, and no receiver is notified
        twice. The earliest timestamp is the start. Sent again unchanged, it has no effect. Other content needs another
        id, and belongs to the same episode if the labels are equal; a resolved alert needs a new id to fire again. The
        first 20,000 characters of a message are kept.

        resolve_timeout: a timedelta or seconds, after which it is resolved unless it is sent again. Raises
        OptimizationValidationError, naming the field; OptimizationConflictError for an id that had other content.
        """
        (answer,) = await self.send_alerts([alert], resolve_timeout=resolve_timeout)
        if isinstance(answer, OptimizationError):
            raise answer
        return answer

    async def send_alerts(
        self, alerts: Sequence[OptimizationAlert], *, resolve_timeout: timedelta | float | None = None
    ) -> list[str | OptimizationError | None]:
        """The same for many at once, which costs half as much; what is refused is an error in its place."""
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
        """The newest `limit` (1 to 1000) that were sent, newest first by their own time; `before`: older than this one.

        Resolved is one whose episode is over, under whichever of its ids that was said.
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
        """End the episode that it belongs to. False: it was over before. Raises OptimizationError for an unknown id."""
        ended = await self._write(ResolveAlert(text("alert_id", alert_id), text("by", by)))
        if ended:
            self._notify_ended([alert_id])
        return ended

    async def acknowledge_alert(self, alert_id: str, by: str = "") -> bool:
        """Acknowledge it: it is neither repeated nor escalated. False: it is resolved, or acknowledged already.

        Raises OptimizationError for an unknown id.
        """
        return await self._write(AcknowledgeAlert(text("alert_id", alert_id), text("by", by)))

    def register_notification_channel(self, name: str, channel: Any) -> Registered:
        """Send through `channel` what goes to `name`, and, where no file says otherwise, everything.

        channel: a function or coroutine function of one alert, an Apprise URL, an object with `notify(body, subject)`
        such as Prefect's notification blocks, `block:NAME`, or a channel of `o9.alerts.channels`. Raises
        OptimizationValidationError for anything else.
        """
        self._registry.register(name, channel)
        if self._running is not None:
            self._running.use_channels()
        return Registered()

    def register_alert_rule(self, rule: FilterFunction) -> Registered:
        """Ask `rule(alert)`, sync or async, about each alert that this program sends: only False drops it."""
        self._filters.append(AlertFilter(rule))
        return Registered()

    async def suppress_alert(
        self, pattern: str, duration: timedelta | float, *, author: str = "", comment: str = ""
    ) -> str:
        """Silence alerts that have `pattern` in title or message, or are about this optimization, for `duration`.

        pattern: with `*` or `?` it has to fit the whole of one of the three. duration: a timedelta, or seconds.
        Returns the silence's id; raises OptimizationValidationError.
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
        """The same by Alertmanager's matchers, such as `title="Drawdown", level=~"info|warning"`."""
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
        """Lift it before its end. False: it was over. Raises OptimizationError for an unknown id."""
        return await self._write(EndSilence(text("silence_id", silence_id), text("by", by)))

    async def get_silences(self) -> list[dict[str, Any]]:
        """Those that stand now, or will; the one that ends first first."""
        return await self.store.read_async(queries.silences)

    async def get_notification_history(self, limit: int = 100) -> list[dict[str, Any]]:
        """Notifications, and why others were suppressed, newest first; `limit` is 1 to 1000.

        `status`: sent, pending or failed, with the `tries`, whose `outcome` is sent, failed, unknown (it may have
        arrived), possible_double (sent again after that) or None while one goes on; or suppressed, with the `alert_id`,
        the `reason` (a code of `NotifyReason`), and what it was `by`.
        """
        return await asyncio.to_thread(history, self.store, limit)

    async def get_alert_statistics(self) -> dict[str, Any]:
        """Counts over all time, and what fires now.

        `received`, `begun`, `resolved`, `acknowledged`, `firing`: alerts by level; several may be one that began.
        `sent`, `failed`: notifications by channel. `possible_doubles`: tries by channel that may have arrived, and were
        repeated. `suppressed`: by reason. `channels`: the state of each. `leader`: the node that decides, or None.
        """
        return await asyncio.to_thread(_statistics, self.store)

    async def deliver_once(self) -> dict[str, Any]:
        """Decide and send all that is due, then stop: for a schedule, where nothing runs all the time.

        Returns `led`, whether this was the node to decide, `notices` that it made, and its tries by `status`.
        """
        tries: list[str] = []
        running = self._made(lambda entry: tries.append(entry["status"]))
        led, notices = await running.once()
        return {"led": led, "notices": notices, **{name: tries.count(name) for name in ("sent", "pending", "failed")}}

    @property
    def configuration(self) -> Configuration:
        """What is in force."""
        return self._file.configuration

    async def _open(self) -> None:
        self._file.look()
        await super()._open()
        self._ingest = None  # it wrote to the former store
        self._owner = asyncio.get_running_loop()

    async def _begin(self) -> None:
        self._here()
        self._running = self._made(lambda entry: self._emit_soon("notification", entry))
        await self._running.start()

    async def _end(self) -> None:
        running, self._running = self._running, None
        if self._owner is not asyncio.get_running_loop():
            logger.warning("the event loop that the alerts ran in ended before they were stopped: their leases run out")
            self._emitting.clear()
            return
        if running is not None:
            await running.stop()
        _, late = await asyncio.wait(set(self._emitting), timeout=STOP_GRACE_SECONDS) if self._emitting else ((), ())
        for task in late:
            logger.error("a callback has not come back %g s after the stop; it is cut off", STOP_GRACE_SECONDS)
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
        """Raises OptimizationError in another event loop than its own, unless that has ended."""
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
        """A slow callback holds up nothing else."""
        task = asyncio.create_task(work(), name="o9-alerts-callbacks")
        self._emitting.add(task)
        task.add_done_callback(self._emitting.discard)


@dataclass
class Running:
    """What runs on a node while its alert system is started: deciding, if it leads, and sending, in any case.

    A store that is away, a file that is refused and a channel that fails are said once, and tried again; nothing here
    ends but by `stop`, which leaves nothing behind: what waits is sent by another node, or at the next start.

    ended: gets the episodes that expired; tried: gets each attempt of this node.
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
        self._tick: asyncio.Future[Ticked] | None = None
        self._new_alerts, self._to_send, self._to_keep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._missing: dict[str, float] = {}  # channels that no node has: when that was first seen; inf once logged

    async def start(self) -> None:
        """Raises OptimizationError where the store is away."""
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
        if self._tick is not None:  # it goes on in its thread
            await asyncio.wait({self._tick})
        with contextlib.suppress(OptimizationError):  # a store that is away: the lease runs out
            await self._delivery.stop()
            await asyncio.to_thread(self._leader.leave)

    def wake(self) -> None:
        """There are new alerts: decide soon."""
        self._new_alerts.set()

    def use_channels(self) -> None:
        """Send through those that there are now."""
        self._configuration = self.file.configuration
        self._delivery.use(self.registry.channels(self._configuration), self.registry.own, self._configuration)
        self._to_keep.set()
        self._to_send.set()

    async def once(self) -> tuple[bool, int]:
        """Decide and send all that is due now, then leave. Answers whether this node led, and the notices it made."""
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
        """Do it again after the seconds that it answers, or when it is woken."""
        boundary = ErrorBoundary(logger, f"alerts: the loop {name!r}")
        while True:
            wake.clear()
            seconds = LOOK_SECONDS
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
            await asyncio.sleep(LOOK_SECONDS)
            return 0.0
        if ticked.behind:
            return 0.0
        until = LOOK_SECONDS if ticked.next_at is None else (ticked.next_at - self._leader.now()).total_seconds()
        return min(max(until, 0.0), LOOK_SECONDS)

    async def _send(self) -> float:
        await self._delivery.look()
        throttled = self._delivery.wait_seconds()
        return LOOK_SECONDS if throttled is None else min(throttled, LOOK_SECONDS)

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
                "the receiver %r names the channel %r, which no node has: register it, or correct the file; "
                "what goes there waits", unknown[channel], channel,
            )  # fmt: skip
        return min(self.lease_seconds / 3, *(since + MISSING_SECONDS - now for since in self._missing.values()), inf)


def text(field: str, value: Any) -> str:
    """As the store holds it. Raises OptimizationValidationError for what is no text."""
    if not isinstance(value, str):
        raise OptimizationValidationError(field, f"expected text, got {type(value).__name__}")
    return free_text(value)


def span(field: str, value: Any) -> timedelta:
    """A timedelta or seconds, above 0. Raises OptimizationValidationError."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else validate_seconds(field, value)
    if not 0 < seconds <= LONGEST.total_seconds():
        raise OptimizationValidationError(field, f"{value!r:.80} is not above 0 and at most {LONGEST.days:,} days")
    return timedelta(seconds=seconds)


def _statistics(store: Store) -> dict[str, Any]:
    """In a thread."""
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

"""The leader: the one node that reads new alerts, runs the engine and writes its decisions.

Contract. `tick` does everything that is due and returns when to call it again; it blocks, and is called by one thread
at a time. The engine's decisions are durable before they are sent, in one transaction with its state. A leader that
dies, cannot reach the store or loses its lease discards its engine, and the next leader restores it from the store with
the same suppressions. The cost of that depends on the firing alerts and the living groups only.

The engine's time never goes backwards: a clock that is set back has no effect; one that is set forward, or a machine
that wakes up, is followed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from o9.alerts.channels.registry import channel_name
from o9.alerts.config.schema import BUILT_IN_CHANNELS, EVERY_CHANNEL, AlertsFile
from o9.alerts.pipeline.alert import Alert, Notice, NotifyReason
from o9.alerts.pipeline.engine import Changes, Engine, InternalError, Snapshot
from o9.alerts.service.delivery import TRIED_FOR
from o9.alerts.service.repository import alert_in, all_open, known_of, new_notice, silence_in
from o9.lifecycle.leadership import Leadership
from o9.model.errors import StaleAttemptError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.alerts.episodes import ExpireAlerts
from o9.store.alerts.outbox import CommitDecisions, FailOldNotifications, RecordSuppressed, Suppressed
from o9.store.alerts.queries import Episode
from o9.store.core.column_types import moment, to_json
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store
from o9.text.format import duration

logger = logging.getLogger(__name__)
LEASE = "alerts"
PAGE = 5_000
AT_ONCE = 250  # alerts, a few milliseconds, before the process's other threads get their turn
YIELD_SECONDS = 0.0005
PAGES = 20  # read by one tick, before the decisions on them
IDLE_INTERVAL = timedelta(seconds=30)  # between two runs of the engine without news
GIVE_UP_INTERVAL = timedelta(hours=1)
STUCK_SECONDS = 300.0  # a tick with a million alerts takes a minute
JUMP = timedelta(seconds=5)
QUARANTINE = timedelta(hours=1)


class Clock:
    """A clock that runs with the machine's uptime, never backwards, and follows forward jumps of the wall clock."""

    def __init__(self, wall: Callable[[], datetime] = utc_now, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._base, self._began = wall(), steady()

    def now(self) -> datetime:
        passed = self._base + timedelta(seconds=self._steady() - self._began)
        wall = self._wall()
        if wall - passed > JUMP:
            self._base, self._began = wall, self._steady()
            return wall
        return passed


@dataclass(frozen=True)
class TickResult:
    """`next_at`: when something may be due, by `Leader.now`. `ended`: expired episodes. `behind`: more to read."""

    leads: bool
    next_at: datetime | None = None
    notices: int = 0
    ended: tuple[str, ...] = ()
    behind: bool = False


class Leader:
    def __init__(
        self, store: Store, node: str, lease_seconds: float, file: AlertsFile, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._node = node
        self._file = file
        self._clock = clock or Clock()
        self._leadership = Leadership(store, LEASE, lease_seconds)
        self._ticked_at = 0.0
        self._engine: Engine | None = None
        self._after = (0, "")
        self._silence_change = 0
        self._written = 0
        self._gave_up_at: datetime | None = None
        self._newest = -1
        self._worked_at = self._clock.now()
        self._ends_at: datetime | None = None
        self._quarantined: dict[str, datetime] = {}  # until when, by fingerprint

    def now(self) -> datetime:
        return self._clock.now()

    def tick(self) -> TickResult:
        """Do everything that is due, if this node leads.

        Raises OptimizationError if the store is unavailable, or if the first configuration is refused.
        """
        self._ticked_at = time.monotonic()
        changed = self._file.reload()
        if not self._lead():
            return TickResult(leads=False)
        now = self.now()
        try:
            return self._work(now, reconfigure=changed)
        except BaseException as error:
            self._forget()  # its decisions may not be written; the next engine is restored from the store
            if isinstance(error, InternalError):
                self._quarantine(error, now)
                return TickResult(leads=True, next_at=now, behind=True)
            if not isinstance(error, StaleAttemptError):
                raise
            logger.warning("%s", error)
            return TickResult(leads=False)

    def renewal(self) -> AcquireLeadership | None:
        """Return the write that renews the lease during a long tick; pass its answer to `renewed`. From any thread.

        None if this node does not lead, or if its tick hangs, so that another node can take over.
        """
        if self._leadership.fence is None or time.monotonic() - self._ticked_at > STUCK_SECONDS:
            return None
        return self._leadership.renewal(self._node)

    def renewed(self, fence: int | None) -> None:
        self._leadership.renewed(fence)

    def leave(self) -> None:
        """Release the lease, so that another node can lead at once."""
        self._forget()
        if (release := self._leadership.release()) is not None:
            self._store.write(release)

    def _lead(self) -> bool:
        before = self._leadership.fence
        leads = self._leadership.acquire(self._node)
        if self._leadership.fence != before:
            self._engine = None
        return leads

    def _forget(self) -> None:
        self._engine = None
        self._leadership.doubt()

    def _work(self, now: datetime, *, reconfigure: bool) -> TickResult:
        newest = self._store.read(queries.last_change)
        if self._engine is not None and not reconfigure and newest == self._newest and not self._is_due(now):
            return TickResult(True, self._next())
        self._newest, self._worked_at = newest, now
        if any(until <= now for until in self._quarantined.values()):
            self._engine = None
        if self._engine is None:
            self._engine = self._restored(now)
        elif reconfigure:
            self._engine = Engine.restored(self._file.configuration, self._engine.snapshot(), now)
        self._ends_at = self._ends_next()
        lapses = self._ends_at is not None and self._ends_at <= utc_now()
        ended = tuple(self._store.write(ExpireAlerts())) if lapses else ()
        self._give_up(now)
        for row in self._store.read(queries.changed_silences, self._silence_change):
            self._silence_change = row["changed"]
            if row["ended_at"] is not None:
                self._engine.end_silence(row["silence_id"])
            else:
                self._engine.put_silence(silence_in(row))
        if behind := self._read_alerts(self._engine, now):
            self._newest = -1
        notices = self._engine.advance(now)
        self._write_decisions(notices, self._engine.drain())
        self._ends_at = self._ends_next()
        return TickResult(True, self._next(), len(notices), ended, behind)

    def _is_due(self, now: datetime) -> bool:
        """Return whether a flush, an end or the engine's housekeeping is due."""
        at = self._next()
        return now - self._worked_at >= IDLE_INTERVAL or (at is not None and at <= max(now, utc_now()))

    def _next(self) -> datetime | None:
        assert self._engine is not None
        moments = (self._engine.due(), self._ends_at, *self._quarantined.values())
        return min((each for each in moments if each is not None), default=None)

    def _ends_next(self) -> datetime | None:
        ends_at = self._store.read(queries.next_end)
        return None if ends_at is None else datetime.fromisoformat(ends_at)

    def _quarantine(self, error: InternalError, now: datetime) -> None:
        """Exclude the alerts that raised an error from the engine for a while. Their group begins anew."""
        until = now + QUARANTINE
        self._quarantined |= dict.fromkeys(error.alerts, until)
        ids, text = list(error.alerts.values()), str(error)[:300]
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        logger.error(
            "alerts: %s%s quarantined until %s after an internal error: %s",
            ", ".join(ids[:3]), more, moment(until), text, exc_info=error,
        )  # fmt: skip
        why = NotifyReason.QUARANTINED.value, f"{text}; tried again from {moment(until)} on", moment(now)
        self._store.write(RecordSuppressed([Suppressed(alert_id, "", *why) for alert_id in ids]))
        if error.group and self._leadership.fence is not None:
            self._store.write(CommitDecisions(LEASE, self._leadership.fence, self._written, {error.group: None}))

    def _give_up(self, now: datetime) -> None:
        """Once an hour, fail notifications for which no node has had the channel, and log them."""
        if self._gave_up_at is not None and now - self._gave_up_at < GIVE_UP_INTERVAL:
            return
        self._gave_up_at = now
        why = f"no node could send through it for {duration(TRIED_FOR)}"
        before = moment(now - TRIED_FOR - GIVE_UP_INTERVAL)  # after the last try of a node that has the channel
        for channel, count in self._store.write(FailOldNotifications(before, why)).items():
            logger.error("gave up %d messages to the channel %r: %s", count, channel, why)

    def _read_alerts(self, engine: Engine, now: datetime) -> bool:
        """Pass new alerts to the engine. Returns whether there are more."""
        for _ in range(PAGES):
            episodes = self._store.read(queries.open_episodes, self._after, limit=PAGE)
            given: list[Alert] = []
            for episode in episodes:
                alert = alert_in(episode)
                if episode.resolved_at is not None and episode.began >= self._after[0]:
                    given.append(replace(alert, ends_at=None))  # the engine must see that it fired
                given.append(alert)
            given = [alert for alert in given if alert.fingerprint not in self._quarantined]
            for start in range(0, len(given), AT_ONCE):
                engine.take(given[start : start + AT_ONCE], now)
                time.sleep(YIELD_SECONDS)
            for episode in episodes:
                if episode.acknowledged_by is not None:
                    engine.acknowledge(episode.fingerprint, episode.acknowledged_by)
            if len(episodes) == PAGE:
                self._after = episodes[-1].changed, episodes[-1].alert_id
                continue
            if episodes:  # a change becomes readable as a whole, so all of the last one has been read
                self._after = episodes[-1].changed + 1, ""
            return False
        return True

    def _write_decisions(self, notices: Sequence[Notice], changes: Changes) -> None:
        cursor = self._after[0] - 1
        if not (changes or notices or cursor > self._written):
            return
        assert self._leadership.fence is not None
        groups = {
            key: None if each is None else (moment(each[0]), to_json(each[1])) for key, each in changes.groups.items()
        }
        given = [new_notice(notice, self._channels(notice)) for notice in notices]
        held = [
            Suppressed(
                each.alert.alert_id, each.receiver, each.decision.reason.value, each.decision.by, moment(each.at)
            )
            for each in changes.held
        ]
        self._store.write(
            CommitDecisions(
                LEASE, self._leadership.fence, cursor, groups, {key: moment(at) for key, at in changes.due.items()},
                given, held, changes.closed,
            )
        )  # fmt: skip
        self._written = cursor

    def _channels(self, notice: Notice) -> list[str]:
        named = self._file.configuration.receivers[notice.receiver].channels
        channels = [channel_name(name) for name in named if name != EVERY_CHANNEL]
        if EVERY_CHANNEL in named:
            channels += [*BUILT_IN_CHANNELS, *self._store.read(queries.sending_channels)]
        return list(dict.fromkeys(channels))

    def _restored(self, now: datetime) -> Engine:
        """Return the engine in the state of its last written decisions."""
        configuration = self._file.configuration
        self._quarantined = {name: until for name, until in self._quarantined.items() if until > now}
        held = self._store.read(queries.leader, LEASE)
        cursor = held["cursor"] if held is not None else 0
        known = [
            each for each in all_open(self._store) if each.began <= cursor and each.fingerprint not in self._quarantined
        ]
        known.sort(key=lambda episode: (episode.began, episode.alert_id))  # the last engine's order
        by_fingerprint: dict[str, list[Episode]] = {}
        for episode in known:
            by_fingerprint.setdefault(episode.fingerprint, []).append(episode)
        kept = tuple(known_of(each, cursor, now, configuration.flapping) for each in by_fingerprint.values())
        silences = sorted(self._store.read(queries.silences), key=lambda row: int(row["changed"]))
        groups = {
            key: (datetime.fromisoformat(due_at), json.loads(state))
            for key, (due_at, state) in self._store.read(queries.alert_groups).items()
        }
        self._after, self._silence_change, self._written = (cursor + 1, ""), cursor, cursor
        logger.info("this node leads the alerts: %d alerts and %d groups are open", len(known), len(groups))
        snapshot = Snapshot(kept, tuple(map(silence_in, silences)), groups)
        return Engine.restored(configuration, snapshot, now)

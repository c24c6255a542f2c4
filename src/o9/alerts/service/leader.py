"""The one node that decides: it reads new alerts, runs the engine, and writes what follows.

Contract. `tick` does everything that is due, and says when to come again; it blocks, and is called by one thread at a
time. What the engine decides is durable before anybody sends it, in one transaction with what the engine knows then. A
leader that dies, is cut off from the store or loses its lease forgets its engine; the next leader makes one from the
store's rows, which holds back what the old one held back. Its start costs what fires and the groups that are alive.

The engine's time goes on by itself and never backwards: a clock that is set back stops nothing, and one that is set
forward, or a machine that wakes up, is followed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from o9.alerts.config.loader import AlertsFile
from o9.alerts.config.schema import BUILT_IN_CHANNELS, EVERY_CHANNEL
from o9.alerts.pipeline.alert import Alert
from o9.alerts.pipeline.clock import Clock
from o9.alerts.pipeline.engine import Engine
from o9.alerts.pipeline.engine_state import Changes, Kept, Snapshot
from o9.alerts.pipeline.notice import Notice
from o9.alerts.pipeline.quarantine import Culprit, InternalErrors, Quarantine
from o9.alerts.pipeline.reasons import Reason
from o9.alerts.pipeline.stages import TRIED_FOR
from o9.alerts.service.repository import (
    UNREADABLE,
    alert_in,
    groups_in,
    kept_of,
    new_notice,
    silence_or_none,
    suppressed,
)
from o9.lifecycle.leadership import Leadership
from o9.model.errors import StaleAttemptError
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.alerts.episodes import LapseAlerts
from o9.store.alerts.outbox import CommitDecisions, GiveUp, RecordSuppressed, Suppressed
from o9.store.alerts.queries import Episode
from o9.store.core.column_types import moment, to_json
from o9.store.queue.leader_election import AcquireLeadership
from o9.store.store import Store
from o9.text.format import duration

logger = logging.getLogger(__name__)
LEASE = "alerts"
PAGE = 5_000
AT_ONCE = 250  # taken before the process's other threads get their turn: a few milliseconds of them
BREATH_SECONDS = 0.0005
PAGES = 20  # that one tick reads; then what follows from them is decided first
WORKS_EVERY = timedelta(seconds=30)  # where there is no news
GIVES_UP_EVERY = timedelta(hours=1)
STUCK_SECONDS = 300.0  # a tick over a million alerts takes a minute


@dataclass(frozen=True)
class Ticked:
    """`next_at`: when something may be due, by `Leader.now`; None: nothing is. `behind`: there is more to read now."""

    leads: bool
    next_at: datetime | None = None
    notices: int = 0
    ended: tuple[str, ...] = ()
    behind: bool = False


class Leader:
    """`channel_name` says under which name a receiver's channel is known."""

    def __init__(
        self,
        store: Store,
        node: str,
        lease_seconds: float,
        file: AlertsFile,
        channel_name: Callable[[str], str],
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._node = node
        self._file = file
        self._channel_name = channel_name
        self._clock = clock or Clock()
        self._leading = Leadership(store, LEASE, lease_seconds)
        self._ticked_at = 0.0
        self._engine: Engine | None = None
        self._after = (0, "")
        self._silence_change = 0
        self._written = 0
        self._earlier: list[tuple[datetime, str]] = []
        self._gave_up_at: datetime | None = None
        self._newest = -1
        self._worked_at = self._clock.now()
        self._ends_at: datetime | None = None
        self._quarantine = Quarantine()
        self._lapsed: tuple[str, ...] = ()
        self._leaving = False

    def now(self) -> datetime:
        return self._clock.now()

    def tick(self) -> Ticked:
        """Raises OptimizationError where the store is away, or the file is refused and nothing was in force before."""
        self._ticked_at = time.monotonic()
        changed = self._file.look()
        if not self._lead():
            return Ticked(leads=False)
        now = self.now()
        try:
            return self._work(now, reconfigure=changed)
        except StaleAttemptError as error:
            logger.warning("%s", error)
            self._forget()
            return Ticked(leads=False)
        except _Leaving:
            self._forget()
            return Ticked(leads=False)
        except InternalErrors as errors:
            self._forget()
            self._quarantine_all(errors, now)
            return Ticked(leads=True, next_at=now, behind=True)
        except BaseException:
            self._forget()  # what the engine decided may not be written: the next one is made of what is
            raise

    def renewal(self) -> AcquireLeadership | None:
        """What keeps the lease while a tick takes its time; give the answer to `renewed`. From any thread.

        None: this node does not lead, or its tick hangs, and another node is to lead.
        """
        if self._leading.fence is None or time.monotonic() - self._ticked_at > STUCK_SECONDS:
            return None
        return self._leading.renewal(self._node)

    def renewed(self, fence: int | None) -> None:
        self._leading.renewed(fence)

    def hurry(self) -> None:
        """From any thread: a tick that goes on ends soon, undecided; `leave` follows."""
        self._leaving = True

    def leave(self) -> None:
        """Let another node lead at once."""
        self._leaving = False
        self._forget()
        if (going := self._leading.release()) is not None:
            self._store.write(going)

    def _lead(self) -> bool:
        before = self._leading.fence
        leads = self._leading.acquire(self._node)
        if self._leading.fence != before:
            self._engine = None
        return leads

    def _forget(self) -> None:
        self._engine = None
        self._leading.doubt()

    def _work(self, now: datetime, *, reconfigure: bool) -> Ticked:
        before: Iterable[str] = ()
        newest = self._store.read(queries.last_change)
        if self._engine is not None and not reconfigure and newest == self._newest and not self._is_due(now):
            return Ticked(True, self._next())
        self._newest, self._worked_at = newest, now
        if self._quarantine.passed(now):
            self._engine = None
        if self._engine is None:
            self._engine, before = self._restored(now), self._store.read(queries.alert_groups)
        elif reconfigure:
            snapshot = self._engine.snapshot()
            before = snapshot.groups
            self._engine = Engine.restored(self._file.configuration, snapshot, now, self._quarantine.groups())
        self._lapse()
        self._give_up(now)
        self._take_silences()
        if behind := self._take_alerts(now):
            self._newest = -1
        notices = self._engine.advance(now)
        self._decide(notices, self._engine.drain(), now, before)
        self._ends_at = self._ends_next()
        ended, self._lapsed = self._lapsed, ()
        return Ticked(True, self._next(), len(notices), ended, behind)

    def _is_due(self, now: datetime) -> bool:
        """Without any news: a group, an end, or the engine's housekeeping."""
        at = self._next()
        return now - self._worked_at >= WORKS_EVERY or (at is not None and at <= max(now, utc_now()))

    def _next(self) -> datetime | None:
        assert self._engine is not None
        moments = (self._engine.due(), self._ends_at, self._quarantine.next_at())
        return min((each for each in moments if each is not None), default=None)

    def _ends_next(self) -> datetime | None:
        ends_at = self._store.read(queries.next_end)
        return None if ends_at is None else datetime.fromisoformat(ends_at)

    def _lapse(self) -> None:
        ends_at = self._ends_next()
        if ends_at is not None and ends_at <= utc_now():
            self._lapsed += tuple(self._store.write(LapseAlerts()))

    def _quarantine_all(self, errors: InternalErrors, now: datetime) -> None:
        """Everything else goes on at once, in an engine that is made without it."""
        for fault, until, is_first in self._quarantine.put(errors, now):
            which = ", ".join(fault.alert_ids[:3])
            more = f" and {len(fault.alert_ids) - 3} more" if len(fault.alert_ids) > 3 else ""
            logger.error(
                "alerts: %s%s quarantined until %s: deciding on it raised %s",
                which, more, moment(until), fault.words, exc_info=fault.error if is_first else None,
            )  # fmt: skip
            if is_first:
                quarantined = Reason.QUARANTINED.value
                words = f"{fault.words}; tried again from {moment(until)} on"
                held = [Suppressed(each, fault.receiver, quarantined, words, moment(now)) for each in fault.alert_ids]
                self._store.write(RecordSuppressed(held))

    def _give_up(self, now: datetime) -> None:
        """Once an hour: what no node has had a channel for fails, and that is logged."""
        if self._gave_up_at is not None and now - self._gave_up_at < GIVES_UP_EVERY:
            return
        self._gave_up_at = now
        why = f"no node could send through it for {duration(TRIED_FOR)}"
        for channel, count in self._store.write(GiveUp(moment(now - TRIED_FOR), why)).items():
            logger.error("%d messages to the channel %r were given up: %s", count, channel, why)

    def _take_silences(self) -> None:
        assert self._engine is not None
        for row in self._store.read(queries.changed_silences, self._silence_change):
            self._silence_change = row["changed"]
            if row["ended_at"] is not None:
                self._engine.end_silence(row["silence_id"])
            elif (silence := silence_or_none(row)) is not None:
                self._engine.put_silence(silence)

    def _take_alerts(self, now: datetime) -> bool:
        """Takes new alerts; whether there are more."""
        assert self._engine is not None
        for _ in range(PAGES):
            episodes = self._store.read(queries.open_episodes, self._after, limit=PAGE)
            if episodes:
                given = self._as_received(episodes, self._after[0] - 1)
                for start in range(0, len(given), AT_ONCE):
                    if self._leaving:
                        raise _Leaving
                    self._engine.take(given[start : start + AT_ONCE], now)
                    time.sleep(BREATH_SECONDS)
                self._after = episodes[-1].changed, episodes[-1].alert_id
            for episode in episodes:
                if episode.acknowledged_by is not None:
                    self._engine.acknowledge(episode.fingerprint, episode.acknowledged_by)
            if len(episodes) < PAGE:
                if episodes:  # all of the last one's change was there: that becomes readable at once
                    self._after = episodes[-1].changed + 1, ""
                return False
        return True

    def _decide(self, notices: list[Notice], changes: Changes, now: datetime, before: Iterable[str]) -> None:
        groups: dict[str, tuple[str, str] | None] = {
            key: None if each is None else (moment(each[0].due_at), to_json(each[1]))
            for key, each in changes.groups.items()
        }
        assert self._engine is not None
        if before:
            alive = self._engine.snapshot().groups
            groups |= {key: None for key in before if key not in alive and key not in groups}
        closed = [*changes.closed, *self._counted_no_more(now)]
        cursor = self._after[0] - 1
        if not (groups or changes.due or notices or changes.held or closed or cursor > self._written):
            return
        assert self._leading.fence is not None
        given = [new_notice(notice, self._channels(notice)) for notice in notices]
        self._store.write(
            CommitDecisions(
                LEASE, self._leading.fence, cursor, groups, {key: moment(at) for key, at in changes.due.items()},
                given, [suppressed(held) for held in changes.held], closed,
            )
        )  # fmt: skip
        self._written = cursor

    def _channels(self, notice: Notice) -> list[str]:
        named = self._file.configuration.receivers[notice.receiver].channels
        channels = [self._channel_name(name) for name in named if name != EVERY_CHANNEL]
        if EVERY_CHANNEL in named:
            channels += [*BUILT_IN_CHANNELS, *self._store.read(queries.sending_channels)]
        return list(dict.fromkeys(channels))

    def _counted_no_more(self, now: datetime) -> list[str]:
        """Episodes that are over and that flap damping does not count any more."""
        damping = self._file.configuration.flapping
        since = now if damping is None else now - damping.within - damping.quiet
        over = [name for ended, name in self._earlier if ended < since]
        self._earlier = [each for each in self._earlier if each[0] >= since]
        return over

    def _restored(self, now: datetime) -> Engine:
        """The engine as it was when its last decision was written."""
        held = self._store.read(queries.leader, LEASE)
        cursor = held["cursor"] if held is not None else 0
        known = [
            each for each in self._all_open() if each.began <= cursor and not self._quarantine.holds(each.fingerprint)
        ]
        known.sort(key=lambda episode: (episode.began, episode.alert_id))  # in which the old engine took them
        by_fingerprint: dict[str, list[Episode]] = {}
        for episode in known:
            by_fingerprint.setdefault(episode.fingerprint, []).append(episode)
        kept: list[Kept] = []
        self._earlier, errors = [], InternalErrors()
        for fingerprint, episodes in by_fingerprint.items():
            try:
                kept.append(kept_of(episodes, cursor, now, self._file.configuration.flapping))
                self._earlier += [
                    (datetime.fromisoformat(each.resolved_at), each.alert_id)
                    for each in episodes[:-1]
                    if each.resolved_at is not None
                ]
            except UNREADABLE as error:
                errors.alerts[fingerprint] = Culprit(error, (episodes[-1].alert_id,))
        if errors:
            raise errors
        rows = sorted(self._store.read(queries.silences), key=lambda row: int(row["changed"]))
        silences = [silence for row in rows if (silence := silence_or_none(row)) is not None]
        groups = groups_in(self._store.read(queries.alert_groups), self._file.configuration, now)
        self._after, self._silence_change, self._written = (cursor + 1, ""), cursor, cursor
        logger.info("this node leads the alerts: %d of them and %d groups are open", len(known), len(groups))
        snapshot = Snapshot(tuple(kept), tuple(silences), groups)
        return Engine.restored(self._file.configuration, snapshot, now, self._quarantine.groups())

    def _all_open(self) -> list[Episode]:
        found: list[Episode] = []
        after = (0, "")
        while episodes := self._store.read(queries.open_episodes, after, limit=PAGE):
            if self._leaving:
                raise _Leaving
            found += episodes
            after = episodes[-1].changed, episodes[-1].alert_id
        return found

    def _as_received(self, episodes: Iterable[Episode], cursor: int) -> list[Alert]:
        """What is over already and was never seen to fire did fire."""
        given: list[Alert] = []
        errors = InternalErrors()
        for episode in episodes:
            if self._quarantine.holds(episode.fingerprint):
                continue
            try:
                alert = alert_in(episode)
            except UNREADABLE as error:
                errors.alerts[episode.fingerprint] = Culprit(error, (episode.alert_id,))
                continue
            if episode.resolved_at is not None and episode.began > cursor:
                given.append(replace(alert, ends_at=None))
            given.append(alert)
        if errors:
            raise errors
        return given


class _Leaving(Exception):
    """This node leads no more in a moment: what its tick would decide is for the next leader."""

"""The one node that decides who is told: it reads what was told, runs the engine, and writes down what follows.

Contract. `tick` does everything that is due, and says when to come again; it blocks, and is called by one thread at a
time. What the engine decides is durable before anybody sends it, in one transaction with what the engine knows then. A
leader that dies, is cut off from the store or loses its lease forgets its engine; whoever leads next makes one from the
store's rows, which holds back what the old one held back. Its start costs what fires and the groups that are alive.

The engine's time goes on by itself and never backwards: a clock that is set back stops nothing, and one that is set
forward, or a machine that wakes up, is followed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from o9.alerts.alert import Alert
from o9.alerts.alerts_file import AlertsFile
from o9.alerts.configuration import EVERY_CHANNEL, Configuration
from o9.alerts.engine import Engine
from o9.alerts.memory import Changes, Kept, Snapshot
from o9.alerts.notice import Notice
from o9.alerts.record import alert_in, kept_of, new_notice, silence_in, untold
from o9.alerts.silences import Silence
from o9.alerts.stages import TRIED_FOR, duration
from o9.lifecycle.presence import dead_on_this_host
from o9.model.errors import OptimizationValidationError, StaleAttemptError
from o9.model.optimization import utc_now
from o9.store.alert_reads import Episode
from o9.store.alerts import LapseAlerts
from o9.store.codec import moment, to_json
from o9.store.commit import Row
from o9.store.leadership import Lead, LetGo
from o9.store.outbox import Decide, GiveUp
from o9.store.store import Store

logger = logging.getLogger(__name__)
LEASE = "alerts"
PAGE = 5_000
AT_ONCE = 250  # taken before the process's other threads get their turn: a few milliseconds of them
BREATH_SECONDS = 0.0005
PAGES = 20  # that one tick reads; then what follows from them is told first
JUMP = timedelta(seconds=5)
WORKS_EVERY = timedelta(seconds=30)  # where there is no news
GIVES_UP_EVERY = timedelta(hours=1)
STUCK_SECONDS = 300.0  # a tick over a million alerts takes a minute
STANDING_CHANNEL = "log"  # what is told to every channel is told there, too


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
        self._lease_seconds = lease_seconds
        self._file = file
        self._channel_name = channel_name
        self._clock = clock or Clock()
        self._fence: int | None = None
        self._renew_at = self._ticked_at = 0.0
        self._engine: Engine | None = None
        self._after = (0, "")
        self._silence_change = 0
        self._written = 0
        self._earlier: list[tuple[datetime, str]] = []
        self._gave_up_at: datetime | None = None
        self._newest = -1
        self._worked_at = self._clock.now()
        self._ends_at: datetime | None = None

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
        except BaseException:
            self._forget()  # what the engine decided may not be written: the next one is made of what is
            raise

    def renewal(self) -> Lead | None:
        """What keeps the lease while a tick takes its time; give the answer to `renewed`. From any thread.

        None: this node does not lead, or its tick hangs, and somebody else is to lead.
        """
        if self._fence is None or time.monotonic() - self._ticked_at > STUCK_SECONDS:
            return None
        return Lead(LEASE, self._node, self._lease_seconds)

    def renewed(self, fence: int | None) -> None:
        self._renew_at = time.monotonic() + self._lease_seconds / 3 if fence == self._fence else 0.0

    def leave(self) -> None:
        """Let somebody else lead at once."""
        fence, self._fence = self._fence, None
        self._forget()
        if fence is not None:
            self._store.write(LetGo(LEASE, fence))

    def _lead(self) -> bool:
        """Whether this node leads: renewed every third of the lease; taken where nobody has it."""
        if self._fence is not None and time.monotonic() < self._renew_at:
            return True
        dead: tuple[str, ...] = ()
        if self._fence is None:
            dead = dead_on_this_host(self._store)
            held = self._store.alerts.leader(LEASE)
            # Only looked at, so that nodes in waiting write nothing.
            if held is not None and held["node"] not in (None, self._node, *dead) and self._held_on(held):
                return False
        began = time.monotonic()
        fence = self._store.write(Lead(LEASE, self._node, self._lease_seconds, dead))
        if fence != self._fence:
            self._forget()
        self._fence, self._renew_at = fence, began + self._lease_seconds / 3
        return fence is not None

    def _held_on(self, held: Row) -> bool:
        return self._store.alerts.seconds_left(held["expires_at"]) > 0

    def _forget(self) -> None:
        self._engine = None
        self._renew_at = 0.0

    def _work(self, now: datetime, *, reconfigure: bool) -> Ticked:
        before: Iterable[str] = ()
        newest = self._store.last_change()
        if self._engine is not None and not reconfigure and newest == self._newest and not self._is_due(now):
            return Ticked(True, self._next())
        self._newest, self._worked_at = newest, now
        if self._engine is None:
            self._engine, before = self._restored(now), self._store.alerts.groups()
        elif reconfigure:
            snapshot = self._engine.snapshot()
            before = snapshot.groups
            self._engine = Engine.restored(self._file.configuration, snapshot, now)
        ended = self._lapse()
        self._give_up(now)
        self._take_silences()
        if behind := self._take_alerts(now):
            self._newest = -1
        notices = self._engine.advance(now)
        self._decide(notices, self._engine.drain(), now, before)
        self._ends_at = self._ends_next()
        return Ticked(True, self._next(), len(notices), ended, behind)

    def _is_due(self, now: datetime) -> bool:
        """Without any news: a group, an end, or the engine's housekeeping."""
        at = self._next()
        return now - self._worked_at >= WORKS_EVERY or (at is not None and at <= max(now, utc_now()))

    def _next(self) -> datetime | None:
        assert self._engine is not None
        return min((each for each in (self._engine.due(), self._ends_at) if each is not None), default=None)

    def _ends_next(self) -> datetime | None:
        ends_at = self._store.alerts.ends_next()
        return None if ends_at is None else datetime.fromisoformat(ends_at)

    def _lapse(self) -> tuple[str, ...]:
        ends_at = self._ends_next()
        if ends_at is None or ends_at > utc_now():
            return ()
        return tuple(self._store.write(LapseAlerts()))

    def _give_up(self, now: datetime) -> None:
        """Once an hour: what no node has had a channel for is not told, and that is said."""
        if self._gave_up_at is not None and now - self._gave_up_at < GIVES_UP_EVERY:
            return
        self._gave_up_at = now
        why = f"no node could send through it for {duration(TRIED_FOR)}"
        for channel, count in self._store.write(GiveUp(moment(now - TRIED_FOR), why)).items():
            logger.error("%d messages to the channel %r were not told: %s", count, channel, why)

    def _take_silences(self) -> None:
        assert self._engine is not None
        for row in self._store.alerts.changed_silences(self._silence_change):
            self._silence_change = row["changed"]
            if row["ended_at"] is not None:
                self._engine.end_silence(row["silence_id"])
            elif (silence := _silence(row)) is not None:
                self._engine.put_silence(silence)

    def _take_alerts(self, now: datetime) -> bool:
        """What was told since; whether there is more."""
        assert self._engine is not None
        for _ in range(PAGES):
            episodes = self._store.alerts.open_episodes(self._after, limit=PAGE)
            if episodes:
                told = _as_told(episodes, self._after[0] - 1)
                while some := list(islice(told, AT_ONCE)):
                    self._engine.take(some, now)
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
        assert self._fence is not None
        told = [new_notice(notice, self._channels(notice)) for notice in notices]
        self._store.write(
            Decide(
                LEASE, self._fence, cursor, groups, {key: moment(at) for key, at in changes.due.items()},
                told, [untold(held) for held in changes.held], closed,
            )
        )  # fmt: skip
        self._written = cursor

    def _channels(self, notice: Notice) -> list[str]:
        named = self._file.configuration.receivers[notice.receiver].channels
        channels = [self._channel_name(name) for name in named if name != EVERY_CHANNEL]
        if EVERY_CHANNEL in named:
            channels += [STANDING_CHANNEL, *self._store.alerts.channels_of_nodes()]
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
        held = self._store.alerts.leader(LEASE)
        cursor = held["cursor"] if held is not None else 0
        known = [episode for episode in self._all_open() if episode.began <= cursor]
        known.sort(key=lambda episode: (episode.began, episode.alert_id))  # in which the old engine took them
        by_fingerprint: dict[str, list[Episode]] = {}
        for episode in known:
            by_fingerprint.setdefault(episode.fingerprint, []).append(episode)
        kept: list[Kept] = []
        self._earlier = []
        for episodes in by_fingerprint.values():
            kept.append(kept_of(episodes, cursor, now, self._file.configuration.flapping))
            self._earlier += [
                (datetime.fromisoformat(each.resolved_at), each.alert_id)
                for each in episodes[:-1]
                if each.resolved_at is not None
            ]
        rows = sorted(self._store.alerts.silences(), key=lambda row: int(row["changed"]))
        silences = [silence for row in rows if (silence := _silence(row)) is not None]
        groups = {
            key: (datetime.fromisoformat(due_at), json.loads(state))
            for key, (due_at, state) in self._store.alerts.groups().items()
        }
        self._after, self._silence_change, self._written = (cursor + 1, ""), cursor, cursor
        logger.info("this node leads the alerts: %d of them and %d groups are open", len(known), len(groups))
        snapshot = Snapshot(tuple(kept), tuple(silences), _within_reach(self._file.configuration, groups, now))
        return Engine.restored(self._file.configuration, snapshot, now)

    def _all_open(self) -> list[Episode]:
        found: list[Episode] = []
        after = (0, "")
        while episodes := self._store.alerts.open_episodes(after, limit=PAGE):
            found += episodes
            after = episodes[-1].changed, episodes[-1].alert_id
        return found


class Clock:
    """Goes on with the machine's uptime; where the wall clock is ahead of that by a jump, it is followed."""

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


Groups = Mapping[str, tuple[datetime, dict[str, Any]]]


def _within_reach(configuration: Configuration, groups: Groups, now: datetime) -> Groups:
    """No group waits longer than its route says, though the clock of who wrote it was ahead."""
    longest = {route.key: max(route.group_wait, route.group_interval) for route in configuration.route.walk()}
    return {
        key: (min(due_at, now + longest.get(str(state["route"]), timedelta(0))), state)
        for key, (due_at, state) in groups.items()
    }


def _as_told(episodes: Iterable[Episode], cursor: int) -> Iterator[Alert]:
    """What is over already and was never seen to fire did fire."""
    for episode in episodes:
        alert = alert_in(episode)
        if episode.resolved_at is not None and episode.began > cursor:
            yield replace(alert, ends_at=None)
        yield alert


def _silence(row: Row) -> Silence | None:
    try:
        return silence_in(row)
    except OptimizationValidationError as error:  # written by a release that knew more
        logger.error("the silence %s means nothing here and mutes nobody: %s", row["silence_id"], error)
        return None

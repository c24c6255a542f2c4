"""Durable intake of alerts, and a storm of 100,000 from the first to the last message. `python benchmarks/alerts.py`

Yardstick: the raw sqlite3 driver, which inserts the same prepared rows with `executemany`, in transactions of as many
rows as O9's, with the same schema, indexes and pragmas. It reads and checks nothing. O9's side is that of a caller:
alerts are sent singly (`send_alert`), thousands at a time, or as a list (`send_alerts`); they are checked against
existing ids, joined to their episodes, and acknowledged when they are durable. The last part runs optimizations in an
aggregator, with and without a channel that hangs for ever. `--only WORD` runs the parts whose name contains it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from measure import Pair, Result, compare, heading, note, verdict

from o9.alerts.channels.outcome import Failed, Sent
from o9.alerts.channels.redaction import redacted
from o9.alerts.service.ingest import BATCH
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.optimization import OptimizationAlert
from o9.model.states import AlertLevel
from o9.store.core.engine import CHECKPOINT_PAGES, WRITER_CACHE_KIB
from o9.store.store import Store

ALERTS = 20_000  # of a round
STORM = 100_000
GROUPS = 10
AT_ONCE = BATCH
A_SECOND = 20_000  # the smallest allowed intake
START = datetime(2026, 1, 1, tzinfo=UTC)
STORM_FILE = "receivers: [{name: default, channels: [a, b]}]\n"  # with the usual group_wait, 30 s


def alert(number: int, same: int | None = None) -> OptimizationAlert:
    """An alert of one of `GROUPS` groups; same: the number of distinct alerts, which repeat."""
    which = number if same is None else number % same
    return OptimizationAlert(
        f"{uuid.uuid4().hex}", f"optimization-{which // GROUPS:06d}", AlertLevel.WARNING, f"drawdown {which % GROUPS}",
        "the drawdown is larger than it was in any year of the test", START + timedelta(milliseconds=number),
        metadata={"evidence": {"drawdown": 0.231, "limit": 0.2}, "remedy": "look at its positions"},
    )  # fmt: skip


class Ours:
    """An alert system with its own store; each call sends the next alerts."""

    def __init__(self, folder: Path, same: int | None = None, *, each: bool = True) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.db"
        self.system = AlertNotificationSystem(storage_path=str(self.path))
        self._same, self._each, self._loop = same, each, asyncio.new_event_loop()
        self._loop.run_until_complete(self.system.initialize())
        self.sent = 0

    def take(self) -> float:
        alerts = [alert(self.sent + number, self._same) for number in range(ALERTS)]
        self.sent += ALERTS

        async def send() -> float:
            began = time.perf_counter()
            for begin in range(0, ALERTS, AT_ONCE):
                part = alerts[begin : begin + AT_ONCE]
                if self._each:
                    await asyncio.gather(*map(self.system.send_alert, part))
                else:
                    await self.system.send_alerts(part)
            return time.perf_counter() - began

        return self._loop.run_until_complete(send())

    def close(self) -> None:
        self._loop.run_until_complete(self.system.cleanup())
        self._loop.close()


class Raw:
    """The rows of alerts, inserted by the driver into its own store."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{uuid.uuid4().hex}.db"
        Store(str(path)).close()
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._columns = [row[1] for row in self._connection.execute("PRAGMA table_info(alert)")]
        self._sent = 0

    def insert(self) -> float:
        rows = [self._row(self._sent + number) for number in range(ALERTS)]
        self._sent += ALERTS
        sql = f"INSERT INTO alert VALUES ({', '.join('?' * len(self._columns))})"
        began = time.perf_counter()
        for begin in range(0, ALERTS, AT_ONCE):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(sql, rows[begin : begin + AT_ONCE])
            self._connection.execute("COMMIT")
        return time.perf_counter() - began

    def _row(self, number: int) -> tuple[Any, ...]:
        name, at = uuid.uuid4().hex, (START + timedelta(milliseconds=number)).isoformat(timespec="microseconds")
        values: dict[str, Any] = {
            "alert_id": name, "episode": name, "fingerprint": uuid.uuid4().hex[:16], "level": "warning",
            "optimization_id": f"optimization-{number // GROUPS:06d}", "title": f"drawdown {number % GROUPS}",
            "message": "the drawdown is larger than it was in any year of the test",
            "metadata": '{"evidence":{"drawdown":0.231,"limit":0.2},"remedy":"look at its positions"}', "at": at,
            "notified_at": at, "is_first": 1, "starts_at": at, "latest": name, "last_notified_at": at,
            "notifications": 1,
            "labels": f'{{"title":"drawdown {number % GROUPS}","level":"warning","optimization":"{number // GROUPS}"}}',
            "expected_end": 0, "began": number // AT_ONCE, "changed": number // AT_ONCE, "is_open": 1,
        }  # fmt: skip
        return tuple(values.get(column) for column in self._columns)


def intake(folder: Path) -> list[Result]:
    heading(f"Alerts taken in a second, {AT_ONCE:,} at once", "O9", "raw driver")
    empty = asyncio.run(_empty_coroutines())
    note(f"{AT_ONCE:,} coroutines that wait once and do nothing", f"{empty:,.0f} /s")
    results = []
    raw = Raw(folder)
    for name, same, each in (
        ("as lists, each another one", None, False),
        ("as lists, a thousand again and again", 1_000, False),
        ("one by one, each another one", None, True),
        ("one by one, a thousand again and again", 1_000, True),
    ):
        ours = Ours(folder, same, each=each)
        results.append(compare(Pair(name, ours.take, raw.insert, work=ALERTS)))
        if not each:
            note(f"  at least {A_SECOND:,} a second", "met" if results[-1].ours >= A_SECOND else "MISSED")
        ours.close()
    return results


async def _empty_coroutines() -> float:
    """The rate of asyncio alone: an upper bound for sending one by one."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        answer = loop.create_future()
        loop.call_soon(answer.set_result, None)
        await answer

    began = time.perf_counter()
    for _ in range(5):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return 5 * AT_ONCE / (time.perf_counter() - began)


class Counts:
    """A channel that returns at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[tuple[float, int]] = []

    async def send(self, message: Any, notice: Any) -> Sent | Failed:
        message.body()
        self.messages.append((time.perf_counter(), len(notice.firing)))
        return Sent()


def storm(folder: Path) -> None:
    """100,000 alerts in ten groups, received, decided and sent by one process."""
    for name, same in (("each another one", None), ("a thousand different ones", 1_000)):
        asyncio.run(_storm(folder, name, same))


async def _storm(folder: Path, name: str, same: int | None) -> None:
    file, path = folder / "alerts.yaml", folder / f"{uuid.uuid4().hex}.db"
    file.write_text(STORM_FILE, encoding="utf-8")
    channels = [Counts("a"), Counts("b")]
    system = AlertNotificationSystem(
        {each.name: each for each in channels}, storage_path=str(path), alerts_file=str(file)
    )
    await system.start()
    process = psutil.Process()
    before, most = process.memory_info().rss, 0
    began, taken = time.perf_counter(), 0.0
    for begin in range(0, STORM, AT_ONCE):
        # The alerts are of now, because those older than group_wait are sent at once.
        now = datetime.now(UTC)
        alerts = [alert(number, same) for number in range(begin, min(STORM, begin + AT_ONCE))]
        for each in alerts:
            each.timestamp = now
        sent = time.perf_counter()
        await system.send_alerts(alerts)
        taken += time.perf_counter() - sent
        most = max(most, process.memory_info().rss)
    different = STORM if same is None else same
    while any(sum(count for _, count in channel.messages) < different for channel in channels):
        await asyncio.sleep(0.1)
        most = max(most, process.memory_info().rss)
    sent = max(at for channel in channels for at, _ in channel.messages) - began
    print(f"\nA storm of {STORM:,} alerts in {GROUPS} groups, {name}, with the leader and two channels")
    note("taken in", f"{STORM / taken:,.0f} /s")
    note("from the first alert to the last message", f"{sent:.1f} s")
    note("messages to each channel", ", ".join(str(len(channel.messages)) for channel in channels))
    note("memory above what it was", f"{(most - before) / 2**20:,.0f} MiB")
    await system.cleanup()


def hanging(folder: Path) -> list[Result]:
    """Optimizations in an aggregator with a channel that never returns, and continuous alerts."""
    import os

    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    file = folder / "hanging.yaml"
    file.write_text("route: {receiver: default, group_wait: 0s, group_interval: 100ms}\n", encoding="utf-8")
    os.environ["O9_ALERTS_FILE"] = str(file)
    from o9.aggregator.aggregator import OptimizationStateAggregator
    from o9.model.optimization import OptimizationState, utc_now
    from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType

    loop = asyncio.new_event_loop()

    async def opened(name: str, channel: Callable[[Any], Any] | None) -> Any:
        aggregator = OptimizationStateAggregator(storage_path=str(folder / f"{name}.db"))
        if channel is not None:
            aggregator.alert_system.register_notification_channel("hangs", channel)
        await aggregator.start()
        return aggregator

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    beside, alone = loop.run_until_complete(_both(opened("beside", never), opened("alone", None)))

    ended = {OptimizationStatus.COMPLETED, OptimizationStatus.FAILED}

    async def life(aggregator: Any, *, alerts: bool) -> float:
        now = utc_now()
        state = OptimizationState(
            uuid.uuid4().hex, "search", "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED,
            OptimizationPriority.NORMAL, now, now, total_steps=20,
            metadata={"objective": "branin", "sampler": "random", "seed": 1},
        )  # fmt: skip
        telling = asyncio.create_task(_tell(aggregator)) if alerts else None
        began = time.perf_counter()
        await aggregator.submit_optimization(state)
        found = None
        while found is None or found.status not in ended:
            found = await aggregator.get_optimization_status(state.optimization_id)
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
        assert found.status is OptimizationStatus.COMPLETED
        if telling is not None:
            telling.cancel()
        return took

    heading("An optimization of 20 steps", "it hangs", "no channel")
    pair = Pair(
        "beside a channel that hangs, and alerts",
        lambda: loop.run_until_complete(life(beside, alerts=True)),
        lambda: loop.run_until_complete(life(alone, alerts=False)),
        target=1.25,
        at_least=False,
    )
    results = [compare(pair)]
    loop.run_until_complete(_both(beside.cleanup(), alone.cleanup()))
    loop.close()
    return results


async def _tell(aggregator: Any) -> None:
    """Twenty alerts a second."""
    with contextlib.suppress(asyncio.CancelledError):
        for number in range(1_000_000):
            await aggregator.send_alert(alert(number))
            await asyncio.sleep(0.05)


async def _both(first: Any, second: Any) -> tuple[Any, Any]:
    return await first, await second


def redaction(_: Path) -> list[Result]:
    """A response of 20 kB that is constructed to be slow, and ten of a tenth: the time must be linear in the length."""
    results = []
    for name, hostile in (("many schemes", "a."), ("many names", "token "), ("many URLs", "a://b ")):
        whole, tenth = hostile * (20_000 // len(hostile)), hostile * (2_000 // len(hostile))
        pair = Pair(
            f"redacting 20 kB, {name}", lambda text=whole: _redacting(text, 1), lambda text=tenth: _redacting(text, 10),
            target=2.0, at_least=False,
        )  # fmt: skip
        results.append(compare(pair))
    return results


def _redacting(text: str, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        redacted(text)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", help="the parts whose name contains it: intake, storm, hanging, redaction"
    )
    only = parser.parse_args().only
    logging.getLogger("o9").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="o9-alerts-"))
    results: list[Result] = []
    try:
        for part in (intake, storm, hanging, redaction):
            if only in part.__name__:
                results += part(folder) or []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    short = [result for result in results if result.pair.name.startswith("as lists") and result.ours < A_SECOND]
    if short:
        print(f"\nFewer than {A_SECOND:,} a second: {'; '.join(result.pair.name for result in short)}")
        sys.exit(1)
    verdict(results)


if __name__ == "__main__":
    main()

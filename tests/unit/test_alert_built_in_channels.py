"""What alerts are written to without any set-up: the log, the console, a file."""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alert_samples import samples

from o9.alerts.channels.outcome import Channel, Failed, Sent
from o9.alerts.channels.registry import ConsoleChannel, FileChannel, LogChannel, show_only
from o9.alerts.messages.render import Message
from o9.alerts.pipeline.alert import Notice

ONE, MANY, OVER = samples()["one alert"], samples()["a group of 14"], samples()["resolved"]


async def send(channel: Channel, notice: Notice = ONE) -> Sent | Failed:
    return await channel.send(Message(notice), notice)


async def test_the_log_has_one_record_a_notice_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "o9.alerts")
    for notice in (ONE, MANY, OVER, samples()["an alert of no optimization"]):
        assert await send(LogChannel(), notice) == Sent()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["CRITICAL", "CRITICAL", "INFO", "INFO"]
    assert not any("\n" in record.getMessage() for record in caplog.records)
    assert "[CRITICAL] Drawdown limit breached: momentum-us | The best trial has lost 23.4%" in caplog.text
    assert caplog.records[1].__dict__["o9"]["alerts"] == [each.alert_id for each in MANY.firing[:10]]


async def test_a_program_shows_only_the_alerts_that_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "o9.alerts")
    ours, stream = MANY.firing[3], io.StringIO()
    show_only(lambda alert: alert.alert_id == ours.alert_id)
    try:
        for channel in (LogChannel(), ConsoleChannel(lambda: stream)):
            assert await send(channel, ONE) == await send(channel, MANY) == Sent()
    finally:
        show_only(None)
    [record] = caplog.records
    assert record.__dict__["o9"]["alerts"] == [ours.alert_id]
    assert ours.title in record.getMessage()
    assert (MANY.firing[0].title in stream.getvalue(), ours.title in stream.getvalue()) == (False, True)


class Terminal(io.StringIO):
    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("notice", "terminal", "no_color", "first"),
    [
        (ONE, True, "", "\x1b[1;91m[CRITICAL] Drawdown limit breached: momentum-us\x1b[0m"),
        (OVER, True, "", "\x1b[1;32m[RESOLVED] Drawdown limit breached: momentum-us\x1b[0m"),
        (ONE, True, "1", "[CRITICAL] Drawdown limit breached: momentum-us"),
        (ONE, False, "", "[CRITICAL] Drawdown limit breached: momentum-us"),
    ],
)
async def test_the_console_is_coloured_and_worded(
    notice: Notice, terminal: bool, no_color: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    stream = Terminal(terminal)
    assert await send(ConsoleChannel(lambda: stream), notice) == Sent()
    title, *rest = stream.getvalue().rstrip("\n").split("\n")
    assert title == first
    assert all(not each or each.startswith("  ") for each in rest)


@pytest.mark.parametrize(
    ("through_log", "same_stream", "level", "handled", "shown"),
    [
        (True, True, logging.WARNING, logging.CRITICAL, False),  # the log's line on this terminal says it
        (False, True, logging.WARNING, logging.NOTSET, True),
        (True, False, logging.WARNING, logging.NOTSET, True),
        (True, True, logging.CRITICAL + 1, logging.NOTSET, True),  # the log shows none of it
        (True, True, logging.WARNING, logging.CRITICAL + 1, True),
    ],
)
async def test_the_console_does_not_say_twice_what_the_log_shows_there(
    through_log: bool, same_stream: bool, level: int, handled: int, shown: bool
) -> None:
    stream, log = Terminal(False), logging.getLogger("o9.alerts")
    handler, before = logging.StreamHandler(stream if same_stream else Terminal(False)), log.level
    handler.setLevel(handled)
    log.addHandler(handler)
    log.setLevel(level)
    try:
        await send(ConsoleChannel(lambda: stream, lambda receiver: through_log and receiver == ONE.receiver), ONE)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    assert bool(stream.getvalue()) is shown


async def test_a_console_that_is_closed_or_knows_few_characters(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    stream = Terminal()
    stream.close()
    assert await send(ConsoleChannel(lambda: stream)) == Failed("ValueError: I/O operation on closed file")
    written = io.BytesIO()
    ascii_only = io.TextIOWrapper(written, "ascii", write_through=True)
    assert await send(ConsoleChannel(lambda: ascii_only), MANY) == Sent()
    assert b"Plateaued: ????-a?-9" in written.getvalue()


async def test_the_file_is_rotated_and_its_entries_cannot_be_forged(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "alerts.log"
    channel = FileChannel(path, most_bytes=2_000, kept=2)
    for _ in range(12):
        assert await send(channel, ONE) == Sent()
    files = sorted(each.name for each in path.parent.iterdir())
    assert files == ["alerts.log", "alerts.log.1", "alerts.log.2", "alerts.log.lock"]
    for name in files[:3]:
        text = (path.parent / name).read_text()
        assert 0 < len(text) <= 2_000
        starts = [each for each in text.split("\n") if each and not each.startswith(" ")]
        assert set(starts) == {"2026-01-30 14:05:00 UTC  [CRITICAL] Drawdown limit breached: momentum-us"}


async def test_several_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    channels = [FileChannel(tmp_path / "alerts.log", most_bytes=3_000, kept=50) for _ in range(4)]
    outcomes = await asyncio.gather(*(send(channel) for _ in range(10) for channel in channels))
    assert set(outcomes) == {Sent()}
    assert entries_in(tmp_path) == 40


async def test_a_writer_waits_for_another_that_may_rotate(
    tmp_path: Path, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    path = tmp_path / "alerts.log"
    assert await send(FileChannel(path)) == Sent()
    with locked(tmp_path / "alerts.log.lock"):
        waiting = asyncio.create_task(send(FileChannel(path)))
        await async_wait_until(lambda: any(each.name == "o9-channel file" for each in threading.enumerate()))
        assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
        assert entries_in(tmp_path) == 1
    assert await waiting == Sent()
    assert entries_in(tmp_path) == 2


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def entries_in(folder: Path) -> int:
    return sum(each.read_text().count("UTC  [CRITICAL]") for each in folder.iterdir())


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/full", "no space left on device"), ("/proc/nowhere/alerts.log", "no such file or directory")],
)
async def test_a_file_that_cannot_be_written_says_why(
    path: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if path == "/dev/full":
        link = tmp_path / "alerts.log"
        link.symlink_to(path)
        path = str(link)
    assert await send(FileChannel(path)) == Failed(reason)

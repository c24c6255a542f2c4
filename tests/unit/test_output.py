"""Captured output of users' code: log lines and stored text, limited, safe and in order."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from o9.model.trial import Output
from o9.workers.output import KEPT_BYTES, LINE_LENGTH, LINES_PER_EVALUATION, PrintedLines, captured, pass_on


def printed(*parts: bytes) -> Output | None:
    lines = PrintedLines("trial 0")
    for part in parts:
        lines.feed(part)
    return lines.end()


def test_overwritten_lines_are_kept_in_their_last_version() -> None:
    assert printed() is None
    assert printed(b"a\nb") == Output("a\nb\n")
    assert printed(b"\r 1%", b"\r 5", b"0%\r100%\r\nnext\r", b"\n") == Output("100%\nnext\n")
    assert printed(b"a\n\r 1%|#", b"|\r", b"      \r", b"b\n\n\r  9%\r     \r") == Output("a\nb\n\n")
    assert printed("慢".encode()[:2], "慢".encode()[2:], b"\n") == Output("慢\n")
    assert printed(b"\xff\x00\x1b[2J\n\tx\n") == Output("��[2J\n\tx\n".replace("��", "���"))
    assert printed(b"postgresql://ann:secret@host/db\n") == Output("postgresql://ann:***@host/db\n")


def test_output_over_the_limit_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "o9.objective")
    flood = [b"%09d\n" % number for number in range(100_000)]
    output = printed(*flood)
    assert output is not None
    assert output.text.startswith("000000000\n000000001\n")
    assert (len(output.text), output.cut) == (KEPT_BYTES, 1_000_000 - KEPT_BYTES)
    assert len(caplog.records) == LINES_PER_EVALUATION + 1
    long = printed(b"x" * (LINE_LENGTH + 1))
    assert long == Output("x" * (LINE_LENGTH + 1) + "\n")
    garbage = printed(*[bytes(range(256)) * 1000] * 100)
    assert garbage is not None
    assert len(garbage.text.encode()) <= KEPT_BYTES


async def test_concurrent_tasks_are_captured_separately(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        logging.getLogger(), "handlers", []
    )  # another test's console may write to a stream that is closed

    async def one(number: int) -> PrintedLines:
        with captured(f"trial {number}") as lines:
            print("first", number)
            await asyncio.sleep(0)
            await asyncio.to_thread(print, "second", number, file=sys.stderr)
            logging.getLogger("desk").warning("third %d", number)
        return lines

    pass_on(True)  # a command line that ran in this process may have switched it off
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    found = await asyncio.gather(*map(one, range(3)))
    assert [lines.end() for lines in found] == [
        Output(f"first {number}\nsecond {number}\nWARNING desk: third {number}\n") for number in range(3)
    ]
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before
    assert capsys.readouterr().out == "first 0\nfirst 1\nfirst 2\n"
    pass_on(False)
    try:
        await one(4)
    finally:
        pass_on(True)
    assert capsys.readouterr().out == ""

"""A node that sends its half of many alerts, again from where its predecessors were not answered.

It writes each message that reaches its channel as a JSON line into one file.

Run as a program: FOLDER ALERTS HALF AT_ONCE SEED.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from o9.alerts.channels.outcome import Sent
from o9.alerts.messages.render import Message
from o9.alerts.pipeline.alert import Notice
from o9.alerts.service.system import AlertNotificationSystem
from o9.model.optimization import OptimizationAlert

GROUPS = 20
START = datetime(2026, 1, 1, tzinfo=UTC)


def said(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


class Mine:
    """Keeps each message in a file, and takes a while to say so."""

    name = "mine"

    def __init__(self, path: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def send(self, message: Message, notice: Notice) -> Sent:
        told = {
            "group": notice.group_key, "number": notice.number, "may_be_double": notice.may_be_double,
            "title": message.title,
        }  # fmt: skip
        os.write(self._file, (json.dumps(told) + "\n").encode())
        await asyncio.sleep(self._chance.uniform(0.0, 0.01))
        return Sent()


async def live(folder: Path, alerts: int, half: int, at_once: int, seed: int) -> None:
    path = folder / f"said-{half}"
    acknowledged = {int(line) for line in said(path)}
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    left = [number for number in range(half, alerts, 2) if number not in acknowledged]
    system = AlertNotificationSystem(
        {"mine": Mine(folder / "told", seed)},
        storage_path=str(folder / "store.db"),
        alerts_file=str(folder / "alerts.yaml"),
    )
    await system.start()
    for begin in range(0, len(left), at_once):
        numbers = left[begin : begin + at_once]
        await asyncio.gather(*(system.send_alert(alert(number)) for number in numbers))
        os.write(file, "".join(f"{number}\n" for number in numbers).encode())
        await asyncio.sleep(0.05)
    await asyncio.Event().wait()


def alert(number: int) -> OptimizationAlert:
    at = START + timedelta(milliseconds=number)
    return OptimizationAlert(f"a{number}", f"opt-{number // GROUPS}", "warning", f"t{number % GROUPS}", "it fell", at)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), *map(int, sys.argv[2:])))

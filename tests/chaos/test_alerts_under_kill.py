"""Two nodes that tell of 10,000 alerts, killed at random instants: what was told of arrives, and doubles are counted.

Run as a program, this file is a nursery of nodes. Each sends its half of the alerts, again from where its predecessors
were not answered, and writes each message that reaches it as a JSON line into one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from o9.alerts.channels import Sent
from o9.alerts.messages import Message
from o9.alerts.notice import Notice
from o9.alerts.system import AlertNotificationSystem
from o9.model.optimization import OptimizationAlert
from o9.model.settings import settings
from o9.store.outbox import POSSIBLE_DOUBLE
from o9.store.store import Store

ALERTS = 10_000
GROUPS = 20
START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIGURATION = """
route: {receiver: default, group_wait: 50ms, group_interval: 200ms, repeat_interval: 1d}
receivers: [{name: default, channels: [mine]}]
"""


@pytest.mark.parametrize(("kills", "at_once"), [(10, 50), pytest.param(150, 5, id="long", marks=pytest.mark.long)])
def test_what_was_told_arrives_whatever_is_killed(
    kills: int, at_once: int, nursery: Nursery, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"the blows come from seed {seed}")
    chance = random.Random(seed)
    (tmp_path / "alerts.yaml").write_text(CONFIGURATION, encoding="utf-8")
    nodes = [nursery.start(tmp_path, half, at_once) for half in range(2)]
    for _ in range(kills):
        time.sleep(chance.uniform(0.0, 1.2))  # the instant of death, not a wait
        half = chance.randrange(2)
        os.kill(nodes[half], signal.SIGKILL)
        nodes[half] = nursery.start(tmp_path, half, at_once)
    with Store(str(tmp_path / "store.db")) as store:
        wait_until(lambda: all(len(said(tmp_path / f"said-{half}")) == ALERTS // 2 for half in range(2)), 120.0)
        wait_until(lambda: all_is_told(store), 60.0)
        # A busy machine may take two seconds from a node, which is its whole lease here.
        taken_over = ("no longer holds the lease", "another node took over")
        complaints = nursery.close().splitlines()
        assert [line for line in complaints if not any(words in line for words in taken_over)] == []
        assert store.check() == []
        figures = assert_arrived(store, [json.loads(line) for line in said(tmp_path / "told")])
    print(figures)


def all_is_told(store: Store) -> bool:
    """Every alert is in the last message of its group, and no message waits."""
    rows = store.alerts.notifications(limit=1000)
    last: dict[str, int] = {}
    for row in rows:
        last.setdefault(row["group_key"], row["firing_count"])
    return sum(last.values()) == ALERTS and not any(row["status"] == "pending" for row in rows)


def assert_arrived(store: Store, told: list[dict[str, Any]]) -> dict[str, int]:
    tries: dict[tuple[str, int], list[str]] = {}
    before = None
    while rows := store.alerts.notifications(limit=1000, before=before):
        before = rows[-1]["id"]
        tries |= {(row["group_key"], row["number"]): [one["outcome"] for one in row["tries"]] for row in rows}
    arrived = Counter((each["group"], each["number"]) for each in told)
    assert arrived.keys() == tries.keys(), "a message that was decided never arrived, or one arrived that never was"
    numbers: dict[str, list[int]] = defaultdict(list)
    for each in told:
        if each["number"] not in numbers[each["group"]]:
            numbers[each["group"]].append(each["number"])
    assert len(numbers) == GROUPS
    assert all(of_group == sorted(of_group) for of_group in numbers.values()), "out of order within a group"
    # Tried again was only what another node took over; and only that may have arrived before.
    taken_over = {name: len(outcomes) - 1 for name, outcomes in tries.items()}
    for name, times in arrived.items():
        assert tries[name][-1] == "sent"
        assert 1 <= times <= 1 + taken_over[name], (name, times, tries[name])
    assert {(each["group"], each["number"]) for each in told if each["may_be_double"]} == {
        name for name, count in taken_over.items() if count
    }, "not every message that may be a double says so"
    counted = {(row["what"], row["name"]): row["count"] for row in store.alerts.counts()}
    assert counted["told", "warning"] == ALERTS
    possible = counted.get((POSSIBLE_DOUBLE, "mine"), 0)
    assert possible == sum(taken_over.values())
    doubles = sum(arrived.values()) - len(arrived)
    return {"messages": len(arrived), "possible doubles": possible, "doubles": doubles}


class Nursery:
    """A process that has imported all that a node needs, and forks nodes: a start costs no second then."""

    def __init__(self) -> None:
        self._nodes: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "O9_LEASE_SECONDS": "2"},
        )  # fmt: skip

    def start(self, folder: Path, half: int, at_once: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), half, at_once]) + "\n")
        self._process.stdin.flush()
        self._nodes.append(int(self._process.stdout.readline()))
        return self._nodes[-1]

    def close(self) -> str:
        """Ends them all; what they complained about."""
        while self._nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._nodes.pop(), signal.SIGKILL)
        return self._process.communicate(timeout=60)[1]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    print(one.close())


def said(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


class Mine:
    """Keeps each message in a file, and takes a while to say so."""

    name = "mine"

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def send(self, message: Message, notice: Notice) -> Sent:
        doubted = notice.reason.startswith("it may be told twice")
        told = {"group": notice.group_key, "number": notice.number, "may_be_double": doubted, "title": message.title}
        os.write(self._file, (json.dumps(told) + "\n").encode())
        await asyncio.sleep(random.uniform(0.0, 0.01))
        return Sent()


async def live(folder: Path, half: int, at_once: int) -> None:
    path = folder / f"said-{half}"
    acknowledged = {int(line) for line in said(path)}
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    left = [number for number in range(half, ALERTS, 2) if number not in acknowledged]
    system = AlertNotificationSystem(
        {"mine": Mine(folder / "told")}, storage_path=str(folder / "store.db"), alerts_file=str(folder / "alerts.yaml")
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


def nurse() -> None:
    """`[folder, half, at_once]` starts a node."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for life, line in enumerate(sys.stdin):
        folder, half, at_once = json.loads(line)
        pid = os.fork()
        if pid == 0:
            settings().node_id = f"node-{life}"
            asyncio.run(live(Path(folder), half, at_once))
        print(pid, flush=True)


if __name__ == "__main__":
    nurse()

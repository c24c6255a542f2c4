"""Two nodes that tell of many alerts, killed at random instants: what was told of arrives, doubles are counted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alerting_node
import pytest
import zygote
from alerting_node import GROUPS, said

from o9.store import queries
from o9.store.alerts.outbox import POSSIBLE_DOUBLE
from o9.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("timing")]
CONFIGURATION = """
route: {receiver: default, group_wait: 50ms, group_interval: 200ms, repeat_interval: 1d}
receivers: [{name: default, channels: [mine]}]
"""


@pytest.mark.parametrize(
    ("kills", "alerts", "at_once"), [(4, 1_000, 20), pytest.param(150, 10_000, 5, id="long", marks=pytest.mark.long)]
)
def test_what_was_told_arrives_whatever_is_killed(
    kills: int, alerts: int, at_once: int, chaos_seed: int, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    chance = random.Random(chaos_seed)
    (tmp_path / "alerts.yaml").write_text(CONFIGURATION, encoding="utf-8")
    nodes = Nodes(tmp_path, alerts, at_once, chance)
    with contextlib.ExitStack() as ending:
        ending.callback(nodes.close)
        living = [nodes.start(half) for half in range(2)]
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.8))  # the instant of death, not a wait
            half = chance.randrange(2)
            living[half].kill()
            assert living[half].wait() == -signal.SIGKILL, "it had ended before"
            living[half] = nodes.start(half)
        assert_all_is_told(tmp_path, nodes, alerts, wait_until)


def assert_all_is_told(tmp_path: Path, nodes: Nodes, alerts: int, wait_until: Callable[..., Any]) -> None:
    with Store(str(tmp_path / "store.db")) as store:
        wait_until(lambda: all(len(said(tmp_path / f"said-{half}")) == alerts // 2 for half in range(2)), 120.0)
        wait_until(lambda: all_is_told(store, alerts), 60.0)
        # A busy machine may take two seconds from a node, which is its whole lease here.
        taken_over = ("no longer holds the lease", "another node took over")
        complaints = nodes.close().splitlines()
        assert [line for line in complaints if not any(words in line for words in taken_over)] == []
        assert store.check() == []
        figures = assert_arrived(store, alerts, [json.loads(line) for line in said(tmp_path / "told")])
    print(figures)


def all_is_told(store: Store, alerts: int) -> bool:
    """Every alert is in the last message of its group, and no message waits."""
    last: dict[str, int] = {}
    before = None
    while len(last) < GROUPS and (rows := store.read(queries.notifications, limit=1000, before=before)):
        before = rows[-1]["id"]
        if any(row["status"] == "pending" for row in rows):
            return False
        for row in rows:
            last.setdefault(row["group_key"], row["firing_count"])
    return sum(last.values()) == alerts


def assert_arrived(store: Store, alerts: int, told: list[dict[str, Any]]) -> dict[str, int]:
    tries: dict[tuple[str, int], list[str]] = {}
    before = None
    while rows := store.read(queries.notifications, limit=1000, before=before):
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
    counted = {(row["what"], row["name"]): row["count"] for row in store.read(queries.alert_counts)}
    assert counted["received", "warning"] == alerts
    possible = counted.get((POSSIBLE_DOUBLE, "mine"), 0)
    assert possible == sum(taken_over.values())
    doubles = sum(arrived.values()) - len(arrived)
    return {"messages": len(arrived), "possible doubles": possible, "doubles": doubles}


class Nodes:
    """The two nodes, each started again whenever it was killed; what they complain about goes into one file."""

    def __init__(self, folder: Path, alerts: int, at_once: int, chance: random.Random) -> None:
        self._folder = folder
        self._alerts = alerts
        self._at_once = at_once
        self._chance = chance
        self._nodes: list[zygote.Process] = []

    def start(self, half: int) -> zygote.Process:
        environment = {**os.environ, "O9_LEASE_SECONDS": "2", "O9_NODE_ID": f"node-{len(self._nodes)}"}
        numbers = (self._alerts, half, self._at_once, self._chance.randrange(2**32))
        command = [alerting_node.__file__, str(self._folder), *map(str, numbers)]
        with (self._folder / "log").open("a") as log:
            self._nodes.append(zygote.start(command, env=environment, stderr=log))
        return self._nodes[-1]

    def close(self) -> str:
        """Ends them all; what they complained about."""
        for node in self._nodes:
            node.kill()
            node.wait()
        return (self._folder / "log").read_text()

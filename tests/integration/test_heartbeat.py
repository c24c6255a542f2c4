"""A node's sign of life, in processes of their own: what may befall its clock, its neighbours, and it itself.

Each holds one optimization and does nothing with it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import o9_testing
import psutil
import pytest
import zygote
from clock_shim import ClockShim
from contract_steps import at_work, put

from o9.lifecycle.heartbeat import NodeHeartbeat, dead_on_this_host
from o9.lifecycle.processes import PROCESS, identity
from o9.model.optimization import utc_now
from o9.store import queries
from o9.store.optimizations.queries import Holding
from o9.store.optimizations.transitions import Cause, Transition
from o9.store.queue.claims import Claim, Heartbeat
from o9.store.store import Store
from OptimizationStateAggregator import OptimizationStatus

pytestmark = pytest.mark.xdist_group("timing")
HOUR = 3600
# STORE NODE LEASE: waits for a line, appears, holds the optimization of its own name, and says so.
HOLDER = """
import logging, sys
from o9.lifecycle.heartbeat import NodeHeartbeat
from o9.model.states import OptimizationStatus
from o9.store.queue.claims import Claim
from o9.store.store import Store
from o9.store.optimizations.transitions import Cause, Transition

logging.basicConfig()
url, node, lease = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = Store(url)
sys.stdin.readline()
presence = NodeHeartbeat(store, node, lease)
presence.start()
if claimed := store.write(Claim(node, 9, lease)):
    for status in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
        store.write(Transition(claimed.optimization_id, status, Cause.HOOK, node=node, fence=claimed.fence))
print("appeared", flush=True)
sys.stdin.readline()
presence.stop()
"""
Start = Callable[..., subprocess.Popen[str]]
Wait = Callable[..., Any]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


@pytest.fixture
def start(store_url: str, tmp_path: Path) -> Iterator[Start]:
    """`start(node, lease)` starts a process that appears when it is told, by `appear`."""
    (tmp_path / "holder.py").write_text(HOLDER)
    started: list[subprocess.Popen[str]] = []

    def start_one(
        node: str, lease: float, *, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        # Not by the zygote: a preloaded library and a PID namespace want a process from nothing.
        with (tmp_path / f"{node}.log").open("a") as log:
            command = [*prefix, sys.executable, str(tmp_path / "holder.py"), store_url, node, str(lease)]
            process = subprocess.Popen(
                command, env=o9_testing.clean_environment(**(environment or {})),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            for each in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                each.kill()
        process.communicate()


def appear(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "appeared\n"


def holding(store: Store, name: str) -> Holding:
    found = store.read(queries.holding, name)
    assert found is not None
    return found


def beat(store: Store, node: str) -> float:
    return next((float(row["heartbeat_at"]) for row in store.read(queries.nodes) if row["node_id"] == node), 0.0)


def beats(store: Store, node: str, seconds: float, wait_until: Wait) -> None:
    """Wait until it has renewed its leases for so long."""
    first = beat(store, node)
    wait_until(lambda: beat(store, node) >= first + seconds, seconds=2 * seconds + 10)


def lost_elsewhere(store: Store, name: str, lease: float) -> None:
    """A node of another machine begins to work, and nothing more is heard of it."""
    put(store, name)
    claimed = store.write(Claim("elsewhere", 99, lease, name))
    assert claimed is not None
    for status in (OptimizationStatus.INITIALIZING, OptimizationStatus.RUNNING):
        store.write(Transition(name, status, Cause.HOOK, node="elsewhere", fence=claimed.fence))
    store.write(Heartbeat("elsewhere", "another-host", 1, 1.0, lease))


# The wall clock


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["an hour ahead", "an hour back"])
def test_a_clock_that_is_set_takes_nothing_from_the_living_and_nothing_lasts_for_it(
    store: Store, start: Start, tmp_path: Path, wait_until: Wait, jump: int
) -> None:
    clock = ClockShim(tmp_path)
    nodes = ("one", "two")
    for node in nodes:
        put(store, node)
        appear(start(node, 30.0, environment=clock.environment))
    before = {holding(store, node).lease_node: holding(store, node).fence for node in nodes}
    assert before.keys() == set(nodes)
    clock.jump(jump)
    wait_until(lambda: all(abs(beat(store, node) - utc_now().timestamp() - jump) < 300 for node in nodes))
    lost_elsewhere(store, "lost", 3.0)  # by a clock that did not jump: for this one it lasts an hour, or is over
    wait_until(lambda: holding(store, "lost").lease_node is None)
    after = [holding(store, node) for node in nodes]
    assert {each.lease_node: each.fence for each in after} == before
    assert {(each.status, each.deaths) for each in after} == {("running", 0)}
    for node in nodes:
        assert re.findall(r"WARNING:o9.*([+-]\d+)\.\d s", (tmp_path / f"{node}.log").read_text()) == [f"{jump:+}"]


def test_who_starts_after_the_jump_waits_for_the_living_to_renew(
    store: Store, start: Start, tmp_path: Path, wait_until: Wait
) -> None:
    clock = ClockShim(tmp_path)
    put(store, "one")
    holder, newcomer = (start(node, 18.0, environment=clock.environment) for node in ("one", "two"))
    appear(holder)
    fence = holding(store, "one").fence
    clock.jump(HOUR)  # its next renewal would be six seconds away
    appear(newcomer)
    assert beat(store, "two") > utc_now().timestamp() + HOUR - 300
    beats(store, "two", 6.0, wait_until)
    assert (holding(store, "one").lease_node, holding(store, "one").fence) == ("one", fence)


# Neighbours


def in_a_pid_namespace() -> tuple[str, ...]:
    command = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no PID namespaces: run as root")
    return command


def test_a_neighbour_in_another_pid_namespace_is_judged_by_its_lease_alone(
    store: Store, start: Start, wait_until: Wait
) -> None:
    """Two containers with one host name: each sees other processes, or none, where the other's pid is."""
    for node, prefix in (("one", ()), ("two", in_a_pid_namespace())):
        put(store, node)
        appear(start(node, 5.0, prefix=prefix))
    pids = {row["node_id"]: row["pid"] for row in store.read(queries.nodes)}
    assert {row["host"] for row in store.read(queries.nodes)} == {socket.gethostname()}
    for node in ("one", "two"):
        beats(store, node, 3.0, wait_until)
    assert dead_on_this_host(store) == ()
    assert {holding(store, node).lease_node for node in ("one", "two")} == {"one", "two"}
    assert {holding(store, node).deaths for node in ("one", "two")} == {0}
    os.kill(pids["one"], signal.SIGKILL)
    wait_until(lambda: holding(store, "one").lease_node != "one")
    seen = store.read(queries.transitions, "one")[-1]
    assert seen["node"] == "two"
    assert holding(store, "one").deaths == 1


def test_a_node_s_name_is_not_taken_from_a_process_that_cannot_be_seen(store: Store, start: Start) -> None:
    put(store, "one")
    appear(start("one", 3.0))
    second = start("one", 3.0, prefix=in_a_pid_namespace())
    assert second.stdin is not None
    second.stdin.write("\n")
    second.stdin.flush()
    assert second.wait(timeout=60) != 0
    assert (holding(store, "one").lease_node, holding(store, "one").deaths) == ("one", 0)


def test_a_node_s_name_is_free_again_when_the_lease_of_who_cannot_be_seen_has_run_out(
    store: Store, start: Start, wait_until: Wait
) -> None:
    put(store, "one")
    first = start("one", 3.0, prefix=in_a_pid_namespace())
    appear(first)
    for each in psutil.Process(first.pid).children(recursive=True):
        each.kill()
    first.wait()
    with_same_name = start("one", 3.0)
    appear(with_same_name)
    assert [row["node"] for row in store.read(queries.transitions, "one")][-3:] == ["one", "one", "one"]
    assert (holding(store, "one").lease_node, holding(store, "one").deaths) == ("one", 1)


def test_another_process_with_the_pid_of_the_dead_is_another_process(store: Store, wait_until: Wait) -> None:
    process = subprocess.Popen(["sleep", "600"])
    known = identity(process.pid)
    assert known is not None
    earlier = known.rpartition(" ")[0] + " 1"
    for node, about in (("one", known), ("two", earlier), ("three", None), ("four", "another boot 1 1")):
        store.write(Heartbeat(node, "any host", process.pid, 1.0, 30.0, {PROCESS: about}))
    store.write(Heartbeat("five", "any host", process.pid, 1.0, 30.0))  # of an older release
    assert dead_on_this_host(store) == ("two",)
    process.kill()
    wait_until(lambda: set(dead_on_this_host(store)) == {"one", "two"})  # though nobody has waited for it yet
    process.wait()
    assert set(dead_on_this_host(store)) == {"one", "two"}


# Whatever happens to it


def test_what_the_dead_have_left_holds_up_no_renewal(store: Store, wait_until: Wait) -> None:
    """To deliver it may take longer than a lease lasts."""
    delivered = threading.Event()
    presence = NodeHeartbeat(store, "two", 1.0, before_dead=lambda _: delivered.wait())
    presence.start()
    process = subprocess.Popen(["sleep", "600"])
    store.write(Heartbeat("node-1", socket.gethostname(), process.pid, 1.0, 600.0, {PROCESS: identity(process.pid)}))
    at_work(store, "a")
    process.kill()
    process.wait()
    renewals: set[float] = set()

    def renewed_for_long() -> bool:
        renewals.update(node["heartbeat_at"] for node in store.read(queries.nodes) if node["node_id"] == "two")
        return max(renewals) - min(renewals) > 3.0

    wait_until(renewed_for_long)
    assert holding(store, "a").lease_node == "node-1"
    delivered.set()
    wait_until(lambda: holding(store, "a").lease_node is None)
    presence.stop()


def test_no_error_ends_it(store: Store, caplog: pytest.LogCaptureFixture, wait_until: Wait) -> None:
    """A neighbour is dead, and what is to be done before its work is freed fails at first."""
    faults: list[Exception] = [OSError(errno.EMFILE, "too many"), ValueError("odd"), ValueError("odd")] * 2

    def before_dead(names: tuple[str, ...]) -> None:
        if faults:
            raise faults.pop()

    presence = NodeHeartbeat(store, "two", 1.0, before_dead=before_dead)
    presence.start()
    process = subprocess.Popen(["sleep", "600"])
    store.write(Heartbeat("node-1", socket.gethostname(), process.pid, 1.0, 600.0, {PROCESS: identity(process.pid)}))
    at_work(store, "a")
    put(store, "mine")
    store.write(Claim("two", 99, 1.0, "mine"))
    process.kill()
    process.wait()
    wait_until(lambda: holding(store, "a").lease_node is None)
    assert faults == []
    assert holding(store, "mine").lease_node == "two"
    assert presence.holds
    presence.stop()
    told = [record for record in caplog.records if record.name == "o9.lifecycle.heartbeat" and record.exc_info]
    assert [(record.levelno, record.exc_info[0]) for record in told if record.exc_info] == [
        (logging.ERROR, ValueError), (logging.ERROR, OSError),
    ] * 2  # fmt: skip


def test_nobody_is_taken_for_dead_while_nobody_could_renew(store: Store, store_url: str, wait_until: Wait) -> None:
    """Somebody holds the store's lock for longer than a lease; whoever writes first behind it has renewed first."""
    nodes = [f"node-{number}" for number in range(4)]
    with ExitStack() as all_end:
        for node in nodes:
            mine = all_end.enter_context(Store(store_url))
            presence = NodeHeartbeat(mine, node, 3.0)
            presence.start()
            all_end.callback(presence.stop)
            put(store, node)
            assert store.write(Claim(node, 99, 3.0)) is not None
        beats(store, nodes[-1], 3.0, wait_until)  # none of them has just been started
        other = all_end.enter_context(contextlib.closing(sqlite3.connect(store_url, isolation_level=None)))
        other.execute("BEGIN IMMEDIATE")
        silent = store.read(queries.leases)
        wait_until(lambda: store.read(queries.leases).at > silent.at + 4.0)
        assert set(store.read(queries.leases).run_out) == set(silent.held), "somebody could renew"
        other.execute("ROLLBACK")
        for node in nodes:
            beats(store, node, 3.0, wait_until)
        assert {(lease.node, lease.fence) for lease in store.read(queries.leases).held} == {(node, 1) for node in nodes}


USED_UP = """
import os, resource, sys, time
from o9.lifecycle.heartbeat import NodeHeartbeat
from o9.store.queue.claims import Claim
from o9.store.store import Store

store = Store(sys.argv[1])
presence = NodeHeartbeat(store, "node", 1.0)
presence.start()
store.write(Claim("node", 9, 1.0))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, most))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    print("errno", error.errno, flush=True)
sys.stdin.readline()
for each in taken:
    os.close(each)
print(presence.holds, flush=True)
sys.stdin.readline()
presence.stop()
"""


def test_a_node_whose_descriptors_are_used_up_keeps_what_it_holds(
    store: Store, store_url: str, wait_until: Wait
) -> None:
    put(store, "a")
    with zygote.start(
        ["-c", textwrap.dedent(USED_UP), store_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == f"errno {errno.EMFILE}\n"
        beats(store, "node", 3.0, wait_until)
        process.stdin.write("\n")
        assert process.stdout.readline() == "True\n"
        beats(store, "node", 1.0, wait_until)
        assert (holding(store, "a").lease_node, holding(store, "a").deaths) == ("node", 0)
        process.stdin.write("\n")
        assert process.wait(30) == 0

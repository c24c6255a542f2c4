"""What runs in the processes of the tests of control under chaos, and a probe that looks on from inside the store."""

from __future__ import annotations

DESK = '''
"""Objectives.

While the file `hold` lies in this folder, the gated ones wait, but for those that find a token of their optimization's
and those whose process may go on. They know their optimization by its parameter `me`.
"""
import asyncio, contextlib, functools, time
from pathlib import Path

import psutil

HERE = Path(__file__).parent

def value(parameters):
    x, y = parameters["x"], parameters["y"]
    if int(x * 1000) % 9 == 0:
        raise ValueError("no quotes at this point")
    return -((x - 0.3) ** 2) - (y - 0.7) ** 2

async def at_once(parameters):
    return value(parameters)

def sync(parameters):
    time.sleep(0.06)  # most of a step's time, so that most blows hit a trial
    return value(parameters)

async def asynchronous(parameters):
    await asyncio.sleep(0.02)
    return value(parameters)

def quick_sync(parameters):
    time.sleep(0.02)
    return parameters["x"]

async def quick(parameters):
    await asyncio.sleep(0.02)
    return parameters["x"]

@functools.cache
def pids():
    """This process's and its parents': an evaluation's process lies below the aggregator's."""
    return [process.pid for process in (psutil.Process(), *psutil.Process().parents())]

def held_up(me):
    if not (HERE / "hold").exists():
        return False
    for token in HERE.glob(f"token-{me}-*"):
        with contextlib.suppress(FileNotFoundError):
            token.unlink()
            return False
    if any((HERE / f"go-{pid}").exists() for pid in pids()):
        return False
    for pid in pids():
        (HERE / f"gate-{me}-{pid}").touch()
    return True

def gated_sync(parameters):
    time.sleep(0.02)
    while held_up(parameters["me"]):
        time.sleep(0.02)
    return value(parameters)

async def gated(parameters):
    await asyncio.sleep(0.02)
    while held_up(parameters["me"]):
        await asyncio.sleep(0.02)
    return value(parameters)
'''
# CHAOS_SET gives values to what the product waits for, as JSON: {"module.NAME": seconds}.
SET = """
import importlib, json, os
for path, value in json.loads(os.environ.get("CHAOS_SET", "{}")).items():
    module, _, name = path.rpartition(".")
    setattr(importlib.import_module(module), name, value)
"""
# Run as a program: LIMIT STORE.
AGGREGATOR = (
    SET
    + """
import asyncio, signal, sys, types
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from o9.mirror import observed_state
from o9.model import optimization
from OptimizationStateAggregator import OptimizationStateAggregator

def instead(function, make):
    # Who imported it holds the function itself: so it is its code that is replaced.
    true = types.FunctionType(function.__code__, function.__globals__)
    name = f"chaos_{function.__name__}"
    function.__globals__[name] = make(true)
    exec(f"def stub(*given, **more): return {name}(*given, **more)", made := {})
    function.__code__ = made["stub"].__code__

def jump(shift):
    # The file `shift` says by how many seconds this node's clock is wrong; `shift-prefect`, by how many Prefect's is.
    def by(path):
        return timedelta(seconds=float(path.read_text()))

    node, prefect = Path(shift), Path(f"{shift}-prefect")
    instead(optimization.utc_now, lambda true: lambda: true() + by(node))
    if not prefect.exists():
        return

    def wrong(found):
        # It stamps by the wrong clock what comes after the jump.
        jumped_at = datetime.fromtimestamp(prefect.stat().st_mtime, UTC)
        return replace(found, at=found.at + by(prefect)) if found.at >= jumped_at else found

    def wrong_in(true):
        def observed_in(event):
            about = true(event)
            return about and (about[0], wrong(about[1]))
        return observed_in

    instead(observed_state.observed_state, lambda true: lambda *about: wrong(true(*about)))
    instead(observed_state.observed_in, wrong_in)

async def main(limit, url):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with OptimizationStateAggregator(limit, storage_path=url, monitoring_interval=0.25, schedules=()):
        print("ready", flush=True)
        await stop.wait()

if shift := os.environ.get("CHAOS_SHIFT"):
    jump(shift)
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""
)
# Run as a program: OPTIMIZATION. Prefect's flow is called as Prefect calls it.
FLOW = (
    SET
    + """
import asyncio, sys
from o9.flows.lifecycle import optimization_lifecycle
print("ready", flush=True)
state = asyncio.run(optimization_lifecycle(optimization_id=sys.argv[1], return_state=True))
print(state.name, state.message, flush=True)
"""
)
# A probe in the store itself: each lease that is taken or freed, in commit order, with what was true at that moment.
PROBE = """
CREATE TABLE chaos_lease (id INTEGER PRIMARY KEY, did TEXT, optimization_id TEXT, node TEXT, held INTEGER,
    ahead INTEGER, queue_key REAL, priority INTEGER, queued INTEGER);
CREATE TRIGGER chaos_taken AFTER UPDATE OF lease_expires_at ON optimization
WHEN old.lease_expires_at IS NULL AND new.lease_expires_at IS NOT NULL BEGIN
    INSERT INTO chaos_lease (did, optimization_id, node, held, ahead, queue_key, priority, queued) VALUES (
        'taken', new.optimization_id, new.lease_node,
        (SELECT count(*) FROM optimization WHERE lease_expires_at IS NOT NULL),
        (SELECT count(*) FROM optimization WHERE status = 'created' AND intent = 'run' AND unmet = 0
            AND lease_expires_at IS NULL AND queue_key < new.queue_key),
        new.queue_key, new.priority,
        (SELECT max(id) FROM "transition" WHERE optimization_id = new.optimization_id AND to_status = 'created'));
END;
CREATE TRIGGER chaos_freed AFTER UPDATE OF lease_expires_at ON optimization
WHEN old.lease_expires_at IS NOT NULL AND new.lease_expires_at IS NULL BEGIN
    INSERT INTO chaos_lease (did, optimization_id, node, held) VALUES (
        'freed', new.optimization_id, old.lease_node,
        (SELECT count(*) FROM optimization WHERE lease_expires_at IS NOT NULL));
END;
"""

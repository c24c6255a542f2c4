"""What runs in the processes of the tests of control under chaos, and a probe that looks on from inside the store."""

from __future__ import annotations

DESK = '''
"""Objectives; while the file `hold` lies in this folder, the gated ones wait, beside those whose process may go on."""
import asyncio, time
from pathlib import Path

import psutil

HERE = Path(__file__).parent

def value(parameters):
    x, y = parameters["x"], parameters["y"]
    if int(x * 1000) % 9 == 0:
        raise ValueError("no quotes at this point")
    return -((x - 0.3) ** 2) - (y - 0.7) ** 2

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

def held_up():
    # An evaluation's process is a grandchild of the aggregator's.
    return (HERE / "hold").exists() and not any(
        (HERE / f"go-{process.pid}").exists() for process in (psutil.Process(), *psutil.Process().parents()))

def gated_sync(parameters):
    time.sleep(0.02)
    while held_up():
        time.sleep(0.02)
    return value(parameters)

async def gated(parameters):
    await asyncio.sleep(0.02)
    while held_up():
        await asyncio.sleep(0.02)
    return value(parameters)
'''
AGGREGATOR = """
import asyncio, os, signal
from datetime import timedelta
from pathlib import Path

if shift := os.environ.get("CHAOS_SHIFT"):  # a file that says by how many seconds this node's clock is wrong
    from o9.model import optimization
    true_now = optimization.utc_now
    optimization.utc_now = lambda: true_now() + timedelta(seconds=float(Path(shift).read_text()))
    if "CHAOS_SHIFT_PREFECT" in os.environ:  # and Prefect's, which is on the same machine
        from dataclasses import replace
        from o9.mirror import seen
        true_seen_of, true_seen_in = seen.seen_of, seen.seen_in
        jumped = []  # the moment from which on Prefect's server stamps its states by the wrong clock
        def wrong(found):
            by = float(Path(shift).read_text())
            if by and not jumped:
                jumped.append(true_now())
            return replace(found, at=found.at + timedelta(seconds=by)) if jumped and found.at >= jumped[0] else found
        def seen_in(event):
            about = true_seen_in(event)
            return about and (about[0], wrong(about[1]))
        seen.seen_of, seen.seen_in = lambda *about: wrong(true_seen_of(*about)), seen_in

from OptimizationStateAggregator import OptimizationStateAggregator

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with OptimizationStateAggregator({limit}, storage_path={url!r}, monitoring_interval=0.1):
        print("ready", flush=True)
        await stop.wait()

asyncio.run(main())
"""
FLOW = """
import asyncio, sys
from o9.flows.lifecycle import optimization_lifecycle
print("ready", flush=True)
state = asyncio.run(optimization_lifecycle(optimization_id=sys.argv[1], return_state=True))
print(state.name, state.message, flush=True)
"""
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

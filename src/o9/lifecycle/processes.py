"""Identifies the process of a node among all processes on this machine and others.

A host name and a pid are not enough: containers share both, and pids are used again. A process's start time changes
with the wall clock. On Linux, three values together identify one process: the boot, the PID namespace, and the start in
ticks since the boot.
"""

from __future__ import annotations

import os
from pathlib import Path

from o9.store.core.unit import Row

PROCESS = "process"  # in a node's `info`


def identity(pid: int) -> str | None:
    """The identity of the process that has this pid now; None where the system does not provide it."""
    here = _boot_and_namespace()
    started = _started(pid) if here else None
    return f"{here} {started}" if started else None


def lives(node: Row) -> bool | None:
    """Whether the process that announced itself as `node` (a row of the store) is alive.

    None where only its lease can tell: the process is of another machine, boot or PID namespace, or the system does not
    provide the identity.
    """
    here, (there, _, started) = _boot_and_namespace(), str(node["info"].get(PROCESS, "")).rpartition(" ")
    if here is None or there != here:
        return None
    try:
        os.kill(node["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    found = _started(node["pid"])
    return None if found is None else found == started


def _boot_and_namespace() -> str | None:
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc is of another PID namespace
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Its start in ticks since the boot; "ended" for a zombie; None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *others = stat.rpartition(")")[2].split()  # the name before that may contain anything
    return "ended" if state in ("Z", "X") else others[18]

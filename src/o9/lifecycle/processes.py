"""Identifies the process that a node is, among all processes on this machine and elsewhere.

A host name and a pid are not enough: containers share both, and pids are used again. The time of a process's start
follows the wall clock when that is set. On Linux, three values together belong to only one process: the boot, the PID
namespace, and the start in ticks since that boot.
"""

from __future__ import annotations

import os
from pathlib import Path

from o9.store.core.unit import Row

PROCESS = "process"  # in a node's `info`


def identity(pid: int) -> str | None:
    """Of the process that has this pid here and now; None where the system does not say."""
    here = _boot_and_namespace()
    started = _started(pid) if here else None
    return f"{here} {started}" if started else None


def lives(node: Row) -> bool | None:
    """Whether the process that announced itself as `node` (a row of the store) lives.

    None where that cannot be known from here, and only its lease decides: it is of another machine, boot or PID
    namespace, or the system does not say.
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
    """In ticks since the boot; "ended" where nobody has waited for it yet; None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *others = stat.rpartition(")")[2].split()  # its name before that may hold anything
    return "ended" if state in ("Z", "X") else others[18]

"""Decides whether an optimization must not run now, and why: a pure function, and readings of the machine for it.

Contract. An optimization that is suspended for a shortage resumes when there is room for what it needs, the reserve and
a margin, so that it is not suspended again at once. A reason that a person has overridden by a resume does not count.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from o9.model.optimization import OptimizationState
from o9.model.states import SuspendedFor

MARGIN = 1.25
MIB = 2**20
OF_THE_MACHINE = frozenset({SuspendedFor.MEMORY, SuspendedFor.DISK})


@dataclass(frozen=True)
class Room:
    """What is free, and the reserve that must stay free (0: none), in MiB."""

    free: float
    reserve: float


@dataclass(frozen=True)
class Circumstances:
    """memory, disk: None to ignore them. broken_limits: its risk limits that are broken, as text.

    rule: why a health rule forbids it to run, if one does; None where the rules were not applied.
    """

    memory: Room | None = None
    disk: Room | None = None
    broken_limits: str = ""
    rule: str | None = None


@dataclass(frozen=True)
class Suspension:
    """`why` is the reason as text."""

    reason: SuspendedFor
    why: str


def decide_suspension(
    seen: Circumstances,
    held: SuspendedFor | None = None,
    needs_mib: float = 0.0,
    despite: Collection[SuspendedFor] = (),
) -> Suspension | None:
    """Why it must not run; None where it may.

    held: why it is suspended now. needs_mib: the memory of its processes when they last ran. despite: reasons that a
    person has overridden by a resume.
    """
    found = shortage(seen.memory, seen.disk, held, needs_mib, despite)
    if found is not None:
        return found
    if seen.broken_limits and SuspendedFor.RISK_LIMITS not in despite:
        return Suspension(SuspendedFor.RISK_LIMITS, seen.broken_limits)
    not_applied = "its health rule was not applied again" if held is SuspendedFor.HEALTH_RULE else ""
    rule = not_applied if seen.rule is None else seen.rule
    return Suspension(SuspendedFor.HEALTH_RULE, rule) if rule and SuspendedFor.HEALTH_RULE not in despite else None


def shortage(
    memory: Room | None,
    disk: Room | None,
    held: SuspendedFor | None = None,
    needs_mib: float = 0.0,
    despite: Collection[SuspendedFor] = (),
) -> Suspension | None:
    """The shortage of the machine, if there is one that is not in `despite`."""
    for reason, room, needs, setting in (
        (SuspendedFor.MEMORY, memory, needs_mib, "O9_MEMORY_RESERVE_MIB"),
        (SuspendedFor.DISK, disk, 0.0, "O9_DISK_RESERVE_MIB"),
    ):
        if room is None or not room.reserve or reason in despite:
            continue
        if room.free < (room.reserve * MARGIN + needs if held in OF_THE_MACHINE else room.reserve):
            free = f"{room.free:.0f} MiB of {reason.value} are free"
            return Suspension(reason, f"{free}, {room.reserve:.0f} must stay free ({setting})")
    return None


def suspension_order(state: OptimizationState) -> tuple[int, float]:
    """The sort key for making room: lowest priority first, and of equals the one that began last."""
    return state.priority, -(state.started_at or state.created_at).timestamp()


def free_memory_mib(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """The free memory of the machine, or of the container if that has less."""
    free = psutil.virtual_memory().available
    limit = cgroup / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(stat["inactive_file"])  # reclaimable cache
        free = min(free, int(most) - used)
    return max(0, free) / MIB


def free_disk_mib(path: Path) -> float:
    """The free space on the disk of `path`, which need not exist."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(there).free / MIB

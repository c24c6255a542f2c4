"""Decides whether an optimization must not run now, and why: one pure function, and readings of the machine for it.

Contract. What is suspended for a shortage goes on when there is room for what it needs, for the reserve, and for a
margin, so that it is not suspended again at once. A reason despite which a person resumed it does not suspend it again.
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
    """What is free, and what is to stay free (0: nothing), in MiB."""

    free: float
    kept: float


@dataclass(frozen=True)
class Circumstances:
    """memory, disk: None where they are not its affair. broken_limits: which of its risk limits are broken.

    rule: why a health rule says that it must not run; None where no rule was asked.
    """

    memory: Room | None = None
    disk: Room | None = None
    broken_limits: str = ""
    rule: str | None = None


@dataclass(frozen=True)
class Suspension:
    """`why` is for people."""

    reason: SuspendedFor
    why: str


def decide_suspension(
    seen: Circumstances,
    held: SuspendedFor | None = None,
    needs_mib: float = 0.0,
    despite: Collection[SuspendedFor] = (),
) -> Suspension | None:
    """Why it must not run; None: it may.

    held: for what it is suspended now. needs_mib: the memory of its processes when they last ran. despite: reasons in
    spite of which a person resumed it.
    """
    found = shortage(seen.memory, seen.disk, held, needs_mib, despite)
    if found is not None:
        return found
    if seen.broken_limits and SuspendedFor.RISK_LIMITS not in despite:
        return Suspension(SuspendedFor.RISK_LIMITS, seen.broken_limits)
    not_asked = "its health rule was not asked since" if held is SuspendedFor.HEALTH_RULE else ""
    rule = not_asked if seen.rule is None else seen.rule
    return Suspension(SuspendedFor.HEALTH_RULE, rule) if rule and SuspendedFor.HEALTH_RULE not in despite else None


def shortage(
    memory: Room | None,
    disk: Room | None,
    held: SuspendedFor | None = None,
    needs_mib: float = 0.0,
    despite: Collection[SuspendedFor] = (),
) -> Suspension | None:
    """What the machine is short of, beside what is in `despite`."""
    for reason, room, needs, setting in (
        (SuspendedFor.MEMORY, memory, needs_mib, "O9_MEMORY_RESERVE_MIB"),
        (SuspendedFor.DISK, disk, 0.0, "O9_DISK_RESERVE_MIB"),
    ):
        if room is None or not room.kept or reason in despite:
            continue
        if room.free < (room.kept * MARGIN + needs if held in OF_THE_MACHINE else room.kept):
            free = f"{room.free:.0f} MiB of {reason.value} are free"
            return Suspension(reason, f"{free}, {room.kept:.0f} are to stay so ({setting})")
    return None


def turn_to_go(state: OptimizationState) -> tuple[int, float]:
    """By what they are sorted to make room: of the least priority the one that began last goes first."""
    return state.priority, -(state.started_at or state.created_at).timestamp()


def free_memory_mib(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Of the machine, or of the container where that has less."""
    free = psutil.virtual_memory().available
    limit = cgroup / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(stat["inactive_file"])  # a cache, which gives way
        free = min(free, int(most) - used)
    return max(0, free) / MIB


def free_disk_mib(path: Path) -> float:
    """Of the disk on which `path` is, or will be."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(there).free / MIB

"""A process with all that it has started, and what these use of processors."""

from __future__ import annotations

import os

import psutil


def tree(top: int) -> list[psutil.Process]:
    """The process and all below it. Linux lists children by thread; elsewhere every process has to be looked at.

    Raises psutil.Error or OSError where one is gone meanwhile.
    """
    if not os.path.exists(f"/proc/{top}/task/{top}/children"):
        process = psutil.Process(top)
        return [process, *process.children(recursive=True)]
    found, open_ends = [], [top]
    while open_ends:
        pid = open_ends.pop()
        found.append(psutil.Process(pid))
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                open_ends += map(int, file.read().split())
    return found


def cpu_seconds(top: int) -> float | None:
    """What they have used since they began; None where one is gone meanwhile."""
    try:
        times = [process.cpu_times() for process in tree(top)]
    except (psutil.Error, OSError):
        return None
    # The last two are of children that have ended: 0 everywhere but on Linux.
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)

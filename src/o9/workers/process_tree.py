"""A process and its descendants, and their processor time."""

from __future__ import annotations

import os

import psutil


def tree(top: int) -> list[psutil.Process]:
    """Return the process and its descendants. Raises psutil.Error or OSError if one ends meanwhile.

    Linux lists the children of each thread; on other systems all processes have to be searched.
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
    """Return their processor time since they began; None if one ends meanwhile."""
    try:
        times = [process.cpu_times() for process in tree(top)]
    except (psutil.Error, OSError):
        return None
    # The last two are of children that have ended, and 0 on systems other than Linux.
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)

"""A wall clock that jumps for chosen processes: a small library, preloaded, that adds what a file says.

    clock = ClockShim(folder)
    subprocess.Popen([...], env={**os.environ, **clock.environment})
    clock.jump(3600)

Everything in those processes sees it, SQLite and C libraries too; their monotonic clock goes on, as it does when a real
clock is set or a machine slept. The zygote can start these, too: it keeps one that has the library.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import o9_testing
import pytest

_SOURCE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *shift;

void shift_clock(const char *path) {
    int file = open(path, O_RDONLY);
    void *map = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) abort();
    shift = map;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT");
    if (path) shift_clock(path);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int answer = syscall(SYS_clock_gettime, which, now);
    if (answer == 0 && shift && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return answer;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    int answer = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *into) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (into) *into = precise.tv_sec;
    return precise.tv_sec;
}
"""


class ClockShim:
    """The clock of the processes that are started with `environment`. Skips the test where there is no C compiler."""

    def __init__(self, folder: Path, name: str = "clock-shift") -> None:
        self._shift = folder / name
        self._shift.write_bytes(struct.pack("d", 0.0))
        self.environment = {"LD_PRELOAD": str(_library()), "CLOCK_SHIFT": str(self._shift)}

    def jump(self, seconds: int) -> None:
        """From now on it is wrong by so many seconds."""
        with self._shift.open("r+b") as file:
            file.write(struct.pack("d", seconds))


def _library() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the clock shim with: apt-get install gcc")

    def build(path: Path) -> None:
        source = path.with_suffix(".c")
        source.write_text(_SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(source)], check=True)

    return o9_testing.built_once("clock-shim.so", build)

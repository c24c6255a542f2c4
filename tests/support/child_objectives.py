"""Objectives for evaluation processes, each of which imports this module: it imports little."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def misbehave(parameters: dict[str, Any]) -> Any:
    """What `how` says, which no objective should do."""
    match parameters["how"]:
        case "raise":
            raise RuntimeError("the exchange was closed")
        case "nan":
            return float("nan")
        case "none":
            return None
        case "text":
            return "1.0"
        case "complex":
            return 1j
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(7)
        case "print":
            print("x" * 1_000_000)
            sys.stderr.write("y\n" * 100_000)
    return 1.0


def spin(parameters: dict[str, Any]) -> float:
    while True:
        pass


def third_hangs(parameters: dict[str, Any]) -> float:
    """Two good trials, then one that has started grandchildren and never ends."""
    folder = Path(parameters["folder"])
    number = len(list(folder.glob("trial-*")))
    (folder / f"trial-{number}").touch()
    if number >= 2:
        for detached in (False, True):
            child = subprocess.Popen(["sleep", "3600"], start_new_session=detached)
            (folder / f"pid-{child.pid}").touch()
        (folder / "hangs").touch()
        while True:
            pass
    return float(parameters["x"])


def third_hangs_while_told(parameters: dict[str, Any]) -> float:
    """Its third trial does not end while the file `hangs` is there."""
    folder = Path(parameters["folder"])
    number = len(list(folder.glob("trial-*")))
    (folder / f"trial-{number}").touch()
    while number == 2 and (folder / "hangs").exists():
        pass
    return float(parameters["x"])


def use_a_core(parameters: dict[str, Any]) -> float:
    """And 40 MB, for 0.6 s."""
    held = bytearray(40_000_000)
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        held[0] += 0
    return float(parameters["x"])

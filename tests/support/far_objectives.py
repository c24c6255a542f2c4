"""Objectives that workers of a task runner find by import path; what they do is left in the folder FAR."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

FOLDER = "FAR_OBJECTIVES_FOLDER"
runner: Any = None  # what `O9_TASK_RUNNER=far_objectives:runner` names, where a test sets it


def uneven(parameters: dict[str, float]) -> float:
    """Some fail; each says where it ran."""
    print(f"in the child of {os.getppid()}")
    if parameters["x"] > 0.75:
        raise ValueError(f"no data for {parameters['x']}")
    return parameters["x"] ** 2


async def waiting(parameters: dict[str, float]) -> float:
    return -parameters["x"]


def hangs(parameters: dict[str, float]) -> float:
    """Below a half for ever; the file named after its process says that it does."""
    if parameters["x"] < 0.5:
        Path(os.environ[FOLDER], str(os.getpid())).touch()
        time.sleep(3600)
    return parameters["x"]

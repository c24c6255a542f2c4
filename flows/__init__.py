"""Prefect flows: one optimization's life, and the scheduled ones. Imported when they are asked for.

In a process that Prefect starts for one run, collecting garbage leaves alone what is loaded by now, and at its end all:
else a tenth of a short run's time goes into looking through modules, and another fifth into taking them apart.
"""

from __future__ import annotations

import atexit
import gc
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from o9.flows.mirror import mirror_states
    from o9.flows.run import OptimizationResult, arun_optimization, run_optimization

__all__ = ["OptimizationResult", "arun_optimization", "mirror_states", "run_optimization"]
_WHERE = {"mirror_states": "o9.flows.mirror"}

if "PREFECT__FLOW_RUN_ID" in os.environ:
    gc.freeze()
    atexit.register(gc.freeze)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE.get(name, "o9.flows.run")), name)

"""Prefect flows: one optimization's life, and the scheduled ones. Their modules are imported when they are used.

In a process that Prefect starts for one run, garbage collection ignores what is loaded by now, and at the end of the
process everything. Otherwise a tenth of a short run's time goes into scanning modules, and a fifth into freeing them.
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

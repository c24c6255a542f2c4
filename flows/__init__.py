"""Prefect flows: one optimization's life, and the scheduled ones. Imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from o9.flows.mirror import mirror_states
    from o9.flows.run import OptimizationResult, arun_optimization, run_optimization

__all__ = ["OptimizationResult", "arun_optimization", "mirror_states", "run_optimization"]
_WHERE = {"mirror_states": "o9.flows.mirror"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE.get(name, "o9.flows.run")), name)

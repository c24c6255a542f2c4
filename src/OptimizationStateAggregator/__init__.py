"""The public names of O9, each documented where it is defined.

Names whose modules import more than the standard library are loaded on first access. An objective's module, which
imports `Evaluation` from here, is loaded in every child process, and must not import Prefect there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from o9.model.errors import (
    OptimizationAlertError as OptimizationAlertError,
    OptimizationAPIError as OptimizationAPIError,
    OptimizationConflictError as OptimizationConflictError,
    OptimizationCoordinationError as OptimizationCoordinationError,
    OptimizationError as OptimizationError,
    OptimizationHealthError as OptimizationHealthError,
    OptimizationLifecycleError as OptimizationLifecycleError,
    OptimizationNotFoundError as OptimizationNotFoundError,
    OptimizationStateError as OptimizationStateError,
    OptimizationStatisticsError as OptimizationStatisticsError,
    OptimizationStoreError as OptimizationStoreError,
    OptimizationStrategyError as OptimizationStrategyError,
    OptimizationSyncError as OptimizationSyncError,
    OptimizationValidationError as OptimizationValidationError,
)
from o9.model.states import (
    AlertLevel as AlertLevel,
    HealthStatus as HealthStatus,
    OptimizationPriority as OptimizationPriority,
    OptimizationStatus as OptimizationStatus,
    OptimizationType as OptimizationType,
    TrialState as TrialState,
)
from o9.model.strategy import StepResult as StepResult
from o9.model.trial import Evaluation as Evaluation, Infeasible as Infeasible, Trial as Trial

if TYPE_CHECKING:
    from o9.aggregator.aggregator import OptimizationStateAggregator as OptimizationStateAggregator
    from o9.alerts.service.system import AlertNotificationSystem as AlertNotificationSystem
    from o9.api.api import OptimizationAPI as OptimizationAPI
    from o9.health.checker import OptimizationHealthChecker as OptimizationHealthChecker
    from o9.lifecycle.coordinator import OptimizationCoordinator as OptimizationCoordinator
    from o9.lifecycle.manager import OptimizationLifecycleManager as OptimizationLifecycleManager
    from o9.model.optimization import (
        OptimizationAlert as OptimizationAlert,
        OptimizationHealthReport as OptimizationHealthReport,
        OptimizationMetrics as OptimizationMetrics,
        OptimizationState as OptimizationState,
    )
    from o9.model.specification import OptimizationSpec as OptimizationSpec, new_optimization as new_optimization
    from o9.monitor.monitor import OptimizationMonitor as OptimizationMonitor
    from o9.statistics.statistics import OptimizationStatistics as OptimizationStatistics
    from o9.strategies.registry import (
        objective as objective,
        register_score as register_score,
        register_strategy as register_strategy,
    )
    from o9.synchronizer.synchronizer import AsyncStateSynchronizer as AsyncStateSynchronizer

    __version__: str

_LATER = {
    "o9.aggregator.aggregator": ("OptimizationStateAggregator",),
    "o9.alerts.service.system": ("AlertNotificationSystem",),
    "o9.api.api": ("OptimizationAPI",),
    "o9.health.checker": ("OptimizationHealthChecker",),
    "o9.lifecycle.coordinator": ("OptimizationCoordinator",),
    "o9.lifecycle.manager": ("OptimizationLifecycleManager",),
    "o9.model.optimization": (
        "OptimizationAlert",
        "OptimizationHealthReport",
        "OptimizationMetrics",
        "OptimizationState",
    ),
    "o9.model.specification": ("OptimizationSpec", "new_optimization"),
    "o9.monitor.monitor": ("OptimizationMonitor",),
    "o9.statistics.statistics": ("OptimizationStatistics",),
    "o9.strategies.registry": ("objective", "register_score", "register_strategy"),
    "o9.synchronizer.synchronizer": ("AsyncStateSynchronizer",),
}
_HOME_OF = {name: home for home, names in _LATER.items() for name in names}
_LOADED = [name for name, each in globals().items() if getattr(each, "__module__", "").startswith("o9.")]

__all__ = sorted([*_HOME_OF, *_LOADED])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("prefect-o9")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__

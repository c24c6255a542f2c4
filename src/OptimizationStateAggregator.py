"""The names that users of O9 import. Nothing else is here; each is documented where it is defined."""

from o9.aggregator.aggregator import OptimizationStateAggregator
from o9.alerts.system import AlertNotificationSystem
from o9.api.api import OptimizationAPI
from o9.coordinator.coordinator import OptimizationCoordinator
from o9.health.checker import OptimizationHealthChecker
from o9.lifecycle.manager import OptimizationLifecycleManager
from o9.model.errors import (
    NotYetAvailableError,
    OptimizationAlertError,
    OptimizationAPIError,
    OptimizationConflictError,
    OptimizationCoordinationError,
    OptimizationError,
    OptimizationHealthError,
    OptimizationLifecycleError,
    OptimizationStateError,
    OptimizationStatisticsError,
    OptimizationStoreError,
    OptimizationStrategyError,
    OptimizationSyncError,
    OptimizationValidationError,
)
from o9.model.optimization import (
    OptimizationAlert,
    OptimizationHealthReport,
    OptimizationMetrics,
    OptimizationState,
)
from o9.model.states import (
    AlertLevel,
    HealthStatus,
    OptimizationPriority,
    OptimizationStatus,
    OptimizationType,
)
from o9.model.trial import Evaluation, Trial
from o9.monitor.monitor import OptimizationMonitor
from o9.statistics.statistics import OptimizationStatistics
from o9.strategies.protocol import StepResult
from o9.strategies.registry import objective, register_strategy
from o9.synchronizer.synchronizer import AsyncStateSynchronizer

__all__ = [
    "AlertLevel",
    "AlertNotificationSystem",
    "AsyncStateSynchronizer",
    "Evaluation",
    "HealthStatus",
    "NotYetAvailableError",
    "OptimizationAPI",
    "OptimizationAPIError",
    "OptimizationAlert",
    "OptimizationAlertError",
    "OptimizationConflictError",
    "OptimizationCoordinationError",
    "OptimizationCoordinator",
    "OptimizationError",
    "OptimizationHealthChecker",
    "OptimizationHealthError",
    "OptimizationHealthReport",
    "OptimizationLifecycleError",
    "OptimizationLifecycleManager",
    "OptimizationMetrics",
    "OptimizationMonitor",
    "OptimizationPriority",
    "OptimizationState",
    "OptimizationStateAggregator",
    "OptimizationStateError",
    "OptimizationStatistics",
    "OptimizationStatisticsError",
    "OptimizationStatus",
    "OptimizationStoreError",
    "OptimizationStrategyError",
    "OptimizationSyncError",
    "OptimizationType",
    "OptimizationValidationError",
    "StepResult",
    "Trial",
    "objective",
    "register_strategy",
]

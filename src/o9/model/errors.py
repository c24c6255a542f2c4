"""Every error O9 raises on purpose. Each message names what was wrong and what to do next.

OptimizationError
├── OptimizationNotFoundError       no optimization or alert has that id
├── OptimizationStateError          a transition that the table of statuses forbids
├── OptimizationValidationError     bad input; also a ValueError; names the field and the remedy
│   └── OptimizationConflictError   the same id with other content
├── OptimizationStoreError          the store cannot be opened, read or written
│   ├── StoreUnavailableError       it is away for now: unreachable, locked, out of space; worth trying again
│   └── StaleAttemptError           an attempt whose fence is old tried to write; its work was taken over
├── OptimizationStrategyError       a strategy, objective or sampler is unknown, or broke its contract
├── OptimizationCoordinationError   claims, leases, nodes, the Prefect server
├── OptimizationLifecycleError
├── OptimizationStatisticsError
├── OptimizationHealthError
├── OptimizationAPIError
├── OptimizationSyncError
└── OptimizationAlertError
"""

from __future__ import annotations


class OptimizationError(Exception):
    """The root: `except OptimizationError` catches all that O9 raises on purpose."""


class OptimizationNotFoundError(OptimizationError):
    """No optimization or alert has that id."""


class OptimizationStateError(OptimizationError):
    """A transition that the table forbids. Says the present status and what is possible from it."""


class OptimizationValidationError(OptimizationError, ValueError):
    """Bad input. `field` is the dotted path of what is wrong, for example ``metadata.search_space.fast``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class OptimizationConflictError(OptimizationValidationError):
    """The same id was recorded with other content."""


class OptimizationStoreError(OptimizationError):
    """The store cannot be opened, read or written."""


class StoreUnavailableError(OptimizationStoreError):
    """The store is away for now: unreachable, locked, or out of space. The same again may work later."""


class StaleAttemptError(OptimizationStoreError):
    """The attempt lost its lease, and another has taken over: nothing of this one was written."""


class OptimizationStrategyError(OptimizationError):
    """A strategy, objective or sampler that is unknown, or that broke its contract."""


class OptimizationCoordinationError(OptimizationError):
    """Claims, leases, nodes, and the Prefect server that runs the flows."""


class OptimizationLifecycleError(OptimizationError):
    """A lifecycle operation or one of its hooks failed."""


class OptimizationStatisticsError(OptimizationError):
    """A statistic that cannot be computed from what is recorded."""


class OptimizationHealthError(OptimizationError):
    """A health check or rule failed to run."""


class OptimizationAPIError(OptimizationError):
    """A request that cannot be answered. `code` is its HTTP status."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class OptimizationSyncError(OptimizationError):
    """Synchronization between nodes failed."""


class OptimizationAlertError(OptimizationError):
    """An alert, rule or channel that cannot be taken or delivered."""

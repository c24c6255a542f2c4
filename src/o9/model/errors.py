"""Every error that O9 raises on purpose. Each message says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class OptimizationError(Exception):
    """The base class of all errors that O9 raises on purpose."""


class OptimizationNotFoundError(OptimizationError):
    """No optimization or alert has that id."""


class OptimizationStateError(OptimizationError):
    """The present state forbids it. The message names the status, and what is possible from there."""


class OptimizationValidationError(OptimizationError, ValueError):
    """Bad input. `field` is its dotted path, for example ``metadata.search_space.fast``.

    `others`: further faults of the same input. The message has a line for each.
    """

    def __init__(self, field: str, problem: str, *, others: Sequence[OptimizationValidationError] = ()) -> None:
        super().__init__("\n".join([f"{field}: {problem}" if field else problem, *map(str, others)]))
        self.field = field
        self.problem = problem
        self.others = tuple(others)

    @property
    def faults(self) -> tuple[OptimizationValidationError, ...]:
        """All faults, each as an error of its own, this one first."""
        return (OptimizationValidationError(self.field, self.problem), *self.others)


class Faults:
    """Collects faults to report them together: `with faults:` keeps those raised inside, the first of each field."""

    def __init__(self) -> None:
        self._found: dict[str, OptimizationValidationError] = {}

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, OptimizationValidationError) or isinstance(error, OptimizationConflictError):
            return False
        for fault in error.faults:
            self.add(fault)
        return True

    def add(self, fault: OptimizationValidationError) -> None:
        self._found.setdefault(fault.field, fault)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that have a fault."""
        return tuple(self._found)

    def refuse(self) -> None:
        """Raise OptimizationValidationError with all faults, if there are any."""
        if self._found:
            raise self.refusal()

    def refusal(self) -> OptimizationValidationError:
        """One error with all faults; there must be one."""
        first, *others = self._found.values()
        return OptimizationValidationError(first.field, first.problem, others=others)


class OptimizationConflictError(OptimizationValidationError):
    """The id is taken by a record with other content."""


class OptimizationStoreError(OptimizationError):
    """The store cannot be opened, read or written."""


class StoreUnavailableError(OptimizationStoreError):
    """The store is temporarily unavailable: unreachable, locked, or out of space. A retry may succeed."""


class StaleAttemptError(OptimizationStoreError):
    """Another attempt has taken over the lease: nothing was written."""


class OptimizationStrategyError(OptimizationError):
    """A strategy, objective or sampler is unknown, or broke its contract."""


class OptimizationCoordinationError(OptimizationError):
    """A claim, lease, node or Prefect server failed."""


class OptimizationLifecycleError(OptimizationError):
    """A lifecycle operation or one of its hooks failed."""


class OptimizationStatisticsError(OptimizationError):
    """A statistic cannot be computed from the record."""


class OptimizationHealthError(OptimizationError):
    """A health check or rule failed to run."""


class OptimizationAPIError(OptimizationError):
    """A request cannot be answered. `code` is the HTTP status."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class OptimizationSyncError(OptimizationError):
    """Synchronization between nodes failed."""


class OptimizationAlertError(OptimizationError):
    """An alert, rule or channel cannot be accepted, or an alert cannot be delivered."""

"""Every error O9 raises on purpose. Each message names what was wrong and what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class OptimizationError(Exception):
    """The root: `except OptimizationError` catches all that O9 raises on purpose."""


class OptimizationNotFoundError(OptimizationError):
    """No optimization or alert has that id."""


class OptimizationStateError(OptimizationError):
    """A transition that the table forbids. The message names the present status and what is possible from it."""


class OptimizationValidationError(OptimizationError, ValueError):
    """Bad input. `field` is the dotted path of what is wrong, for example ``metadata.search_space.fast``.

    `others`: what else is wrong with the same input. The message has a line for each.
    """

    def __init__(self, field: str, problem: str, *, others: Sequence[OptimizationValidationError] = ()) -> None:
        super().__init__("\n".join([f"{field}: {problem}" if field else problem, *map(str, others)]))
        self.field = field
        self.problem = problem
        self.others = tuple(others)

    @property
    def faults(self) -> tuple[OptimizationValidationError, ...]:
        """Each fault alone, this one first."""
        return (OptimizationValidationError(self.field, self.problem), *self.others)


class Faults:
    """Collects faults, to report all at once: `with faults:` keeps what is raised inside, the first of each field."""

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
        """The fields that have one."""
        return tuple(self._found)

    def refuse(self) -> None:
        """Raise OptimizationValidationError with all that was found, if anything was."""
        if self._found:
            raise self.refusal()

    def refusal(self) -> OptimizationValidationError:
        """All that was found, which is at least one."""
        first, *others = self._found.values()
        return OptimizationValidationError(first.field, first.problem, others=others)


class OptimizationConflictError(OptimizationValidationError):
    """The same id was recorded with other content."""


class OptimizationStoreError(OptimizationError):
    """The store cannot be opened, read or written."""


class StoreUnavailableError(OptimizationStoreError):
    """The store is unavailable for now: unreachable, locked, or out of space. Trying again may succeed."""


class StaleAttemptError(OptimizationStoreError):
    """The attempt lost its lease to another one: nothing of it was written."""


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
    """An alert, rule or channel that cannot be accepted or delivered."""

"""The statuses of an optimization, the one table of transitions, and the one function that decides. Pure.

`o9.store.optimizations.transitions` applies what `decide_transition` allows; nothing else changes a status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class OptimizationStatus(str, Enum):
    """The status of an optimization."""

    CREATED = "created"
    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    SUSPENDED = "suspended"


class OptimizationType(str, Enum):
    """The kind of optimization."""

    PARAMETER_TUNING = "parameter_tuning"
    STRATEGY_OPTIMIZATION = "strategy_optimization"
    PORTFOLIO_OPTIMIZATION = "portfolio_optimization"
    RISK_OPTIMIZATION = "risk_optimization"
    PERFORMANCE_OPTIMIZATION = "performance_optimization"
    SYSTEM_OPTIMIZATION = "system_optimization"


class OptimizationPriority(IntEnum):
    """A higher priority starts sooner."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class AlertLevel(str, Enum):
    """How urgent an alert is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class HealthStatus(str, Enum):
    """Whether a result can be trusted; unknown if there is too little evidence."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class TrialState(str, Enum):
    """How the evaluation of one parameter set ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    CANCELLED = "cancelled"


class Intent(str, Enum):
    """What an optimization was asked to do; every step's commit returns it.

    HOLD: created, but not queued until it is started. Only O9 itself sets SUSPEND.
    """

    HOLD = "hold"
    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    TIME_OUT = "timeout"
    SUSPEND = "suspend"

    @property
    def verb(self) -> str:
        """The verb for messages."""
        return self.name.lower().replace("_", " ")


class SuspendedFor(str, Enum):
    """Why O9 itself suspends an optimization."""

    MEMORY = "memory"
    DISK = "disk"
    RISK_LIMITS = "risk_limits"
    HEALTH_RULE = "health_rule"

    @property
    def by(self) -> str:
        """The author of the intent, as recorded."""
        return f"o9:{self.value}"


# These cannot be taken back.
FINAL_INTENTS = frozenset({Intent.CANCEL, Intent.TIME_OUT})


_S = OptimizationStatus
_ENDED_BADLY = {_S.FAILED, _S.CANCELLED, _S.TIMEOUT}
# Back to CREATED means queued again: after a resume, or for the next attempt after a crash.
TRANSITIONS: dict[OptimizationStatus, frozenset[OptimizationStatus]] = {
    _S.CREATED: frozenset({_S.INITIALIZING, _S.PAUSED, *_ENDED_BADLY}),
    _S.INITIALIZING: frozenset({_S.RUNNING, _S.CREATED, _S.PAUSED, _S.SUSPENDED, *_ENDED_BADLY}),
    _S.RUNNING: frozenset({_S.COMPLETED, _S.CREATED, _S.PAUSED, _S.SUSPENDED, *_ENDED_BADLY}),
    _S.PAUSED: frozenset({_S.CREATED, _S.INITIALIZING, _S.RUNNING, *_ENDED_BADLY}),
    _S.SUSPENDED: frozenset({_S.CREATED, _S.INITIALIZING, _S.RUNNING, *_ENDED_BADLY}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.TIMEOUT: frozenset(),
}
ENDED = frozenset(status for status, onward in TRANSITIONS.items() if not onward)
ACTIVE = frozenset({_S.INITIALIZING, _S.RUNNING})


class TransitionReason(str, Enum):
    """Why a transition was allowed or refused."""

    ALLOWED = "allowed"
    ALREADY_THERE = "already there"
    ENDED = "the optimization has ended"
    NOT_IN_TABLE = "there is no such transition"
    STALE_FENCE = "a newer attempt holds the optimization"
    NOT_HELD = "no attempt holds the optimization"
    STALE_VERSION = "the optimization has changed since it was read"
    ENDING = "its end was already requested"


@dataclass(frozen=True)
class Decision:
    """`message` has the reason of a refusal, for people; empty if it was allowed."""

    allowed: bool
    reason: TransitionReason
    message: str = ""


_R = TransitionReason
_ALLOWED = Decision(True, _R.ALLOWED)


def decide_transition(
    current: OptimizationStatus,
    target: OptimizationStatus,
    *,
    fence: int | None = None,
    held_fence: int = 0,
    version: int | None = None,
    held_version: int = 0,
) -> Decision:
    """Decide whether the status may change from `current` to `target`.

    fence, version: what the caller has read; None skips the check. held_fence, held_version: what the store has.
    The fence is checked first, because a replaced attempt may change nothing.
    """
    if fence is not None and fence != held_fence:
        return Decision(False, _R.STALE_FENCE, f"this attempt holds fence {fence}, the store has {held_fence}")
    if version is not None and version != held_version:
        return Decision(
            False, _R.STALE_VERSION, f"it was read at version {version} and is at {held_version}: read it again"
        )
    if current == target:
        return Decision(False, _R.ALREADY_THERE, f"it is already {current.value}")
    if target in TRANSITIONS[current]:
        return _ALLOWED
    if current in ENDED:
        return Decision(False, _R.ENDED, f"it has ended ({current.value}); submit it under a new id to run it again")
    possible = ", ".join(sorted(status.value for status in TRANSITIONS[current]))
    return Decision(False, _R.NOT_IN_TABLE, f"it is {current.value}; from there it can become {possible}")


def decide_intent(current: OptimizationStatus, held: Intent, wanted: Intent) -> Decision:
    """Decide whether the intent `wanted` may replace `held`, for an optimization of status `current`."""
    if current in ENDED:
        if INTENDED_END.get(wanted) is current:
            return Decision(False, _R.ALREADY_THERE, f"it is already {current.value}")
        return Decision(
            False,
            _R.ENDED,
            f"it has ended ({current.value}); `o9 retry` runs it again",
        )
    if held is wanted:
        return Decision(False, _R.ALREADY_THERE, f"{wanted.value} is already requested")
    if held in FINAL_INTENTS:
        return Decision(False, _R.ENDING, f"{held.value} is already requested and cannot be undone")
    if wanted is Intent.HOLD:
        return Decision(False, _R.NOT_IN_TABLE, "only a new optimization can be held back; pause it instead")
    if wanted is Intent.SUSPEND:
        return Decision(False, _R.NOT_IN_TABLE, "only O9 itself suspends; pause it instead")
    return _ALLOWED


INTENDED_END = {Intent.CANCEL: OptimizationStatus.CANCELLED, Intent.TIME_OUT: OptimizationStatus.TIMEOUT}
# The status at the end of an attempt with this intent.
RESTS = {Intent.PAUSE: OptimizationStatus.PAUSED, Intent.SUSPEND: OptimizationStatus.SUSPENDED}


def at_rest(status: OptimizationStatus, intent: Intent, *, claimed: bool) -> OptimizationStatus | None:
    """The status that an intent gives an unclaimed optimization at once; None if there is none, or if it is claimed."""
    if claimed:
        return None
    if intent in INTENDED_END and status not in ENDED:
        return INTENDED_END[intent]
    if intent is Intent.PAUSE and OptimizationStatus.PAUSED in TRANSITIONS[status]:
        return OptimizationStatus.PAUSED
    rests = status in (OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)
    return OptimizationStatus.CREATED if intent is Intent.RUN and rests else None

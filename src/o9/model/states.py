"""The statuses of an optimization, the one table of transitions, and the one function that decides. Pure.

`o9.store.optimizations.transitions` applies what `decide_transition` allows; nothing else changes a status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class OptimizationStatus(str, Enum):
    """The stages of an optimization's life."""

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
    """What is being optimized."""

    PARAMETER_TUNING = "parameter_tuning"
    STRATEGY_OPTIMIZATION = "strategy_optimization"
    PORTFOLIO_OPTIMIZATION = "portfolio_optimization"
    RISK_OPTIMIZATION = "risk_optimization"
    PERFORMANCE_OPTIMIZATION = "performance_optimization"
    SYSTEM_OPTIMIZATION = "system_optimization"


class OptimizationPriority(IntEnum):
    """Higher is sooner."""

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
    """Whether a result can be trusted; unknown where too little is known to say."""

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
    """What a person wants of an optimization; the answer to every step's commit carries it.

    HOLD: created, but not queued before it is started. SUSPEND is O9's own.
    """

    HOLD = "hold"
    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    TIME_OUT = "timeout"
    SUSPEND = "suspend"

    @property
    def verb(self) -> str:
        """In a sentence."""
        return self.name.lower().replace("_", " ")


class SuspendedFor(str, Enum):
    """Why O9 itself suspends an optimization."""

    MEMORY = "memory"
    DISK = "disk"
    RISK_LIMITS = "risk_limits"
    HEALTH_RULE = "health_rule"

    @property
    def by(self) -> str:
        """The author of the intent, for the record."""
        return f"o9:{self.value}"


# What cannot be taken back once it was asked for.
FINAL_INTENTS = frozenset({Intent.CANCEL, Intent.TIME_OUT})


_S = OptimizationStatus
_ENDED_BADLY = {_S.FAILED, _S.CANCELLED, _S.TIMEOUT}
# Back to CREATED means queued again: a resume waits its turn, and so does the next attempt after a death.
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
    NOT_IN_TABLE = "the table of transitions does not have it"
    STALE_FENCE = "a newer attempt holds the optimization"
    NOT_HELD = "nobody holds the optimization"
    STALE_VERSION = "the optimization has changed since it was read"
    ENDING = "its end was asked for already"


@dataclass(frozen=True)
class Decision:
    """`message` says to a person why it was refused; empty where it was allowed."""

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
    """Whether an optimization that is `current` may become `target`.

    `fence` and `version` are what the caller believes (None: it does not care); `held_…` what the store has.
    A fence is checked first: an attempt that was replaced may do nothing, whatever the table says.
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
        return Decision(
            False, _R.ENDED, f"it has ended ({current.value}); submit it again under a new id to run it once more"
        )
    possible = ", ".join(sorted(status.value for status in TRANSITIONS[current]))
    return Decision(False, _R.NOT_IN_TABLE, f"it is {current.value}; from there it can become {possible}")


def decide_intent(current: OptimizationStatus, held: Intent, wanted: Intent) -> Decision:
    """Whether the intent `wanted` may replace `held` of an optimization that is `current`."""
    if current in ENDED:
        if INTENDED_END.get(wanted) is current:
            return Decision(False, _R.ALREADY_THERE, f"it is already {current.value}")
        return Decision(
            False,
            _R.ENDED,
            f"it has ended ({current.value}); there is nothing to {wanted.verb}; `o9 retry` runs it once more",
        )
    if held is wanted:
        return Decision(False, _R.ALREADY_THERE, f"it was asked to {wanted.verb} already")
    if held in FINAL_INTENTS:
        return Decision(False, _R.ENDING, f"it was asked to {held.verb} before, which is final")
    if wanted is Intent.HOLD:
        return Decision(False, _R.NOT_IN_TABLE, "only a new optimization can be held back; pause it instead")
    if wanted is Intent.SUSPEND:
        return Decision(False, _R.NOT_IN_TABLE, "only O9 itself suspends; pause it instead")
    return _ALLOWED


INTENDED_END = {Intent.CANCEL: OptimizationStatus.CANCELLED, Intent.TIME_OUT: OptimizationStatus.TIMEOUT}
# Where an attempt's end takes it that was asked to rest.
RESTS = {Intent.PAUSE: OptimizationStatus.PAUSED, Intent.SUSPEND: OptimizationStatus.SUSPENDED}


def at_rest(status: OptimizationStatus, intent: Intent, *, claimed: bool) -> OptimizationStatus | None:
    """Where an intent takes an optimization that nobody works on; None where an attempt carries it out, or none can."""
    if claimed:
        return None
    if intent in INTENDED_END and status not in ENDED:
        return INTENDED_END[intent]
    if intent is Intent.PAUSE and OptimizationStatus.PAUSED in TRANSITIONS[status]:
        return OptimizationStatus.PAUSED
    rests = status in (OptimizationStatus.PAUSED, OptimizationStatus.SUSPENDED)
    return OptimizationStatus.CREATED if intent is Intent.RUN and rests else None

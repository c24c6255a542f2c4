"""What a strategy is: asked for one step at a time, it returns what it evaluated and how to continue from there.

Contract. O9 calls `step`, sync or async, with a copy of the optimization's state, the number of the step (from 0) and
the checkpoint that the last committed step returned (None at first). Everything a step needs must follow from these and
from the ledger given to `open`: after a death, a fresh process makes a fresh strategy, calls `open` with the committed
trials, and continues with the step that was not committed, which is computed again. Trials continue the ledger's
numbers. Optional beside `step`: `total_steps: int` (used where the optimization says 0), `open(state, ledger)` once an
attempt, before the first step, and `close()` once, however the attempt ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from o9.model.trial import Output, Trial

BUILT_IN_STRATEGIES = ("default", "optuna")
DEMONSTRATION = "demonstration"  # as a key of the metadata, and as the name of a strategy
PLACEBO = "placebo"  # the name of the strategy of placebo runs


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    trials: what it evaluated, in the order of their numbers; may be empty.
    checkpoint: JSON-ready, small; what the next step needs beyond the ledger.
    done: True ends the optimization before its last step (a grid that is exhausted).
    metrics: figures of this step for the time series, by name.
    best_value, best_parameters: the best so far; None where the strategy keeps no trials of its own
    (O9 then takes them from the ledger).
    output: what the strategy printed outside of its trials; O9 fills it in where the strategy is sync.
    """

    trials: Sequence[Trial] = ()
    checkpoint: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_parameters: dict[str, Any] | None = None
    output: Output | None = None

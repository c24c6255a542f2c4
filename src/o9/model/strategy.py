"""The interface of a strategy, which computes one step at a time and returns what it evaluated.

Contract. O9 calls `step`, sync or async, with a copy of the optimization's state, the number of the step (from 0) and
the checkpoint of the last committed step (None at first). A step may depend only on these and on the ledger that `open`
gets: after a crash, a new process makes a new strategy, calls `open` with the committed trials, and computes the
uncommitted step again. The numbers of trials continue those of the ledger. Optional: `total_steps: int`, used if the
optimization says 0; `open(state, ledger)`, called once an attempt before the first step; `close()`, called once at the
attempt's end, however it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from o9.model.trial import Output, Trial

BUILT_IN_STRATEGIES = ("default", "optuna")
DEMONSTRATION = "demonstration"  # a metadata key, and the name of the strategy in lists and statistics
PLACEBO = "placebo"  # the name of the strategy of placebo runs


@dataclass(frozen=True)
class StepResult:
    """The result of one step.

    trials: the evaluated trials, ordered by number; may be empty.
    checkpoint: what the next step needs beyond the ledger; small, and JSON-ready.
    done: True ends the optimization before its last step, for example when a grid is exhausted.
    metrics: figures of this step for the time series, by name.
    best_value, best_parameters: the best so far. None: O9 takes them from the ledger.
    output: what the strategy printed outside its trials. O9 sets it for sync strategies.
    """

    trials: Sequence[Trial] = ()
    checkpoint: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    best_parameters: dict[str, Any] | None = None
    output: Output | None = None

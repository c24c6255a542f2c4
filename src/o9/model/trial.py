"""What an objective answers, and what the ledger keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from o9.model.states import TrialState


class Infeasible(Exception):
    """Raised by an objective for parameters that contradict each other: `raise Infeasible("fast >= slow")`.

    That is no failure: the sampler takes them as worse than any other, no alert follows, and the trial does not count
    in its family.
    """


@dataclass(frozen=True)
class Evaluation:
    """An objective's whole answer for one parameter set.

    value: what is maximized or minimized. None: O9 computes it from `returns`, by `metadata.score`; that is how
        `metadata.hold_out` can keep the last part of them from the search.
    feasible: False is the same as raising `Infeasible`; it needs no value.
    returns: one number a period, simple returns (0.01 for one per cent), those that the value comes from; a plain
        sequence, a one-dimensional array or a pandas Series. It lets O9 doubt a Sharpe ratio.
    periods_per_year: how many of those periods a year has, 252 for trading days.
    metrics: other figures worth keeping, by name.
    data_fingerprint: identifies the data it was computed from; see `fingerprint`.
    hold_out_returns: of the same parameters, on periods that the value does not know. No sampler sees them; the best
        trial's are compared with its claim.
    baseline_returns: what doing nothing clever earned in the periods of `returns`, as many numbers. Returns are then
        judged by what they earn beyond their beta to the baseline, not by what they earn over zero. The same for all
        parameters: those of the first trial are kept.
    baseline_hold_out_returns: the baseline's in the periods of `hold_out_returns`.
    dates: one for each of `returns`, or of those and then `hold_out_returns`: dates, datetimes, datetime64 or ISO
        texts, in order, each once. A pandas Series has its own. Plots use them, and a hold-out that begins at a date.
    """

    value: float | None = None
    returns: Sequence[float] | None = None
    periods_per_year: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    data_fingerprint: str | None = None
    hold_out_returns: Sequence[float] | None = None
    baseline_returns: Sequence[float] | None = None
    baseline_hold_out_returns: Sequence[float] | None = None
    dates: Iterable[Any] | None = None
    feasible: bool = True


@dataclass(frozen=True)
class Output:
    """What users' code printed and logged, as text; `cut` bytes of it are not kept."""

    text: str
    cut: int = 0


@dataclass(frozen=True)
class Trial:
    """One evaluated parameter set, as the ledger keeps it.

    `number` counts from 0 within the optimization, `step` from 0; `value` is None unless the state is completed.
    `family` names the trials that count together when a result is deflated. The returns are those of an `Evaluation`.
    Of the baseline's, a step's first are kept, once for each optimization; a trial that is read has none. `dates` and
    `hold_out_dates` are seconds since 1970 (`o9.model.dates`); equal ones are stored once for each optimization.
    `output` is read on its own (`store.outputs`).
    """

    number: int
    step: int
    state: TrialState
    parameters: dict[str, Any]
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    started_at: datetime | None = None
    duration_seconds: float = 0.0
    attempt: int = 0
    family: str = ""
    returns: tuple[float, ...] | None = None
    periods_per_year: float | None = None
    hold_out_returns: tuple[float, ...] | None = None
    baseline_returns: tuple[float, ...] | None = None
    baseline_hold_out_returns: tuple[float, ...] | None = None
    dates: tuple[float, ...] | None = None
    hold_out_dates: tuple[float, ...] | None = None
    output: Output | None = None

    def to_dict(self) -> dict[str, Any]:
        """The keys that `o9 trials --json` prints; returns are read on their own, being long."""
        plain = {name: getattr(self, name) for name in _PRINTED}
        started_at = self.started_at.isoformat() if self.started_at else None
        return plain | {"state": self.state.value, "started_at": started_at}


_PRINTED = (
    "number", "attempt", "step", "state", "parameters", "value", "metrics", "error", "started_at", "duration_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What an attempt ran: `objective` or strategy by name, and fingerprints of its code and data; "" is not known.

    Attempt 0 is what a retry took over. search_space: what the built-in strategy searched, as JSON.
    """

    attempt: int
    objective: str
    code: str
    data: str
    search_space: str = ""


def fingerprint(data: Any) -> str:
    """A short stable name for `data`: a string is its own name; bytes, arrays and frames are hashed.

    A pandas object is hashed with its index and columns, a mapping, a tuple or a list by its parts.
    Raises TypeError for what cannot be hashed by content.
    """
    if isinstance(data, str):
        return data
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(data):
        digest.update(part)
    return digest.hexdigest()


def _parts(data: Any) -> list[bytes]:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return [bytes(data)]
    if hasattr(data, "to_numpy"):
        axes = [str(label) for axis in ("index", "columns") for label in getattr(data, axis, ())]
        return ["\x1f".join(axes).encode(), *_parts(data.to_numpy())]
    if hasattr(data, "tobytes") and getattr(data, "dtype", None) is not None and data.dtype.kind != "O":
        return [f"{data.dtype.str}{data.shape}".encode(), data.tobytes()]
    if isinstance(data, Mapping):
        return [part for name in sorted(data, key=str) for part in (str(name).encode(), *_parts(data[name]))]
    if isinstance(data, (tuple, list)):
        return [part for each in data for part in _parts(each)]
    if isinstance(data, (str, int, float)):
        return [repr(data).encode()]
    raise TypeError(
        f"data of type {type(data).__name__} has no fingerprint: give a string that names the data set and its version"
    )

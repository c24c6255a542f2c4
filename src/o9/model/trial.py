"""What an objective returns, and what the ledger keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from o9.model.states import TrialState


class Infeasible(Exception):
    """An objective raises it for parameters that contradict each other: `raise Infeasible("fast >= slow")`.

    This is not a failure: the sampler treats them as worse than any others, there is no alert, and the trial does not
    count in its family.
    """


@dataclass(frozen=True)
class Evaluation:
    """The result of an objective for one parameter set.

    value: the value to maximize or minimize. None: O9 computes it from `returns` by `metadata.score`, so that
        `metadata.hold_out` can withhold the last part of them from the search.
    returns: the simple returns that the value comes from, one for each period (0.01 is one per cent): a sequence, a
        one-dimensional array or a pandas Series. The verdict needs them.
    periods_per_year: the number of periods in a year, such as 252 trading days.
    metrics: other figures to keep, by name.
    data_fingerprint: identifies the data; see `fingerprint`.
    hold_out_returns: the returns of the same parameters on periods that are not in the value. No sampler sees them;
        those of the best trial are compared with its claim.
    baseline_returns: the returns of a passive alternative in the same periods as `returns`. Returns are then judged by
        what they earn beyond their beta to the baseline. They must not depend on the parameters: those of the first
        trial are kept.
    baseline_hold_out_returns: the baseline's returns in the periods of `hold_out_returns`.
    dates: one for each of `returns`, or of `returns` followed by `hold_out_returns`: dates, datetimes, datetime64 or
        ISO 8601 texts, ascending and unique. Default: the index of a pandas Series. Plots and a hold-out that begins
        at a date use them.
    feasible: False is the same as raising `Infeasible`; it needs no value.
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
    """What users' code printed and logged; `cut` bytes of it were dropped."""

    text: str
    cut: int = 0


@dataclass(frozen=True)
class Trial:
    """One evaluated parameter set in the ledger.

    `number` and `step` count from 0. `value` is None unless the state is completed. Trials of one `family` count
    together when a result is judged. The returns are those of an `Evaluation`. Baseline returns are stored once for
    each optimization, and a trial that is read has none. `dates` and `hold_out_dates` are seconds since 1970
    (`o9.model.dates`). `output` is read separately, by `queries.outputs`.
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
        """The keys that `o9 trials --json` prints; returns are read separately."""
        plain = {name: getattr(self, name) for name in _PRINTED}
        started_at = self.started_at.isoformat() if self.started_at else None
        return plain | {"state": self.state.value, "started_at": started_at}


_PRINTED = (
    "number", "attempt", "step", "state", "parameters", "value", "metrics", "error", "started_at", "duration_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What an attempt ran: the name of the objective or strategy, and fingerprints of its code and data; "": unknown.

    Attempt 0 is that of the retried optimization. search_space: that of the built-in strategy, as JSON.
    """

    attempt: int
    objective: str
    code: str
    data: str
    search_space: str = ""


def fingerprint(data: Any) -> str:
    """Return a stable identifier of `data`: a string itself, and a hash of bytes, arrays and frames.

    A pandas object is hashed with its index and columns; a mapping, a tuple or a list, by its parts. Raises TypeError
    for data that cannot be hashed by content.
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

"""Conversion between data classes and rows: how JSON, enums, times and returns are stored."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, get_origin, get_type_hints

from o9.model.optimization import OptimizationState, as_utc, utc_now
from o9.model.states import OptimizationStatus, TrialState
from o9.model.trial import Trial

STATE_FIELDS = get_type_hints(OptimizationState)  # the columns of a state, and their types
JSON_FIELDS = tuple(name for name, kind in STATE_FIELDS.items() if get_origin(kind) in (dict, list))
REAL_FIELDS = tuple(name for name, kind in STATE_FIELDS.items() if kind is float)
_ENUMS = tuple(name for name, kind in STATE_FIELDS.items() if isinstance(kind, type) and issubclass(kind, Enum))
_MOMENTS = tuple(name for name, kind in STATE_FIELDS.items() if kind in (datetime, datetime | None))
# Fields that O9 itself changes, and the time of submission: they do not make two submissions differ.
_NOT_CONTENT = {
    "status", "created_at", "updated_at", "started_at", "completed_at", "progress", "current_step", "completed_steps",
    "current_performance", "performance_improvement", "optimized_parameters", "results", "metrics", "issues",
    "warnings", "cpu_usage", "memory_usage", "execution_time",
}  # fmt: skip
_CONTENT = tuple(name for name in STATE_FIELDS if name not in _NOT_CONTENT)


def moment(at: datetime) -> str:
    """Return ISO 8601 in UTC, always with microseconds, so that texts sort by time."""
    return as_utc(at).isoformat(timespec="microseconds")


def now_text() -> str:
    return moment(utc_now())


def real(value: float) -> float:
    """Return the value for a REAL column, never -0.0: SQLite does not keep the sign of zero, and databases agree."""
    return float(value) + 0.0


def free_text(text: str) -> str:
    """Return an error or message of others with characters replaced that a database cannot store."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# Most JSON of a new optimization is empty, and the encoder is slow to start.
def to_json(value: Any) -> str:
    return "{}" if value == {} else "[]" if value == [] else _JSON.encode(value)


def from_json(text: str) -> Any:
    return {} if text == "{}" else [] if text == "[]" else json.loads(text)


# json.dumps would make an encoder for each call.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SORTED_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def content_hash(state: OptimizationState) -> str:
    """Return a hash that is equal for two submissions of the same content."""
    content = {name: getattr(state, name) for name in _CONTENT}
    for name in ("baseline_performance", "target_performance"):
        content[name] = real(content[name])  # 1 and 1.0 are the same content
    return hashlib.blake2b(_SORTED_JSON.encode(content).encode(), digest_size=16).hexdigest()


def state_to_row(state: OptimizationState) -> dict[str, Any]:
    row = {name: getattr(state, name) for name in STATE_FIELDS}
    for name in _ENUMS:
        row[name] = row[name].value
    for name in JSON_FIELDS:
        row[name] = to_json(row[name])
    for name in _MOMENTS:
        row[name] = None if row[name] is None else moment(row[name])
    for name in REAL_FIELDS:
        row[name] = real(row[name])
    return row


def row_to_state(row: Mapping[Any, Any]) -> OptimizationState:
    """Return the state. While it runs, `execution_time` includes the time since it started to run."""
    data = {name: row[name] for name in STATE_FIELDS}
    for name in JSON_FIELDS:
        data[name] = from_json(data[name])
    state = OptimizationState(**data)
    if state.status is OptimizationStatus.RUNNING and row["running_since"]:
        state.execution_time += max(0.0, (utc_now() - datetime.fromisoformat(row["running_since"])).total_seconds())
    return state


def trial_to_row(optimization_id: str, attempt: int, trial: Trial) -> dict[str, Any]:
    return {
        "optimization_id": optimization_id,
        "number": trial.number,
        "step": trial.step,
        "attempt": attempt,
        "state": trial.state.value,
        "parameters": to_json(trial.parameters),
        "value": None if trial.value is None else real(trial.value),
        "metrics": to_json({name: value for name, value in trial.metrics.items() if math.isfinite(value)}),
        "error": None if trial.error is None else free_text(trial.error),
        "started_at": moment(trial.started_at) if trial.started_at else None,
        "duration_seconds": trial.duration_seconds,
        "family": trial.family,
    }


def row_to_trial(
    row: Mapping[Any, Any],
    returns: Mapping[Any, Any] | None = None,
    calendars: tuple[bytes | None, bytes | None] = (None, None),
) -> Trial:
    """Return the trial. `calendars` are the packed dates of the returns and of the held-out returns."""
    dates, hold_out_dates = (None if data is None else unpack_returns(data) for data in calendars)
    return Trial(
        number=row["number"],
        step=row["step"],
        state=TrialState(row["state"]),
        parameters=json.loads(row["parameters"]),
        value=row["value"],
        metrics=json.loads(row["metrics"]),
        error=row["error"],
        started_at=datetime.fromisoformat(row["started_at"]) if row["started_at"] else None,
        duration_seconds=row["duration_seconds"],
        attempt=row["attempt"],
        family=row["family"],
        returns=unpack_returns(returns["data"]) if returns else None,
        periods_per_year=returns["periods_per_year"] if returns else None,
        hold_out_returns=unpack_returns(returns["hold_out"]) if returns and returns["hold_out"] is not None else None,
        dates=dates,
        hold_out_dates=hold_out_dates,
    )


def pack_returns(returns: Sequence[float]) -> bytes:
    values = array("d", returns)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def unpack_returns(data: bytes) -> tuple[float, ...]:
    values = array("d")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return tuple(values)

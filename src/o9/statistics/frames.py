"""The record as pandas frames with stable columns and dtypes, and as CSV and Parquet files.

Times are datetime64[us, UTC], figures float64 with NaN if unknown, counts Int64, texts pandas' "string" with <NA> if
missing; lists and mappings are JSON texts. An empty frame has the same columns and dtypes. In frames of trials, each
parameter and metric has a column, `parameter.NAME` or `metric.NAME`, after the fixed ones: float64 if all its values
are numbers, else "string". Parquet needs `pip install 'prefect-o9[parquet]'`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from o9.model.errors import OptimizationStatisticsError, OptimizationValidationError
from o9.model.files import private
from o9.model.validation import validate_whole

if TYPE_CHECKING:
    import pandas as pd

MOMENT = "datetime64[us, UTC]"
OPTIMIZATIONS: dict[str, str] = {
    "optimization_id": "string", "name": "string", "description": "string", "optimization_type": "string",
    "strategy": "string", "status": "string", "priority": "Int64", "created_at": MOMENT, "updated_at": MOMENT,
    "started_at": MOMENT, "completed_at": MOMENT, "progress": "float64", "current_step": "string",
    "total_steps": "Int64", "completed_steps": "Int64", "current_performance": "float64",
    "baseline_performance": "float64", "target_performance": "float64", "performance_improvement": "float64",
    "execution_time": "float64", "cpu_usage": "float64", "memory_usage": "float64", "parameters": "string",
    "optimized_parameters": "string", "results": "string", "metrics": "string", "issues": "string",
    "warnings": "string", "metadata": "string",
}  # fmt: skip
TRIALS: dict[str, str] = {
    "optimization_id": "string", "number": "Int64", "step": "Int64", "attempt": "Int64", "state": "string",
    "value": "float64", "error": "string", "started_at": MOMENT, "duration_seconds": "float64", "family": "string",
}  # fmt: skip
COLUMNS: dict[str, dict[str, str]] = {
    "optimizations": OPTIMIZATIONS,
    "trials": TRIALS,
    # `series` is returns, hold_out, baseline or baseline_hold_out. A baseline has no number.
    "returns": {
        "optimization_id": "string", "number": "Int64", "series": "string", "period": "Int64", "value": "float64",
    },
    # `step` is <NA> for figures recorded from outside.
    "metrics": {"optimization_id": "string", "step": "Int64", "name": "string", "value": "float64", "at": MOMENT},
    "transitions": {
        "optimization_id": "string", "from_status": "string", "to_status": "string", "at": MOMENT, "cause": "string",
        "message": "string", "node": "string", "attempt": "Int64", "prefect_run_id": "string",
    },
    "health": {
        "optimization_id": "string", "timestamp": MOMENT, "overall_status": "string", "validity_status": "string",
        "completeness_status": "string", "security_status": "string", "performance_status": "string",
        "validity_score": "float64", "completeness_score": "float64", "security_score": "float64",
        "performance_score": "float64", "issues": "string", "recommendations": "string", "status": "string",
        "first_at": MOMENT, "times": "Int64", "grade": "string", "reason": "string", "headline": "string",
        "forecast": "float64", "forecast_low": "float64", "forecast_high": "float64", "claimed": "float64",
        "held_out": "float64",
    },
    "alerts": {
        "alert_id": "string", "optimization_id": "string", "level": "string", "title": "string", "message": "string",
        "timestamp": MOMENT, "resolved": "boolean", "resolved_at": MOMENT, "metadata": "string",
    },
    "rankings": {
        "rank": "Int64", "optimization_id": "string", "value": "float64", "direction": "string", "name": "string",
        "optimization_type": "string", "strategy": "string", "status": "string", "family": "string",
    },
    "trends": {
        "starts": "string", "is_over": "boolean", "count": "Int64", "success_rate": "float64",
        "mean_duration_seconds": "float64", "mean_improvement": "float64",
    },
    "statistics": {
        "by": "string", "which": "string", "count": "Int64", "success_rate": "float64", "failure_rate": "float64",
        "cancelled_rate": "float64", "mean_duration_seconds": "float64", "median_duration_seconds": "float64",
        "mean_improvement": "float64", "median_improvement": "float64", "mean_waiting_seconds": "float64",
    },
}  # fmt: skip
KINDS = tuple(COLUMNS)
_JSON = json.JSONEncoder(ensure_ascii=False).encode
_TAKEN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(COLUMNS, ("optimization_id", "limit")),
    "optimizations": ("status", "optimization_type", "limit"),
    "rankings": ("metric_name", "limit"),
    "trends": ("time_range",),
    "statistics": (),
}
_NEEDED = {
    **dict.fromkeys(("trials", "returns", "metrics", "transitions"), "optimization_id"), "rankings": "metric_name",
}  # fmt: skip


def check(kind: str, choice: Mapping[str, Any]) -> None:
    """Raise OptimizationValidationError for an unknown frame, or arguments that it does not take or lacks."""
    if kind not in KINDS:
        raise OptimizationValidationError("kind", f"{kind!r} is not one of {', '.join(KINDS)}")
    given = [name for name, value in choice.items() if value is not None]
    for name in given:
        if name not in _TAKEN[kind]:
            taken = f"only {' and '.join(_TAKEN[kind])}" if _TAKEN[kind] else "no arguments"
            raise OptimizationValidationError(name, f"{kind} takes {taken}; omit it")
    needed = _NEEDED.get(kind)
    if needed is not None and needed not in given:
        raise OptimizationValidationError(needed, f"required for {kind}")
    if choice.get("limit") is not None:
        validate_whole("limit", choice["limit"])


def frame_of(kind: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a frame with these rows, in order."""
    own = {
        name: None for row in rows for name in row if kind == "trials" and name.startswith(("parameter.", "metric."))
    }
    ordered = sorted(own, key=lambda name: (name.startswith("metric."), name))
    return _frame(rows, COLUMNS[kind] | {name: _dtype(rows, name) for name in ordered})


def returns_frame(optimization_id: str, series: Iterable[tuple[int | None, str, Sequence[float]]]) -> pd.DataFrame:
    """Return a frame from trial numbers, names of series and their values, built column by column for millions."""
    import pandas as pd

    found = [*series]
    lengths = [len(values) for *_, values in found]
    columns: dict[str, Any] = {
        "optimization_id": optimization_id,
        "number": pd.Series([number for number, *_ in found], dtype="Int64").repeat(lengths).array,
        "series": pd.Series([name for _, name, _ in found], dtype="string").repeat(lengths).array,
        "period": [period for length in lengths for period in range(length)],
        "value": [value for *_, values in found for value in values],
    }
    return pd.DataFrame(columns).astype(COLUMNS["returns"])


def write(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a frame as CSV or Parquet, depending on the suffix of the path.

    Raises OptimizationValidationError for another suffix, OptimizationStatisticsError if pyarrow is not installed.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OptimizationValidationError("path", f"{target}: its folder does not exist; create it first")
    if target.suffix == ".csv":
        with open(target, "w", opener=private, encoding="utf-8", newline="") as file:
            frame.to_csv(file, index=False)
    elif target.suffix == ".parquet":
        try:
            content = frame.to_parquet(engine="pyarrow", index=False)
        except ImportError as error:
            raise OptimizationStatisticsError(
                "Parquet needs pyarrow: pip install 'prefect-o9[parquet]', or write CSV"
            ) from error
        with open(target, "wb", opener=private) as binary:
            binary.write(content)
    else:
        raise OptimizationValidationError("path", f"{target.name!r} must end in .csv or .parquet")
    return target


def _dtype(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    given = [row[name] for row in rows if row.get(name) is not None]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    return "float64" if numbers else "string"


def _frame(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    columns = {}
    for name, dtype in dtypes.items():
        values = [row.get(name) for row in rows]
        if dtype == MOMENT:
            columns[name] = pd.to_datetime(pd.Series(values, dtype="object"), utc=True, format="ISO8601").astype(MOMENT)
        elif dtype == "string":
            texts = [value if value is None or isinstance(value, str) else _JSON(value) for value in values]
            columns[name] = pd.Series(texts, dtype="string")
        else:
            columns[name] = pd.Series(values, dtype="object").astype(dtype)
    return pd.DataFrame(columns)

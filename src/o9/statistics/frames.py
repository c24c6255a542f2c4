"""The record as pandas frames, with stable columns and dtypes, and as CSV and Parquet files.

Needs `pip install 'prefect-o9[frames]'`: pandas, and pyarrow for Parquet. Moments are datetime64[us, UTC]; figures are
float64 with NaN where unknown, counts are Int64, words are pandas' "string", with <NA> where there is none. A frame of
nothing has the same columns and dtypes. Of trials, each parameter and each metric has a column of its own,
`parameter.NAME` and `metric.NAME`, behind the fixed ones: float64 where all are numbers, else "string" (as JSON).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from o9.model.errors import OptimizationStatisticsError, OptimizationValidationError
from o9.model.files import private
from o9.model.optimization import OptimizationState
from o9.model.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("optimizations", "trials")
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


def pandas() -> Any:
    """pandas; raises OptimizationStatisticsError, naming what to install."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise OptimizationStatisticsError("frames need pandas: pip install 'prefect-o9[frames]'") from error
    return pd


def optimizations_frame(states: Sequence[OptimizationState]) -> pd.DataFrame:
    """One row an optimization, in the order given."""
    rows = [state.to_dict() | {"strategy": state.metadata.get("strategy", "default")} for state in states]
    return _frame(rows, OPTIMIZATIONS)


def trials_frame(optimization_id: str, trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial, in the order given."""
    rows = []
    parameters: set[str] = set()
    metrics: set[str] = set()
    for trial in trials:
        fixed: dict[str, Any] = trial.to_dict() | {"optimization_id": optimization_id}
        rows.append(
            {name: fixed.get(name) for name in TRIALS}
            | {f"parameter.{name}": value for name, value in trial.parameters.items()}
            | {f"metric.{name}": value for name, value in trial.metrics.items()}
        )
        parameters |= trial.parameters.keys()
        metrics |= trial.metrics.keys()
    own = [*(f"parameter.{name}" for name in sorted(parameters)), *(f"metric.{name}" for name in sorted(metrics))]
    return _frame(rows, TRIALS | {name: _dtype(rows, name) for name in own})


def write(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a frame to `….csv` or `….parquet`. Raises OptimizationValidationError for another ending."""
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
                "Parquet needs pyarrow: pip install 'prefect-o9[frames]'; CSV needs nothing more"
            ) from error
        with open(target, "wb", opener=private) as binary:
            binary.write(content)
    else:
        raise OptimizationValidationError("path", f"{target.name!r} ends neither in .csv nor in .parquet")
    return target


def _dtype(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    given = [row[name] for row in rows if row.get(name) is not None]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    return "float64" if numbers else "string"


def _frame(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    pd = pandas()
    columns = {}
    for name, dtype in dtypes.items():
        values = [row.get(name) for row in rows]
        if dtype == MOMENT:
            columns[name] = pd.to_datetime(pd.Series(values, dtype="object"), utc=True, format="ISO8601").astype(MOMENT)
        elif dtype == "string":
            columns[name] = pd.Series([_word(value) for value in values], dtype="string")
        else:
            columns[name] = pd.Series(values, dtype="object").astype(dtype)
    return pd.DataFrame(columns)


def _word(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)

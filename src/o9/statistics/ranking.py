"""Who is first: one order of heads of an index, ranks that ties share, names near a misspelled one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from o9.model.errors import OptimizationValidationError
from o9.model.validation import validate_whole
from o9.store.statistics.rankings import MAXIMIZE, STATE_FIGURES
from o9.text.suggest import suggestion

LIMIT = 1_000


def check(metric: object, limit: object) -> None:
    """Raise OptimizationValidationError for what cannot be ranked by."""
    if not isinstance(metric, str) or not metric or "\0" in metric:
        raise OptimizationValidationError("metric_name", f"{metric!r} is not the name of a metric")
    validate_whole("limit", limit, LIMIT)


def unknown_metric(metric: str, recorded: Sequence[str]) -> OptimizationValidationError:
    """The error for a metric that nothing has, naming near ones."""
    known = sorted({*STATE_FIGURES, *recorded})
    return OptimizationValidationError(
        "metric_name", f"nothing was ranked by {metric!r}{suggestion(metric, known, n=3, cutoff=0.5)}"
    )


def ranked(rows: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The best `limit` of `rows`, which are the first `limit` of each direction. Ties share a rank: 1, 1, 3.

    Each is ranked by its own direction: a smaller value of what is minimized is better, and those of different
    directions are put in one order by the value with its sign turned.
    """

    def score(row: Mapping[str, Any]) -> float:
        return float(row["value"] if row["direction"] == MAXIMIZE else -row["value"])

    ranks: list[dict[str, Any]] = []
    for place, row in enumerate(sorted(rows, key=lambda row: (-score(row), row["optimization_id"]))[:limit], start=1):
        rank = ranks[-1]["rank"] if ranks and score(ranks[-1]) == score(row) else place
        ranks.append({"rank": rank, **row})
    return ranks


def ranks_shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rank of each; `=` behind one that several of them share."""
    ranks = [(row.get("family"), row["rank"]) for row in rows]
    return [f"{rank[1]}{'=' if ranks.count(rank) > 1 else ''}" for rank in ranks]

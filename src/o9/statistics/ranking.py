"""Who is first: one order of heads of an index, ranks that ties share, names near a misspelled one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from o9.model.errors import OptimizationValidationError
from o9.model.validation import validate_whole
from o9.store.statistics.rankings import MAXIMIZE, MINIMIZE, STATE_FIGURES
from o9.text.suggest import suggestion

LIMIT = 1_000
TIES_COUNTED = 100


def check(metric: object, limit: object, direction: object) -> None:
    """Raise OptimizationValidationError for what cannot be ranked by."""
    if not isinstance(metric, str) or not metric or "\0" in metric:
        raise OptimizationValidationError("metric_name", f"{metric!r} is not the name of a metric")
    validate_whole("limit", limit, LIMIT)
    if direction not in (None, MAXIMIZE, MINIMIZE):
        raise OptimizationValidationError("direction", f"{direction!r} is neither {MAXIMIZE!r} nor {MINIMIZE!r}")


def unknown_metric(metric: str, recorded: Sequence[str]) -> OptimizationValidationError:
    """The error for a metric that nothing has, naming near ones."""
    known = sorted({*STATE_FIGURES, *recorded})
    return OptimizationValidationError(
        "metric_name", f"nothing was ranked by {metric!r}{suggestion(metric, known, n=3, cutoff=0.5)}"
    )


def largest_first(own: str, direction: str | None) -> bool:
    """Whether those whose own direction is `own` are read from the largest value on."""
    return (direction or own) == MAXIMIZE


def ranked(
    rows: Sequence[Mapping[str, Any]],
    limit: int,
    direction: str | None,
    tied: Callable[[str, float], int],
) -> list[dict[str, Any]]:
    """The best `limit` of `rows`, which are the first `limit` of each own direction.

    direction None: each by its own direction, so that a smaller value of what is minimized is better; those of
    different directions are put in one order by the value with its sign turned. `tied(own, value)` counts those of one
    direction that have a value, and need not go further than TIES_COUNTED + 1. Ranks are as in sport: 1, 1, 3.
    """

    def score(row: Mapping[str, Any]) -> float:
        return float(row["value"] if largest_first(row["direction"], direction) else -row["value"])

    first = sorted(rows, key=lambda row: (-score(row), row["optimization_id"]))[:limit]
    counts = Counter(map(score, first))
    if len(first) == limit:  # the others that are tied with the last of the page may lie behind it
        last = score(first[-1])
        counts[last] = sum(tied(own, last if largest_first(own, direction) else -last) for own in (MAXIMIZE, MINIMIZE))
    ranks: list[dict[str, Any]] = []
    for place, row in enumerate(first, start=1):
        rank = ranks[-1]["rank"] if ranks and score(first[place - 2]) == score(row) else place
        count = counts[score(row)]
        ranks.append({"rank": rank, **row, "tied": min(count, TIES_COUNTED), "tied_or_more": count > TIES_COUNTED})
    return ranks

"""An objective with its data, hold-out and score: how its answer becomes a value. Runs in child processes, too.

Contract. A `MeasuredObjective` is sent to a child instead of the function if the objective has any of these. Refused
means that the objective cannot be measured as asked; it ends the run, because no other trial could succeed. The result
of `plain` ends at the cut: `returns`, `baseline_returns`, and a score of them. With `whole` nothing is cut or scored,
and the value may be None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from o9.model.hold_out import FIELD, CutError, HoldOut
from o9.workers.answers import BadAnswer, plain_answer
from o9.workers.objective_data import ObjectiveData
from o9.workers.scores import DEFAULT, Score, ScoreError, score_of

_CANNOT_HOLD_OUT = (
    "so its value may use the held-out periods. Return Evaluation(returns=…) without a value, and O9 computes one from "
    "the part before the cut (metadata.score). Or accept `periods`, and declare @objective(…, truncatable=True). An "
    "objective with its own hold_out_returns needs no metadata.hold_out"
)


class Refused(Exception):
    """The objective cannot be measured as its optimization asks. The message has the reason and the remedy."""


@dataclass(frozen=True)
class MeasuredObjective:
    """An objective's function, and how its answer becomes a value.

    truncatable: the function is called with `periods`, and its answer is not cut. data: passed as `data`; None if it
    takes none. score: the name in metadata.score, or "" for the default. score_function: the function registered under
    that name.
    """

    function: Callable[..., Any]
    truncatable: bool = False
    data: ObjectiveData | None = None
    score: str = ""
    score_function: Score | None = None
    hold_out: HoldOut | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is only the function."""
        return self.data is None and not self.score and self.hold_out is None

    def call(self, parameters: Mapping[str, Any], periods: int | None = None) -> Any:
        """Call the objective. Returns an awaitable if it is async. Raises Refused if its data cannot be loaded."""
        keywords: dict[str, Any] = {} if periods is None else {"periods": periods}
        if self.data is not None:
            try:
                keywords["data"] = self.data.load()
            except Exception as error:
                raise Refused(f"its data cannot be loaded: {type(error).__name__}: {error}") from error
        return self.function(parameters, **keywords)

    def plain(self, answer: Any, *, periods: int | None = None, whole: bool = False) -> dict[str, Any]:
        """Return the fields of `answer` (`plain_answer`), cut and scored. `periods`: those of the call.

        Adds `total`, the number of returns before they were cut, and `scored`, if the value is a score. Raises
        BadAnswer if the trial has failed, Refused if the run has.
        """
        hold_out, plain = self.hold_out, plain_answer(answer)
        if hold_out is not None and plain.get("hold_out_returns") is not None:
            raise Refused(f"{FIELD} is set, but the objective returns its own hold_out_returns: leave one of them out")
        if whole:
            return plain
        returns = plain.get("returns")
        if hold_out is not None and periods is not None and returns is not None and len(returns) != periods:
            raise BadAnswer(
                f"called with periods={periods}, the objective returned {len(returns)} returns; return exactly those"
            )
        if hold_out is not None and not self.truncatable:
            if plain["value"] is not None or returns is None:
                what = "returns no returns" if returns is None else "returns its own value"
                raise Refused(f"{FIELD} is set, but the objective {what} and is not truncatable, {_CANNOT_HOLD_OUT}")
            _cut(plain, hold_out)
        if plain["value"] is None:
            plain |= {"value": self._score(plain), "scored": True}
        elif self.score:
            raise Refused(
                "metadata.score is set, but the objective returns its own value: omit metadata.score, or return "
                "Evaluation(returns=…) without a value"
            )
        return plain

    def _score(self, plain: dict[str, Any]) -> float:
        if plain.get("returns") is None:
            raise BadAnswer("the objective returned neither a value nor returns to compute one from")
        try:
            return score_of(plain["returns"], plain["periods_per_year"], self.score or DEFAULT, self.score_function)
        except ScoreError as error:
            raise BadAnswer(str(error)) from error


def _cut(plain: dict[str, Any], hold_out: HoldOut) -> None:
    total = len(plain["returns"])
    try:
        before = hold_out.before(total, plain["periods_per_year"], plain.get("dates"))
    except CutError as error:
        raise Refused(str(error)) from error
    plain["total"] = total
    for name in ("returns", "baseline_returns", "dates"):
        if plain.get(name) is not None:
            plain[name] = plain[name][:before]

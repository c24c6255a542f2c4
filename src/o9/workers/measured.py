"""How an answer becomes a value: the cut of a hold-out, and the score of what is left. Runs in child processes too.

Contract. `Measured` is sent to a child in an objective's place where there is more to it than the function. An
objective that cannot be measured as asked is a Refused, which ends the run: no other trial could succeed. What `plain`
answers ends at the cut: `returns`, `baseline_returns`, and the value made of them. With `whole` nothing is cut or
scored, and the value may be None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from o9.model.hold_out import FIELD, CutError, HoldOut
from o9.workers.answers import BadAnswer, plain_answer
from o9.workers.given import Given
from o9.workers.scores import DEFAULT, Score, ScoreError, score_of

_CUT_WHAT = (
    "so that its value may know the periods held out. Let it give Evaluation(returns=…) without a value: O9 computes "
    "it from the part before the cut (metadata.score). Or let it take `periods` and declare "
    "@objective(…, truncatable=True). Hold-outs of its own (hold_out_returns) need no metadata.hold_out"
)


class Refused(Exception):
    """The objective cannot be measured as its optimization asks; says why, and what to do."""


@dataclass(frozen=True)
class Measured:
    """An objective's function, and how its answer becomes a value.

    truncatable: it is called with `periods`, and nothing is cut. given: what it is called with as `data`; None where it
    takes none. score: its name; "" where none was asked for, and the default holds. score_function: what is registered
    under that name.
    """

    function: Callable[..., Any]
    truncatable: bool = False
    given: Given | None = None
    score: str = ""
    score_function: Score | None = None
    hold_out: HoldOut | None = None

    @property
    def is_plain(self) -> bool:
        """Whether there is no more to it than the function."""
        return self.given is None and not self.score and self.hold_out is None

    def call(self, parameters: Mapping[str, Any], periods: int | None = None) -> Any:
        """The objective's own answer; an awaitable where it is async. Raises Refused for data without a placebo."""
        keywords: dict[str, Any] = {} if periods is None else {"periods": periods}
        if self.given is not None:
            try:
                keywords["data"] = self.given.data()
            except Exception as error:
                raise Refused(f"its data cannot be had: {type(error).__name__}: {error}") from error
        return self.function(parameters, **keywords)

    def plain(self, answer: Any, *, periods: int | None = None, whole: bool = False) -> dict[str, Any]:
        """`answer` as `plain_answer` has it, cut and scored. `total`: how many returns before the cut; `scored`:
        whether the value is a score. `periods`: as many as the objective was called with.

        Raises BadAnswer for a trial that fails, Refused for a run that does.
        """
        hold_out, plain = self.hold_out, plain_answer(answer)
        if hold_out is not None and plain.get("hold_out_returns") is not None:
            raise Refused(f"{FIELD} is set, and the objective gives hold_out_returns of its own: leave one of them out")
        if whole:
            return plain
        returns = plain.get("returns")
        if hold_out is not None and periods is not None and returns is not None and len(returns) != periods:
            raise BadAnswer(
                f"called with periods={periods} the objective gave {len(returns)} returns; give exactly those"
            )
        if hold_out is not None and not self.truncatable:
            if plain["value"] is not None or returns is None:
                given = "gives no returns" if returns is None else "gives a value of its own"
                raise Refused(f"{FIELD} is set, and the objective {given} and cannot be truncated, {_CUT_WHAT}")
            _cut(plain, hold_out)
        if plain["value"] is None:
            plain |= {"value": self._score(plain), "scored": True}
        elif self.score:
            raise Refused(
                "metadata.score is set, and the objective gives a value of its own: leave metadata.score out, or let "
                "it give Evaluation(returns=…) without a value"
            )
        return plain

    def _score(self, plain: dict[str, Any]) -> float:
        if plain.get("returns") is None:
            raise BadAnswer("the objective gave neither a value nor returns to compute one from")
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

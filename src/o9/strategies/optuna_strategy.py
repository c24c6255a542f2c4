"""The built-in strategy: Optuna's samplers on an objective and a search space. One seed gives one ledger.

Contract. That of `o9.model.strategy`. A step draws its parameter sets, evaluates them concurrently, and reports their
values to the sampler in the order of the trials' numbers. Everything follows from the state, the checkpoint and the
ledger, so a fresh object in a fresh process continues as this one would have. Without `metadata.seed`, a seed is drawn
at the first step and kept in the checkpoint. Cancelling `step` cancels its evaluations and ends the attempt;
`interrupted` then returns its trials.

The module is not called `optuna`, because a script run from this folder would import it instead of the library.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar, Literal

from o9.model.errors import OptimizationStrategyError
from o9.model.hold_out import FIELD as HOLD_OUT
from o9.model.hold_out import CutError, HeldOut, HoldOut
from o9.model.optimization import OptimizationState
from o9.model.states import TrialState
from o9.model.strategy import StepResult
from o9.model.trial import Trial
from o9.strategies.evaluation import Evaluator, TrialOutcome
from o9.strategies.plan import Plan
from o9.strategies.registry import Objective
from o9.strategies.samplers import Asker, make_asker, reported_value
from o9.workers.scores import DEFAULT, SCORES
from o9.workers.team import Team

logger = logging.getLogger(__name__)
SEED_BITS = 32
LIBRARIES = ("optuna", "numpy", "cmaes", "scipy")
Returns = tuple[float, ...] | None
QUICK_SAMPLERS = frozenset({"random", "grid"})


class OptunaStrategy:
    """One attempt at one optimization."""

    kind: ClassVar[Literal["steps"]] = "steps"

    def __init__(self, plan: Plan, objective: Objective, evaluator: Evaluator) -> None:
        self.total_steps = plan.total_steps
        self._plan = plan
        self._objective = objective
        self._evaluator = evaluator
        self._ledger: Sequence[Trial] = ()
        self._trials = 0
        self._baseline: tuple[Returns, Returns] | None = None
        self._cut: tuple[int, int] | None = None  # the number of returns before the hold-out, and of all returns
        self._asker: Asker | None = None
        self._seed = 0
        self._stepping = False
        self._in_flight: list[Trial] = []

    def open(self, state: OptimizationState, ledger: Sequence[Trial]) -> None:
        """Take the committed trials. The sampler is made at the first step."""
        for position, trial in enumerate(ledger):
            if trial.number != position:
                raise OptimizationStrategyError(
                    f"the ledger has trial {trial.number} in place of number {position}: it is incomplete"
                )
        self._ledger = ledger
        self._trials = len(ledger)

    async def step(self, state: OptimizationState, step: int, checkpoint: dict[str, Any] | None) -> StepResult:
        """Draw and evaluate the next `trials_per_step` parameter sets."""
        if self._stepping:
            raise OptimizationStrategyError("a step of this attempt was cancelled or failed: begin another attempt")
        self._stepping = True
        if self._asker is None:
            self._asker = await asyncio.to_thread(self._resume, checkpoint)
        asker, count = self._asker, self._plan.trials_per_step
        quick = self._plan.metadata.sampler in QUICK_SAMPLERS  # the others would block the event loop
        asked = asker.ask(count) if quick else await asyncio.to_thread(asker.ask, count)
        numbers = range(self._trials, self._trials + len(asked))
        began = datetime.now(UTC)
        self._in_flight = [
            Trial(number, step, TrialState.CANCELLED, chosen, started_at=began, family=self._family(None))
            for number, chosen in zip(numbers, asked, strict=True)
        ]
        outcomes = await self._evaluate([state.parameters | chosen for chosen in asked], list(numbers))
        trials = [self._trial(planned, outcome) for planned, outcome in zip(self._in_flight, outcomes, strict=True)]
        asker.tell([reported_value(trial, self._plan.direction) for trial in trials])
        self._trials += len(trials)
        self._in_flight = []
        self._stepping = False
        done = self._plan.total_trials is not None and self._trials >= self._plan.total_trials
        return StepResult(trials, self._checkpoint(), done)

    @property
    def team(self) -> Team | None:
        """The child processes; None for an async objective, which runs in the event loop."""
        return self._evaluator.team

    @property
    def holds_out(self) -> bool:
        """Whether data are held out, for `held_out` to evaluate the best on."""
        return self._plan.metadata.hold_out is not None and not self._plan.is_placebo

    async def held_out(self, state: OptimizationState, best: Trial, checkpoint: Mapping[str, Any]) -> HeldOut:
        """Evaluate the best on the held-out periods, after the last step.

        `best` is the trial with its returns, `checkpoint` that of the last step.
        """
        cut = self._cut or checkpoint.get("cut")
        if cut is None:
            return HeldOut(error="the beginning of the hold-out is unknown")
        before, total = cut
        whole = await self._evaluator.evaluate_again(best.number, state.parameters | best.parameters, whole=True)
        if whole.state is not TrialState.COMPLETED:
            return HeldOut(error=f"the best failed on all periods: {(whole.error or '').partition(chr(10))[0]}")
        if whole.returns is None or len(whole.returns) != total:
            return HeldOut(error=f"on all periods the best has {len(whole.returns or ())} returns, not {total}")
        baseline, dates = (
            None if series is None else series[before:] for series in (whole.baseline_returns, whole.dates)
        )
        return HeldOut(whole.returns[before:], baseline, dates)

    def interrupted(self) -> tuple[Trial, ...]:
        """Return the trials of a cancelled step: as they ended, or as cancelled; none if no step was running."""
        return tuple(self._interrupted(trial) for trial in self._in_flight)

    def _interrupted(self, planned: Trial) -> Trial:
        if (outcome := self._evaluator.finished.get(planned.number)) is not None:
            with suppress(OptimizationStrategyError):  # it would end the run, which has ended
                return self._trial(planned, self._with_same_periods(outcome))
        began = planned.started_at
        return dataclasses.replace(
            planned,
            error="cancelled before its step was committed",
            output=self._evaluator.printed.get(planned.number),
            duration_seconds=(datetime.now(UTC) - began).total_seconds() if began else 0.0,
        )

    async def close(self) -> None:
        """Return the children to the pool; busy ones are killed."""
        await self._evaluator.close()

    def _resume(self, checkpoint: dict[str, Any] | None) -> Asker:
        """Import Optuna, make the sampler and replay the ledger: slow, run in a thread."""
        checkpoint = checkpoint or {}
        if self._ledger and not checkpoint:
            raise OptimizationStrategyError("the ledger has trials but no checkpoint: the record is incomplete")
        seed = checkpoint.get("seed") if self._plan.metadata.seed is None else self._plan.metadata.seed
        self._seed = secrets.randbits(SEED_BITS) if seed is None else int(seed)
        self._compare(checkpoint)
        _ = self._objective.data_fingerprint  # may load the data, which takes long
        self._cut = tuple(checkpoint["cut"]) if checkpoint.get("cut") else None
        try:
            asker = make_asker(self._plan, self._seed)
            asker.resume(self._ledger)
        except OptimizationStrategyError as error:
            raise OptimizationStrategyError(f"{error}. {_version_changes(checkpoint)}") from error
        self._ledger = ()
        return asker

    async def _evaluate(self, parameters: list[dict[str, Any]], numbers: list[int]) -> list[TrialOutcome]:
        """Evaluate on the periods before the hold-out."""
        hold_out = self._plan.metadata.hold_out
        failed: dict[int, TrialOutcome] = {}
        if hold_out is not None and self._objective.truncatable:
            if self._cut is None:
                failed = await self._find_cut(hold_out, parameters, numbers)
            self._evaluator.periods = self._cut[0] if self._cut else None
        left = {number: chosen for number, chosen in zip(numbers, parameters, strict=True) if number not in failed}
        printed = {number: self._evaluator.printed[number] for number in failed if number in self._evaluator.printed}
        found = await self._evaluator.evaluate(list(left.values()), list(left))
        self._evaluator.printed |= printed
        outcomes = failed | {outcome.number: outcome for outcome in found}
        return [self._with_same_periods(outcomes[number]) for number in numbers]

    async def _find_cut(
        self, hold_out: HoldOut, parameters: list[dict[str, Any]], numbers: list[int]
    ) -> dict[int, TrialOutcome]:
        """Find the cut by evaluating on all periods until a trial succeeds. Returns the trials that failed."""
        failed: dict[int, TrialOutcome] = {}
        for number, chosen in zip(numbers, parameters, strict=True):
            whole = await self._evaluator.evaluate_again(number, chosen, whole=True)
            if whole.state is not TrialState.COMPLETED:
                failed[number] = whole
                continue
            if whole.returns is None:
                raise OptimizationStrategyError(
                    f"{HOLD_OUT} is set, but objective {self._objective.name!r} gives no returns: return "
                    "Evaluation(…, returns=…)"
                )
            total = len(whole.returns)
            try:
                self._cut = hold_out.before(total, whole.periods_per_year, whole.dates), total
            except CutError as error:
                raise OptimizationStrategyError(str(error)) from error
            break
        return failed

    def _with_same_periods(self, outcome: TrialOutcome) -> TrialOutcome:
        """Return the outcome, or a failed one if its periods are not those of the earlier trials."""
        score = self._plan.metadata.score or DEFAULT
        if outcome.scored and self._plan.direction == "minimize" and score in SCORES:
            raise OptimizationStrategyError(
                f"metadata.direction is minimize, but objective {self._objective.name!r} returns no value, and the "
                f"score {score!r} used instead is maximized: leave metadata.direction out"
            )
        if outcome.total is None or outcome.returns is None:
            return outcome
        cut = len(outcome.returns), outcome.total
        self._cut = self._cut or cut
        if cut == self._cut:
            return outcome
        error = (
            f"it has {outcome.total} returns, {cut[0]} of them before the hold-out, but the first trial had "
            f"{self._cut[1]} and {self._cut[0]}: return as many for all parameters, over the same periods"
        )
        began, lasted = outcome.started_at, outcome.duration_seconds
        return TrialOutcome(outcome.number, TrialState.FAILED, error=error, started_at=began, duration_seconds=lasted)

    def _compare(self, checkpoint: dict[str, Any]) -> None:
        now = self._checkpoint()
        for key, name in _FIXED.items():
            if key in checkpoint and checkpoint[key] != now[key]:
                raise OptimizationStrategyError(
                    f"{name} was {checkpoint[key]!r} when this optimization began and is {now[key]!r} now: restore "
                    "it, or submit a new optimization"
                )

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "sampler": self._plan.metadata.sampler,
            "seed": self._seed,
            "direction": self._plan.direction,
            "trials_per_step": self._plan.trials_per_step,
            "search_space": self._plan.space.digest(),
            "trials": self._trials,
            "versions": dict(_versions()),
            "score": self._plan.metadata.score or "",
            "hold_out": self._plan.metadata.hold_out.to_json() if self._plan.metadata.hold_out else None,
            "cut": list(self._cut) if self._cut else None,
        }

    def _trial(self, planned: Trial, outcome: TrialOutcome) -> Trial:
        baseline, baseline_hold_out = self._baseline_once(planned.number, outcome)
        found = {name: getattr(outcome, name) for name in _OF_THE_OUTCOME}
        found |= {"baseline_returns": baseline, "baseline_hold_out_returns": baseline_hold_out}
        output, family = self._evaluator.printed.get(planned.number), self._family(outcome.data_fingerprint)
        return dataclasses.replace(planned, output=output, family=family, **found)

    def _baseline_once(self, number: int, outcome: TrialOutcome) -> tuple[Returns, Returns]:
        """Return the baseline for the first trial of this attempt; None for the others, whose baseline is the same."""
        baseline = outcome.baseline_returns, outcome.baseline_hold_out_returns
        if outcome.baseline_returns is None:
            return None, None
        if self._baseline is None:
            self._baseline = baseline
            return baseline
        if baseline != self._baseline:
            logger.warning(
                "trial %d has other baseline_returns than earlier trials, and all are judged over the first ones; the "
                "baseline must not depend on the parameters",
                number,
            )
        return None, None

    def _family(self, data_fingerprint: str | None) -> str:
        return self._plan.metadata.family or self._objective.family(data_fingerprint)


_OF_THE_OUTCOME = tuple(TrialOutcome.__dataclass_fields__.keys() & Trial.__dataclass_fields__.keys())
_FIXED = {
    "sampler": "metadata.sampler",
    "seed": "metadata.seed",
    "direction": "metadata.direction",
    "trials_per_step": "metadata.trials_per_step",
    "search_space": "metadata.search_space (by its digest)",
    "trials": "the number of trials in the ledger",
    "score": "metadata.score",
    "hold_out": "metadata.hold_out",
}


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _version_changes(checkpoint: dict[str, Any]) -> str:
    then, now = checkpoint.get("versions", {}), _versions()
    changed = [
        f"{name} {then[name]} is now {now[name]}" for name in LIBRARIES if then.get(name, now[name]) != now[name]
    ]
    if changed:
        return f"Since its last step, {', '.join(changed)}: install the old versions, or submit a new optimization"
    return "The libraries are the same, so the record or the search space was changed: submit a new optimization"

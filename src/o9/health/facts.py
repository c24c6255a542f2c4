"""What the checks look at: one optimization as the store has it, and its family.

Contract. `read_facts` is the only reading of this room's checks; it blocks. What belongs together is read together: a
state that changes meanwhile is read again, a few times. The hold-out of the best is read once the optimization has
ended, and that is counted as a look (`o9.store.optimizations.hold_outs`): a best that changes yet is not judged by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from o9.health.grades import Placebo, Verdict, kept_verdict
from o9.health.placebo import placebo_of
from o9.lifecycle.effect import BEST, Direction, best_of, direction_of
from o9.model.optimization import OptimizationState
from o9.model.search_space import SearchSpace
from o9.model.settings import settings
from o9.model.states import ENDED, TrialState
from o9.model.trial import Ran, Trial
from o9.store import queries
from o9.store.core.column_types import moment, pack_returns
from o9.store.core.unit import Row
from o9.store.optimizations.hold_outs import CountLook
from o9.store.optimizations.provenance import Baseline, Repetition
from o9.store.optimizations.queries import Holding
from o9.store.statistics.families import NOTHING_PRUNED, FamilyTrials, PrunedTrials
from o9.store.store import Store
from o9.strategies.factory import search_space_of
from o9.strategies.plan import is_adaptive

MOST_TRIALS = 50_000  # of one optimization; what comes behind them is not looked at, and the checks say so
READ_AGAIN = 3


@dataclass(frozen=True)
class Family:
    """`series`: the returns of its completed trials so far as they are there (little-endian float64).

    judged: which of them is that of the best.
    counts: every trial ever tried, by state. Without a name it is this optimization alone.
    baseline: what the best's optimization has to be measured over.
    pruned: what is left of those trials whose optimizations were pruned; `counts` has them.
    adaptive: one of the searches chose trials by their results; what is pruned may have done so.
    seen: how many trials were valued on periods that the best's hold-out has, or may have been: what is pruned may.
    market_neutral: the best's optimization declares so.
    looks: how often held-out data of its objective and data were looked at, over periods that overlap.
    placebo: what came of the same search on data without an edge.
    """

    name: str
    counts: dict[str, int]
    series: Sequence[bytes]
    judged: int | None
    complete: bool = True
    baseline: Baseline | None = None
    pruned: PrunedTrials = NOTHING_PRUNED
    adaptive: bool = True
    market_neutral: bool = False
    looks: int = 1
    seen: int = 0
    placebo: Placebo | None = None


@dataclass(frozen=True)
class HealthFacts:
    """`best` with its returns; `space` is None where it is not known.

    steps: those that left trials or figures; bests: the best so far after each step that has one.
    figures: those that came with each step, by its number and their name.
    ran: what each attempt ran. repetition: what came of evaluating the best once more.
    allowed_imports: what this process lets a request import; empty where nothing is said.
    """

    state: OptimizationState
    trials: Sequence[Trial] = ()
    best: Trial | None = None
    family: Family | None = None
    transitions: Sequence[Row] = ()
    steps: frozenset[int] = frozenset()
    holding: Holding | None = None
    prefect_run: Row | None = None
    prefect_states: Sequence[Row] = ()
    space: SearchSpace | None = None
    bests: Sequence[float] = ()
    figures: Mapping[int, dict[str, float]] = field(default_factory=dict)
    ran: Sequence[Ran] = ()
    repetition: Repetition | None = None
    allowed_imports: tuple[str, ...] = ()

    @property
    def direction(self) -> Direction:
        return direction_of(self.state)

    @property
    def value(self) -> float | None:
        """What has been reached: the best trial's, or what a strategy without trials says; 0.0 is a field's default."""
        if self.trials:
            return self.best.value if self.best else None
        return self.state.current_performance or None

    @property
    def all_trials(self) -> bool:
        return len(self.trials) < MOST_TRIALS


def read_facts(store: Store, state: OptimizationState) -> HealthFacts:
    name = state.optimization_id
    for _ in range(READ_AGAIN):
        trials, best = read_best(store, state)
        if best is not None and state.status not in ENDED:
            best = replace(best, hold_out_returns=None, hold_out_dates=None)
        metrics = store.read(queries.metrics, name)
        transitions = store.read(queries.transitions, name)
        after = store.read(queries.get, name)
        if after is None or after.updated_at == state.updated_at:
            break
        before, state = state, after
    else:  # it never holds still: the ledger may be ahead of the state, never behind it
        state = before
    holding = store.read(queries.holding, name)
    ran = store.read(queries.provenance, name)
    run_id = holding.prefect_run_id if holding else None
    figures: dict[int, dict[str, float]] = {}
    for row in metrics:
        figures.setdefault(row["step"], {})[row["name"]] = row["value"]
    return HealthFacts(
        state=state,
        trials=trials,
        best=best,
        family=_family(store, state, trials, best) if best else None,
        transitions=transitions,
        steps=frozenset(figures) | frozenset(trial.step for trial in trials),
        holding=holding,
        prefect_run=store.read(queries.prefect_run, run_id) if run_id else None,
        prefect_states=store.read(queries.prefect_states, name),
        space=search_space_of(state, ran),
        bests=[figures[step][BEST] for step in sorted(figures) if BEST in figures[step]],
        figures=figures,
        ran=ran,
        repetition=store.read(queries.repetition, name),
        allowed_imports=settings().allowed_imports,
    )


def read_best(store: Store, state: OptimizationState) -> tuple[Sequence[Trial], Trial | None]:
    """The trials, without returns, and the best of them with its."""
    trials = store.read(queries.trials, state.optimization_id, limit=MOST_TRIALS)
    found = best_of(trials, direction_of(state))
    if found is None or found.number is None:
        return trials, None
    return trials, store.read(queries.trial, state.optimization_id, found.number)


def _family(store: Store, state: OptimizationState, trials: Sequence[Trial], best: Trial) -> Family:
    name = state.optimization_id
    look = None
    if best.hold_out_returns is not None:
        look = store.read(queries.look, name, best.number) or store.write(CountLook(name, best.number))
    family = family_of(
        best, name, store.read(queries.family_trials, best.family, name), store.read(queries.baseline, name),
        is_cut=state.metadata.get("hold_out") is not None,
        # Another search may have seen the same series before this one was made.
        looked_at=max(look.at, moment(state.completed_at or state.updated_at)) if look else None,
    )  # fmt: skip
    family = replace(
        family,
        market_neutral=state.metadata.get("market_neutral") is True,
        looks=look.count if look else 1,
        placebo=_placebo(store, state, trials, best, family),
    )
    return family if look is None else _as_judged_before(family, kept_verdict(store, state))


def _as_judged_before(family: Family, earlier: Verdict | None) -> Family:
    """With no more trials before the look than an earlier verdict found: it is not known when pruned ones were made."""
    if not family.pruned.count or earlier is None or earlier.figures["hold_out_seen"] is None:
        return family
    figures = earlier.figures
    return replace(
        family, seen=min(family.seen, figures["hold_out_seen"]), adaptive=family.adaptive and figures["adaptive"]
    )


def _placebo(
    store: Store, state: OptimizationState, trials: Sequence[Trial], best: Trial, family: Family
) -> Placebo | None:
    found = placebo_of(best.value, store.read(queries.placebos, state.optimization_id), direction_of(state))
    if found is None:
        return None
    own = sum(trial.state is not TrialState.INFEASIBLE for trial in trials)
    others = max(0, sum(family.counts.values()) - own)
    return replace(found, others=others)


def family_of(
    best: Trial,
    optimization_id: str,
    found: FamilyTrials,
    baseline: Baseline | None = None,
    *,
    is_cut: bool = False,
    looked_at: str | None = None,
) -> Family:
    """With the place of the best's returns among them, which are added where the bound left them out.

    The best of a retry may be one that it took over: then it is the same series under its first owner's name. Series
    begin together, and end where the hold-out of their optimization begins: what goes on beyond the best's last period
    has seen its hold-out, and is cut there; what ends before is left out, and was tried. is_cut: the best's do.

    looked_at: when its hold-out was seen, an ISO moment; None where it was not. A trial that began later had no part in
    the choice: it is tested with the family, but it neither counts among those that have seen the hold-out nor makes
    the search adaptive.
    """
    earlier = {key for key in found.returns if looked_at is None or (found.started.get(key) or "") <= looked_at}
    taken, seen = _as_long(best, found, is_cut, earlier)
    series = list(taken.values())
    keys = list(taken)
    judged: int | None = None
    if best.returns is not None:
        if (optimization_id, best.number) in taken:
            judged = keys.index((optimization_id, best.number))
        else:
            own = pack_returns(best.returns)
            judged = next((place for place, one in enumerate(series) if one == own), len(series))
            series += [own] if judged == len(series) else []
    unknown = not found.searches or found.pruned.count > 0
    adaptive = unknown or any(is_adaptive(*found.searches[name]) for name in {name for name, _ in earlier})
    family = Family(best.family, found.counts, series, judged, found.complete, baseline, found.pruned, adaptive)
    return replace(family, seen=seen)


def _as_long(
    best: Trial, found: FamilyTrials, is_cut: bool, earlier: set[tuple[str, int]]
) -> tuple[dict[tuple[str, int], bytes], int]:
    """The series of `found` over the periods of the best, and how many `earlier` ones have seen what it holds out."""
    if best.returns is None:
        return found.returns, 0
    size = 8 * len(best.returns)
    taken: dict[tuple[str, int], bytes] = {}
    seen = found.pruned.count if is_cut else 0
    for key, packed in found.returns.items():
        if is_cut and len(packed) > size:
            taken[key] = packed[:size]
            seen += key in earlier
        elif len(packed) == size or key[0] not in found.cut:
            taken[key] = packed
    return taken, seen

"""What the checks examine: one optimization and its family, as read from the store.

Contract. `read_facts` does all the reading for the checks; it blocks. If the state changes meanwhile, everything is
read again, up to READ_ATTEMPTS times. The hold-out of the best trial is read only after the optimization has ended,
because each reading counts as a look (`o9.store.optimizations.hold_outs`).
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

MOST_TRIALS = 50_000  # of one optimization; later trials are not read, and the checks say so
READ_ATTEMPTS = 3


@dataclass(frozen=True)
class Family:
    """The trials on one objective and its data. `series`: the stored returns of completed ones (little-endian float64).

    name: "" for a family of this optimization alone.
    counts: all trials ever run, by state, pruned ones included.
    judged: the position of the best trial in `series`. complete: the store did not limit `series`.
    baseline: the baseline returns of the best trial's optimization.
    pruned: a summary of the trials whose optimizations were pruned.
    adaptive: a search of the family chose trials by their results, or was pruned and may have.
    seen: the number of trials valued on periods of the best's hold-out. Pruned trials count if they may have been.
    market_neutral: the best trial's optimization is declared so.
    looks: the number of looks at held-out data of this objective and its data, over overlapping periods.
    placebo: the outcome of the placebo runs.
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
    """One optimization. `best` has its returns; `space` is None if unknown.

    steps: the steps with trials or figures. bests: the best so far after each step that has one.
    figures: by step and name. ran: what each attempt ran. repetition: the last re-evaluation of a best trial.
    allowed_imports: O9_ALLOWED_IMPORTS of this process.
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
        """The best trial's value, or what a strategy without trials reported; its default 0.0 counts as none."""
        if self.trials:
            return self.best.value if self.best else None
        return self.state.current_performance or None

    @property
    def all_trials(self) -> bool:
        return len(self.trials) < MOST_TRIALS


def read_facts(store: Store, state: OptimizationState) -> HealthFacts:
    name = state.optimization_id
    for _ in range(READ_ATTEMPTS):
        trials, best = read_best(store, state)
        if best is not None and state.status not in ENDED:
            best = replace(best, hold_out_returns=None, hold_out_dates=None)
        metrics = store.read(queries.metrics, name)
        transitions = store.read(queries.transitions, name)
        after = store.read(queries.get, name)
        if after is None or after.updated_at == state.updated_at:
            break
        before, state = state, after
    else:  # it changes all the time: take the older state, so that the ledger may be ahead of it but not behind
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
    """Return the trials without their returns, and the best of them with its own."""
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
        # Another search may have looked at the same series before this one ended.
        looked_at=max(look.at, moment(state.completed_at or state.updated_at)) if look else None,
    )  # fmt: skip
    family = replace(
        family,
        market_neutral=state.metadata.get("market_neutral") is True,
        looks=look.count if look else 1,
        placebo=_placebo(store, state, trials, best, family),
    )
    return family if look is None else _capped_by(family, kept_verdict(store, state))


def _capped_by(family: Family, earlier: Verdict | None) -> Family:
    """Cap `seen` and `adaptive` by an earlier verdict: pruned trials, whose dates are lost, may be newer than it."""
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
    """Make the family from its stored trials; the best's returns are added if the limit left them out.

    The best of a retry may be a trial that it took over; then its series is stored under the first optimization's id.
    All series begin together and end where the hold-out of their own optimization begins. One that is longer than the
    best's has seen its hold-out, and is cut to its length; a shorter one is left out, and its trial only counts.

    is_cut: the best's optimization holds data out. looked_at: when its hold-out was first looked at, an ISO time; None
    if never. A trial that began later took no part in the choice: it is tested with the family, but it does not count
    in `seen`, and does not make the search adaptive.
    """
    earlier = {key for key in found.returns if looked_at is None or (found.started.get(key) or "") <= looked_at}
    taken, seen = _over_same_periods(best, found, is_cut, earlier)
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


def _over_same_periods(
    best: Trial, found: FamilyTrials, is_cut: bool, earlier: set[tuple[str, int]]
) -> tuple[dict[tuple[str, int], bytes], int]:
    """Return the series over the best's periods, and how many `earlier` trials have seen its hold-out."""
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

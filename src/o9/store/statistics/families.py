"""The number of trials ever made in a family, which pruning does not reduce.

Contract. `family_counter` is updated in the transaction that writes the trials, so that counting costs the same at any
size. A failed or cancelled trial may not name its family, which may be known only after another one succeeds. It counts
in the family that its optimization has then, or else in the first one that it gets. Trials that a retry inherits or
repeats are not counted twice. Pruned trials leave the moments of their Sharpe ratios.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, func, literal, select, true, tuple_, update

from o9.model.states import TrialState
from o9.store.core.unit import Row, UnitOfWork
from o9.store.schema.optimizations import BASELINE, OPTIMIZATION, RETURNS, TRIAL
from o9.store.schema.statistics import FAMILY_COUNTER

INHERITED = 0  # the attempt of trials that a retry copied from its origin or repeats
FAMILY_SERIES = 2_000  # judging these takes under 10 s of processor time and 450 MiB, at 2,500 periods
FAMILY_BYTES = 100_000_000
FAMILY_LOOKED_AT = 10_000
# Given packed returns of trials and of their baseline: the Sharpe ratio per period of each trial that has one.
SharpeRatios = Callable[[Sequence[bytes], bytes | None], Sequence[float]]
_SAME = ("number", "state", "parameters", "value")
_COMPLETED = TrialState.COMPLETED.value
_INFEASIBLE = TrialState.INFEASIBLE.value  # never counts as a trial of a family


@dataclass(frozen=True)
class PrunedTrials:
    """The number of trials that were pruned. `sharpes` of them had returns, whose Sharpe ratios are kept as moments."""

    count: int = 0
    sharpes: int = 0
    sharpe_sum: float = 0.0
    sharpe_square_sum: float = 0.0


NOTHING_PRUNED = PrunedTrials()


@dataclass(frozen=True)
class FamilyTrials:
    """The trials of a family.

    counts: by state, including pruned trials.
    returns: packed returns of completed trials (`unpack_returns`), by optimization id and trial number.
    complete: whether `returns` has all of them. If there are more than `FAMILY_SERIES` series, `FAMILY_BYTES` or
        `FAMILY_LOOKED_AT` trials, it has the first ones by key, so that their values play no part in the choice.
    started: when each trial of `returns` began, ISO 8601 in UTC; None if unknown.
    searches: strategy and sampler of the optimizations in `returns`, as named in their metadata ("" if none).
    cut: those of these optimizations whose returns end where `metadata.hold_out` begins.
    """

    counts: dict[str, int]
    returns: dict[tuple[str, int], bytes]
    complete: bool
    pruned: PrunedTrials = NOTHING_PRUNED
    started: Mapping[tuple[str, int], str | None] = field(default_factory=dict)
    searches: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()


class _Tried(Counter[tuple[str, str]]):
    """The number of trials that the unit adds, by family and state."""


def origin_of(unit: UnitOfWork, optimization_id: str) -> tuple[str, int] | None:
    """Return the id of a retry's origin and the number of steps copied from it; None if it is no retry."""
    metadata = json.loads(unit.run(_METADATA, {"target": optimization_id}).fetchone()[0])
    return (metadata["retry_of"], metadata.get("retry_from_step", 0)) if "retry_of" in metadata else None


def recognize_repeats(unit: UnitOfWork, origin_id: str, trials: Sequence[Row]) -> None:
    """Mark those trials of a retry as inherited whose number, state, parameters and value its origin has too.

    `origin_id` is "" if it is no retry.
    """
    if not (origin_id and trials):
        return
    unit.flush()
    columns = [TRIAL.c[name] for name in _SAME]
    numbers = [trial["number"] for trial in trials]
    theirs = select(*columns).where(TRIAL.c.optimization_id == origin_id, TRIAL.c.number.in_(numbers))
    known = {tuple(found) for found in unit.connection.execute(theirs)}
    for trial in trials:
        if tuple(trial[name] for name in _SAME) in known:
            trial["attempt"] = INHERITED


def join_family(unit: UnitOfWork, row: Row, trials: list[Row]) -> None:
    """Count new trials of the optimization `row`. Trials without a family get the optimization's."""
    named = [trial["family"] for trial in trials if trial["family"]]
    family = row["family"] or (named[0] if named else "")
    if family and not row["family"] and row["completed_steps"]:
        _adopt_earlier(unit, row["optimization_id"], family)
    for trial in trials:
        if trial["family"]:
            family = trial["family"]
        elif trial["state"] != _COMPLETED:
            trial["family"] = family
        if trial["family"] and trial["attempt"] != INHERITED:
            key = trial["family"], trial["state"]
            unit.part(_Tried)[key] += 1
    if family != row["family"]:
        unit.update(row, family=family)


def write_families(unit: UnitOfWork) -> None:
    """Write what the unit has counted, just before COMMIT."""
    if tried := unit.part(_Tried):
        rows = [
            {"family": family, "state": state, "count": count, **_NO_COUNTS} for (family, state), count in tried.items()
        ]
        unit.upsert_counts(FAMILY_COUNTER, rows)
        tried.clear()


def family_trials(connection: Connection, family: str, optimization_id: str) -> FamilyTrials:
    """Return all trials ever made in `family`, except infeasible ones; without a family, those of `optimization_id`."""
    pruned = NOTHING_PRUNED
    if family:
        mine = TRIAL.c.family == family
        tried = FAMILY_COUNTER.c.family == family, FAMILY_COUNTER.c.state != _INFEASIBLE
        by_state = connection.execute(select(FAMILY_COUNTER).where(*tried)).mappings().all()
        counts = {str(row["state"]): int(row["count"]) for row in by_state}
        pruned = PrunedTrials(*(sum(row[name] for row in by_state) for name in _NO_COUNTS))
    else:
        mine = (TRIAL.c.family == "") & (TRIAL.c.optimization_id == optimization_id)
        # `coalesce` keeps the database from the index of families, in which all trials without one are together.
        nameless = (TRIAL.c.optimization_id == optimization_id) & (func.coalesce(TRIAL.c.family, "") == "")
        counted = nameless, TRIAL.c.attempt != INHERITED, TRIAL.c.state != _INFEASIBLE
        states = select(TRIAL.c.state, func.count()).where(*counted)
        counts = {state: int(count) for state, count in connection.execute(states.group_by(TRIAL.c.state))}
    completed = (mine, TRIAL.c.state == _COMPLETED)
    key = (TRIAL.c.optimization_id, TRIAL.c.number)
    # Most trials of a large family may have no returns, so the search for these is bounded.
    edge = connection.execute(select(*key).where(*completed).order_by(*key).offset(FAMILY_LOOKED_AT).limit(1)).first()
    near = true() if edge is None else tuple_(*key) < tuple_(*edge)
    own = (*completed, TRIAL.c.attempt != INHERITED)
    joined = TRIAL.join(RETURNS, (RETURNS.c.optimization_id == key[0]) & (RETURNS.c.number == key[1]))
    # Sizes are read first, so that no more data is read than the bound allows.
    sizes = select(*key, TRIAL.c.started_at, func.length(RETURNS.c.data)).select_from(joined).where(*own, near)
    wanted: dict[tuple[str, int], str | None] = {}
    size, last, complete = 0, ("", -1), edge is None
    for name, number, started, length in connection.execute(sizes.order_by(*key).limit(FAMILY_SERIES + 1)):
        size += length
        if len(wanted) == FAMILY_SERIES or size > FAMILY_BYTES:
            complete = False
            break
        last = (name, number)
        wanted[last] = started
    data = select(*key, RETURNS.c.data).select_from(joined).where(*own, tuple_(*key) <= tuple_(*map(literal, last)))
    found = connection.execute(data.order_by(*key)) if wanted else ()
    kept = {(name, number): packed for name, number, packed in found if (name, number) in wanted}
    searches, cut = _searches(connection, {name for name, _ in wanted})
    return FamilyTrials(counts, kept, complete, pruned, wanted, searches, cut)


def count_pruned_trials(
    unit: UnitOfWork,
    optimization_id: str,
    trials: Sequence[tuple[str, str, int, bytes | None]],
    sharpe_ratios: SharpeRatios,
) -> None:
    """Count trials of an optimization as pruned: family, state, attempt and packed returns of each."""
    sums: dict[tuple[str, str], Row] = {}
    judged: dict[tuple[str, str], list[bytes]] = {}
    for family, state, attempt, returns in trials:
        if family and attempt != INHERITED:
            sums.setdefault((family, state), {"of": family, "in": state} | _NO_COUNTS)["pruned"] += 1
            if returns is not None and state == _COMPLETED:
                judged.setdefault((family, state), []).append(returns)
    baseline = unit.run(_BASELINE_OF, {"target": optimization_id}).fetchone() if judged else None
    for key, series in judged.items():
        sharpes = sharpe_ratios(series, baseline[0] if baseline else None)
        sums[key] |= {
            "sharpes": len(sharpes), "sharpe_sum": math.fsum(sharpes),
            "sharpe_square_sum": math.fsum(sharpe * sharpe for sharpe in sharpes),
        }  # fmt: skip
    for each in sums.values():
        unit.run(_COUNT_PRUNED, each)


def _searches(connection: Connection, optimization_ids: set[str]) -> tuple[dict[str, tuple[str, str]], frozenset[str]]:
    asked = select(OPTIMIZATION.c.optimization_id, OPTIMIZATION.c.metadata)
    asked = asked.where(OPTIMIZATION.c.optimization_id.in_(optimization_ids))
    rows = connection.execute(asked).all() if optimization_ids else []
    found = {str(row.optimization_id): json.loads(row.metadata) for row in rows}
    searches = {
        # A warm start begins with parameters that were chosen by results, whatever the sampler is.
        name: (str(each.get("strategy", "")), "" if "warm_start_from" in each else str(each.get("sampler", "")))
        for name, each in found.items()
    }
    return searches, frozenset(name for name, each in found.items() if each.get("hold_out") is not None)


def _adopt_earlier(unit: UnitOfWork, optimization_id: str, family: str) -> None:
    unit.flush()
    silent = (
        (TRIAL.c.optimization_id == optimization_id) & (TRIAL.c.family == "") & (TRIAL.c.state != _COMPLETED)
        & (TRIAL.c.attempt != INHERITED)
    )  # fmt: skip
    counted = select(TRIAL.c.state, func.count()).where(silent).group_by(TRIAL.c.state)
    for state, count in unit.connection.execute(counted).all():
        unit.part(_Tried)[family, state] += int(count)
    unit.connection.execute(update(TRIAL).where(silent).values(family=family))


_NO_COUNTS: Row = {"pruned": 0, "sharpes": 0, "sharpe_sum": 0.0, "sharpe_square_sum": 0.0}
_METADATA = select(OPTIMIZATION.c.metadata).where(OPTIMIZATION.c.optimization_id == bindparam("target"))
_BASELINE_OF = select(BASELINE.c.data).where(BASELINE.c.optimization_id == bindparam("target"))
_COUNT_PRUNED = (
    update(FAMILY_COUNTER)
    .where(FAMILY_COUNTER.c.family == bindparam("of"), FAMILY_COUNTER.c.state == bindparam("in"))
    .values({name: FAMILY_COUNTER.c[name] + bindparam(name) for name in _NO_COUNTS})
)

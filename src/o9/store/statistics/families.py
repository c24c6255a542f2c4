"""What was ever tried in a family of trials: N, which no pruning makes smaller.

Contract. `family_counter` moves in the transaction that writes the trials, so that counting costs the same at any size.
A failed or cancelled trial may not name its family, which may be known only once another one succeeded. It belongs to
the family that its optimization had then, or to the first one that it gets. What a retry took over or repeats is not
counted twice. Pruned trials leave moments of their Sharpe ratios behind.
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

INHERITED = 0  # the attempt of trials that a retry took over from its origin, or that it only repeats
FAMILY_SERIES = 2_000  # judged in under 10 s of processor time, and 450 MiB, at 2,500 periods
FAMILY_BYTES = 100_000_000
FAMILY_LOOKED_AT = 10_000
# Of packed returns of trials, and their baseline's: a Sharpe ratio a period of each that can be judged.
SharpeRatios = Callable[[Sequence[bytes], bytes | None], Sequence[float]]
_SAME = ("number", "state", "parameters", "value")
_COMPLETED = TrialState.COMPLETED.value
_NO_TRY = TrialState.INFEASIBLE.value  # what cannot be was never a try


@dataclass(frozen=True)
class PrunedTrials:
    """How many are gone from the ledger. `sharpes` of them had returns: their Sharpe ratios a period as moments."""

    count: int = 0
    sharpes: int = 0
    sharpe_sum: float = 0.0
    sharpe_square_sum: float = 0.0


NOTHING_PRUNED = PrunedTrials()


@dataclass(frozen=True)
class FamilyTrials:
    """All trials of a family, by state, and the packed returns of completed ones (`unpack_returns`).

    `returns` maps (optimization_id, number) to packed returns. Above `FAMILY_SERIES` series, or `FAMILY_BYTES`, or
    `FAMILY_LOOKED_AT` trials, it is not `complete`: it has the first ones by optimization and number, chosen without a
    look at their values; `counts` has them all, those too that are pruned.

    started: when each trial of `returns` began, ISO 8601 in UTC; None where that is not known.
    searches: by id, strategy and sampler, as their metadata name them ("" for none), of the optimizations that
        `returns` has.
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
    """How many trials the unit adds, by family and state."""


def origin_of(unit: UnitOfWork, optimization_id: str) -> tuple[str, int] | None:
    """What it is a retry of, and behind how many of its steps it began; None where it is none."""
    metadata = json.loads(unit.run(_METADATA, {"target": optimization_id}).fetchone()[0])
    return (metadata["retry_of"], metadata.get("retry_from_step", 0)) if "retry_of" in metadata else None


def recognize_repeats(unit: UnitOfWork, origin_id: str, trials: Sequence[Row]) -> None:
    """Mark trials of a retry as inherited where its origin has the same number, state, parameters and value.

    They are no new tries. origin_id: "" where it is no retry.
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
    """Count new trials of the optimization `row`; those that do not say whose they are get its family."""
    said = [trial["family"] for trial in trials if trial["family"]]
    family = row["family"] or (said[0] if said else "")
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
    """Write what the unit has counted: just before COMMIT."""
    if tried := unit.part(_Tried):
        rows = [
            {"family": family, "state": state, "count": count, **_NO_COUNTS} for (family, state), count in tried.items()
        ]
        unit.upsert_counts(FAMILY_COUNTER, rows)
        tried.clear()


def family_trials(connection: Connection, family: str, optimization_id: str) -> FamilyTrials:
    """What was ever tried in `family`, across optimizations; without a name, in `optimization_id` alone.

    Infeasible trials were not.
    """
    pruned = NOTHING_PRUNED
    if family:
        mine = TRIAL.c.family == family
        tried = FAMILY_COUNTER.c.family == family, FAMILY_COUNTER.c.state != _NO_TRY
        by_state = connection.execute(select(FAMILY_COUNTER).where(*tried)).mappings().all()
        counts = {str(row["state"]): int(row["count"]) for row in by_state}
        pruned = PrunedTrials(*(sum(row[name] for row in by_state) for name in _NO_COUNTS))
    else:
        mine = (TRIAL.c.family == "") & (TRIAL.c.optimization_id == optimization_id)
        # Not by the index of families: all trials that have none are one family there.
        nameless = (TRIAL.c.optimization_id == optimization_id) & (func.coalesce(TRIAL.c.family, "") == "")
        tries = nameless, TRIAL.c.attempt != INHERITED, TRIAL.c.state != _NO_TRY
        states = select(TRIAL.c.state, func.count()).where(*tries)
        counts = {state: int(count) for state, count in connection.execute(states.group_by(TRIAL.c.state))}
    completed = (mine, TRIAL.c.state == _COMPLETED)
    key = (TRIAL.c.optimization_id, TRIAL.c.number)
    # Most of a large family may have no returns: those are not looked for without an end.
    edge = connection.execute(select(*key).where(*completed).order_by(*key).offset(FAMILY_LOOKED_AT).limit(1)).first()
    near = true() if edge is None else tuple_(*key) < tuple_(*edge)
    own = (*completed, TRIAL.c.attempt != INHERITED)
    joined = TRIAL.join(RETURNS, (RETURNS.c.optimization_id == key[0]) & (RETURNS.c.number == key[1]))
    # Sizes first, so that no more is ever read than the bound allows.
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
    """Trials of one optimization that are about to be deleted: family, state, attempt and packed returns of each."""
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
        # What a warm start begins with was chosen by results, whatever the sampler looks at.
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

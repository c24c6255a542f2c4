"""The tables that are kept current from what is recorded: counts, sums and orders, so that figures cost the same at any
size. Written as those of `o9.store.schema.optimizations` are.
"""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field

from o9.store.core.base import Record, table_of, unbounded_texts


class StatusCounter(Record, table=True):
    """How many optimizations are in each status now; moved by every transition in its own transaction."""

    __tablename__ = "status_counter"

    optimization_type: str = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    status: str = Field(primary_key=True)
    count: int = 0


class PriorityCounter(Record, table=True):
    """How many optimizations of each priority there are, whatever their status; it moves when one is created."""

    __tablename__ = "priority_counter"

    priority: int = Field(primary_key=True)
    count: int = 0


class Rollup(Record, table=True):
    """Sums and histograms over the optimizations that ended, by window, type, strategy, priority and status.

    `starts` is the beginning of an ISO moment: an hour, a day, a month, or empty for all time. `ran`, `improved`
    and `waited` of the `count` have a duration, an improvement, a time of waiting.
    """

    __tablename__ = "rollup"
    # Has all that a trend reads, in its order; the rows themselves are long.
    __table_args__ = (
        Index(
            "ix_rollup_window",
            *("span", "starts", "status", "count", "ran", "improved", "duration_sum", "improvement_sum"),
        ),
    )

    span: str = Field(primary_key=True)
    starts: str = Field(primary_key=True)
    optimization_type: str = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    priority: int = Field(primary_key=True)
    status: str = Field(primary_key=True)
    count: int = 0
    ran: int = 0
    improved: int = 0
    waited: int = 0
    steps_sum: int = 0
    duration_sum: float = 0.0
    improvement_sum: float = 0.0
    wait_sum: float = 0.0
    durations: str = "{}"
    improvements: str = "{}"
    waits: str = "{}"


class RankingRow(Record, table=True):
    """The last value of each metric of an optimization, so that the first of a ranking are a page of an index."""

    __tablename__ = "ranking"
    __table_args__ = (Index("ix_ranking_value", "metric", "direction", "value", "optimization_id"),)

    optimization_id: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    direction: str
    value: float


class FamilyCounter(Record, table=True):
    """How many trials were ever tried in a family, by state; what is pruned stays counted.

    `pruned` of the `count` are gone from the ledger; `sharpes` of these had returns: the sum of their Sharpe ratios a
    period, and of the squares.
    """

    __tablename__ = "family_counter"

    family: str = Field(primary_key=True)
    state: str = Field(primary_key=True)
    count: int = 0
    pruned: int = 0
    sharpes: int = 0
    sharpe_sum: float = 0.0
    sharpe_square_sum: float = 0.0


class HoldOutLook(Record, table=True):
    """Append-only: each series of returns on held-out data that was looked at, by its hash.

    `data` is the fingerprint of the objective's data, "" where it is not known; `o9.store.optimizations.hold_outs` says
    which looks count together. What is pruned stays counted, so `seen_by` may be an optimization that is gone.
    """

    __tablename__ = "hold_out_look"

    objective: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    data: str = ""
    seen_by: str
    trial: int
    at: str


class PlaceboRun(Record, table=True):
    """`run_id` is the same search as `optimization_id` on data without an edge, its `number`-th, from 1 on.

    `value`: of its best trial, once it has ended. It is kept when the run is pruned.
    """

    __tablename__ = "placebo_run"
    __table_args__ = (Index("ix_placebo_run_run", "run_id", unique=True),)

    optimization_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    run_id: str
    value: float | None = None


unbounded_texts()
STATUS_COUNTER = table_of(StatusCounter)
PRIORITY_COUNTER = table_of(PriorityCounter)
ROLLUP = table_of(Rollup)
RANKING = table_of(RankingRow)
FAMILY_COUNTER = table_of(FamilyCounter)
LOOK = table_of(HoldOutLook)
PLACEBO = table_of(PlaceboRun)

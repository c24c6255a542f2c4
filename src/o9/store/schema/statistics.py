"""Tables of counts, sums and rankings, updated with the record so that statistics cost the same at any size.

Columns are encoded as in `o9.store.schema.optimizations`.
"""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field

from o9.store.core.base import Record, table_of, unbounded_texts


class StatusCounter(Record, table=True):
    """The number of optimizations in each status, updated in the transaction that changes one."""

    __tablename__ = "status_counter"

    optimization_type: str = Field(primary_key=True)
    strategy: str = Field(primary_key=True)
    status: str = Field(primary_key=True)
    count: int = 0


class PriorityCounter(Record, table=True):
    """The number of optimizations of each priority, in any status."""

    __tablename__ = "priority_counter"

    priority: int = Field(primary_key=True)
    count: int = 0


class Rollup(Record, table=True):
    """Sums and histograms of ended optimizations, by window, type, strategy, priority and status.

    `starts` is a prefix of an ISO time: an hour, a day, a month, or empty for all time. `ran`, `improved` and `waited`
    count those that have a duration, an improvement and a waiting time.
    """

    __tablename__ = "rollup"
    # Covers the query of trends, since the rows themselves are long.
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
    """The last value of each metric of an optimization; the index makes a ranking's first page one range."""

    __tablename__ = "ranking"
    __table_args__ = (Index("ix_ranking_value", "metric", "direction", "value", "optimization_id"),)

    optimization_id: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    direction: str
    value: float


class FamilyCounter(Record, table=True):
    """The number of trials ever made in a family, by state, including pruned ones.

    `pruned` trials of the `count` are no longer in the ledger. `sharpes` of these had returns; of their Sharpe ratios
    per period, the sum and the sum of squares are kept.
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

    `data` is the fingerprint of the objective's data, "" if unknown. `seen_by` may be a pruned optimization. See
    `o9.store.optimizations.hold_outs` for which looks are counted together.
    """

    __tablename__ = "hold_out_look"

    objective: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    data: str = ""
    seen_by: str
    trial: int
    at: str


class PlaceboRun(Record, table=True):
    """`run_id` is placebo run `number` of `optimization_id`, from 1 on: the same search on data without an edge.

    `value` is that of its best trial, once it has ended; it is kept when the run is pruned.
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

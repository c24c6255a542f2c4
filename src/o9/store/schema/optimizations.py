"""The tables of optimizations, nodes and changes, as SQLModel classes.

Every column is plain text, integer, real or bytes. `o9.store.core.column_types` encodes JSON, enums and times, so that
a row reads the same in SQLite, in PostgreSQL and in an SQL shell. Times are ISO 8601 in UTC with microseconds, which
sort as text; leases are in seconds of the database's clock.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text
from sqlmodel import Field

from o9.store.core.base import SERIAL, Record, partial_index, table_of, unbounded_texts

# The condition of the queue's index. Statements must repeat it verbatim.
WAITING = "status = 'created' AND intent = 'run' AND unmet = 0 AND lease_expires_at IS NULL"


class Optimization(Record, table=True):
    """The current state of each optimization, its intent and its lease."""

    __tablename__ = "optimization"
    __table_args__ = (
        Index("ix_optimization_created", "created_at", "optimization_id"),
        Index("ix_optimization_status", "status", "created_at", "optimization_id"),
        Index("ix_optimization_type", "optimization_type", "created_at", "optimization_id"),
        partial_index(
            "ix_optimization_queue", "optimization_type", "strategy", "queue_key", "optimization_id", where=WAITING
        ),
        partial_index("ix_optimization_lease", "lease_expires_at", "lease_node", where="lease_expires_at IS NOT NULL"),
        partial_index("ix_optimization_completed", "completed_at", "optimization_id", where="completed_at IS NOT NULL"),
        partial_index("ix_optimization_series", "series", "created_at", "optimization_id", where="series IS NOT NULL"),
        partial_index("ix_optimization_health_due", "completed_at", "optimization_id", where="health_due = 1"),
    )

    optimization_id: str = Field(primary_key=True)
    name: str
    description: str
    optimization_type: str
    status: str
    priority: int
    created_at: str
    updated_at: str
    started_at: str | None = None
    completed_at: str | None = None
    progress: float = 0.0
    current_step: str = ""
    total_steps: int = 0
    completed_steps: int = 0
    current_performance: float = 0.0
    baseline_performance: float = 0.0
    target_performance: float = 0.0
    performance_improvement: float = 0.0
    parameters: str = "{}"
    optimized_parameters: str = "{}"
    results: str = "{}"
    metrics: str = "{}"
    issues: str = "[]"
    warnings: str = "[]"
    cpu_usage: float = 0.0
    memory_usage: float = 0.0
    execution_time: float = 0.0
    metadata_json: str = Field("{}", sa_column=Column("metadata", Text, nullable=False))

    content_hash: str
    strategy: str
    max_attempts: int = 3
    intent: str = "run"
    intent_by: str = ""
    intent_at: str | None = None
    queue_key: float = 0.0
    running_since: str | None = None
    attempt: int = 0
    deaths: int = 0
    fence: int = 0
    version: int = 0
    lease_node: str | None = None
    lease_expires_at: float | None = None
    unmet: int = 0
    dependents: int = 0
    suspended_run_id: str | None = None
    deployment_id: str | None = None  # the Prefect deployment that runs its attempts; None: nodes run them
    rejections: int = 0
    prefect_run_id: str | None = None
    prefect_state_at: str | None = None
    waited_seconds: float | None = None
    family: str = ""
    health_due: int = 0
    series: str | None = None  # of a recurring optimization
    scheduled_at: str | None = None


class TransitionRow(Record, table=True):
    """Append-only: every change of a status, and its cause."""

    __tablename__ = "transition"
    __table_args__ = (Index("ix_transition_optimization", "optimization_id", "id"),)

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    optimization_id: str
    from_status: str | None = None
    to_status: str
    cause: str
    message: str = ""
    node: str = ""
    attempt: int = 0
    at: str
    prefect_run_id: str | None = None
    prefect_state_id: str | None = Field(default=None, unique=True)


class TrialRow(Record, table=True):
    """The ledger: append-only, one row for each evaluated parameter set."""

    __tablename__ = "trial"
    __table_args__ = (Index("ix_trial_family", "family", "state", "optimization_id", "number"),)

    optimization_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    step: int
    attempt: int
    state: str
    parameters: str
    value: float | None = None
    metrics: str = "{}"
    error: str | None = None
    started_at: str | None = None
    duration_seconds: float = 0.0
    family: str = ""


class TrialReturns(Record, table=True):
    """A trial's returns as little-endian float64, apart from the ledger to keep that fast to read.

    `hold_out` has the returns on held-out data. `calendar` and `hold_out_calendar` are digests of their dates.
    """

    __tablename__ = "trial_returns"

    optimization_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    periods_per_year: float | None = None
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    hold_out: bytes | None = Field(None, sa_column=Column(LargeBinary, nullable=True))
    calendar: str | None = None
    hold_out_calendar: str | None = None


class Calendar(Record, table=True):
    """The dates of returns in seconds since 1970, as little-endian float64. Equal ones are stored once."""

    __tablename__ = "calendar"

    optimization_id: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class TrialOutput(Record, table=True):
    """What users' code printed and logged in a trial or, with number -1, in a step outside its trials.

    `cut` is how many bytes were dropped, `total` how many of the optimization are kept up to this row.
    """

    __tablename__ = "trial_output"

    optimization_id: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    text: str
    cut: int = Field(0, sa_type=BigInteger)
    total: int = Field(0, sa_type=BigInteger)


class BaselineReturns(Record, table=True):
    """The baseline's returns over the trials' periods, and over those of the held-out data."""

    __tablename__ = "baseline_returns"

    optimization_id: str = Field(primary_key=True)
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    hold_out: bytes | None = Field(None, sa_column=Column(LargeBinary, nullable=True))


class Provenance(Record, table=True):
    """What each attempt ran: the fingerprints of the objective's code and data, and the search space (JSON).

    Unknown ones are empty.
    """

    __tablename__ = "provenance"

    optimization_id: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    objective: str = ""
    code: str = ""
    data: str = ""
    search_space: str = ""


class RepetitionRow(Record, table=True):
    """The second evaluation of the best trial: the resulting checks (JSON), and the fingerprint of the code."""

    __tablename__ = "repetition"

    optimization_id: str = Field(primary_key=True)
    number: int
    code: str = ""
    at: str
    checks: str


class HealthReportRow(Record, table=True):
    """Append-only, except that a report with the same content as the newest row updates that row.

    `status` and `as_of` are the optimization's status and `updated_at` when it was checked.
    """

    __tablename__ = "health_report"
    __table_args__ = (
        Index("ix_health_report_optimization", "optimization_id", "id"),
        partial_index("ix_health_report_latest", "last_at", "optimization_id", where="is_latest = 1"),
    )

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    optimization_id: str
    first_at: str
    last_at: str
    times: int = 1
    is_latest: int = 1
    status: str
    as_of: str
    judged_by: str
    report: str
    checks: str


class Metric(Record, table=True):
    """Metrics by optimization, name and step."""

    __tablename__ = "metric"

    optimization_id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    value: float
    at: str


class Checkpoint(Record, table=True):
    """What a strategy needs to continue after this step. Every step's is kept."""

    __tablename__ = "checkpoint"

    optimization_id: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    data: str


class PrefectState(Record, table=True):
    """Every state that Prefect reported of a flow or task run, once."""

    __tablename__ = "prefect_state"
    __table_args__ = (Index("ix_prefect_state_optimization", "optimization_id", "at"),)

    state_id: str = Field(primary_key=True)
    optimization_id: str
    attempt: int
    run_kind: str
    run_id: str
    run_name: str
    state_type: str
    state_name: str
    message: str = ""
    at: str
    source: str


class PrefectRun(Record, table=True):
    """Which attempt a Prefect flow run is. It is open until all its states are recorded."""

    __tablename__ = "prefect_run"
    __table_args__ = (
        Index("ix_prefect_run_optimization", "optimization_id"),
        partial_index("ix_prefect_run_open", "run_id", where="is_open = 1"),
    )

    run_id: str = Field(primary_key=True)
    optimization_id: str
    attempt: int
    kind: str
    is_open: int = 1


class IntentRow(Record, table=True):
    """Append-only: every intent, its author and time."""

    __tablename__ = "intent"
    __table_args__ = (Index("ix_intent_optimization", "optimization_id", "id"),)

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    optimization_id: str
    intent: str
    by: str
    at: str


class Dependency(Record, table=True):
    """`optimization_id` runs after `after_id` has completed."""

    __tablename__ = "dependency"
    __table_args__ = (Index("ix_dependency_optimization", "optimization_id"),)

    after_id: str = Field(primary_key=True)
    optimization_id: str = Field(primary_key=True)


class Policy(Record, table=True):
    """The operator's limits and defaults for all optimizations, for a type, or for a strategy."""

    __tablename__ = "policy"

    name: str = Field(primary_key=True)
    config: str = "{}"
    at: str


class RecordedMetric(Record, table=True):
    """Append-only: metrics recorded from outside an optimization's steps."""

    __tablename__ = "recorded_metric"
    __table_args__ = (Index("ix_recorded_metric_optimization", "optimization_id", "id"),)

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    optimization_id: str
    name: str
    value: float
    at: str


class NodeRow(Record, table=True):
    """Running nodes. `pid` and `process_started` show other nodes on `host` that one died.

    `cursor` is the change that the node reads next (`o9.store.synchronization`); 0 means that it reads none.
    """

    __tablename__ = "node"

    node_id: str = Field(primary_key=True)
    host: str
    pid: int
    process_started: float
    heartbeat_at: float
    cursor: int = Field(0, sa_column=Column(SERIAL, nullable=False))
    info: str = "{}"


class Writer(Record, table=True):
    """On PostgreSQL: the number of each writer's last transaction, which shows whether a COMMIT succeeded."""

    __tablename__ = "writer"

    id: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    at: float


class ExpectedNode(Record, table=True):
    """Nodes registered by hand, running or not."""

    __tablename__ = "expected_node"

    node_id: str = Field(primary_key=True)
    info: str = "{}"
    at: str


class Change(Record, table=True):
    """The change feed, in commit order: writers take turns, so a reader that has seen an id misses no smaller one.

    `data` is what the nodes' callbacks receive (JSON), if anything.
    """

    __tablename__ = "change"

    id: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True, autoincrement=True))
    optimization_id: str
    kind: str
    at: str
    data: str | None = None


unbounded_texts()
OPTIMIZATION = table_of(Optimization)
TRANSITION = table_of(TransitionRow)
TRIAL = table_of(TrialRow)
RETURNS = table_of(TrialReturns)
CALENDAR = table_of(Calendar)
OUTPUT = table_of(TrialOutput)
BASELINE = table_of(BaselineReturns)
PROVENANCE = table_of(Provenance)
REPETITION = table_of(RepetitionRow)
REPORT = table_of(HealthReportRow)
METRIC = table_of(Metric)
CHECKPOINT = table_of(Checkpoint)
PREFECT_STATE = table_of(PrefectState)
PREFECT_RUN = table_of(PrefectRun)
INTENT = table_of(IntentRow)
DEPENDENCY = table_of(Dependency)
POLICY = table_of(Policy)
RECORDED = table_of(RecordedMetric)
NODE = table_of(NodeRow)
EXPECTED = table_of(ExpectedNode)
CHANGE = table_of(Change)

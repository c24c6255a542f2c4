"""All queries of the store: `store.read(queries.trials, optimization_id)`."""

# ruff: noqa: F401
# mypy: implicit-reexport

from o9.store.alerts.outbox import (
    alert_channels,
    alert_groups,
    due_channels,
    has_pending_notifications,
    sending_channels,
)
from o9.store.alerts.pruning import prunable_alerts
from o9.store.alerts.queries import (
    alert,
    alert_counts,
    alert_titles,
    alerts,
    episodes,
    firing_alerts,
    next_end,
    notices,
    notices_about,
    notifications,
    open_episodes,
    suppressed,
    suppressed_of,
)
from o9.store.alerts.rule_state import rule_positions, rule_states
from o9.store.alerts.silences import changed_silences, silences
from o9.store.optimizations.health_reports import (
    health_due,
    health_history,
    health_report,
    health_reports,
    health_reports_since,
    health_under_way,
    health_verdicts,
    last_health_report,
)
from o9.store.optimizations.hold_outs import look
from o9.store.optimizations.intents import suspended
from o9.store.optimizations.outputs import outputs
from o9.store.optimizations.placebos import placebos
from o9.store.optimizations.provenance import baseline, provenance, repetition
from o9.store.optimizations.pruning import prunable
from o9.store.optimizations.queries import (
    EVERYTHING,
    Filter,
    Holding,
    StatePage,
    awaiting,
    best_trials,
    changes,
    checkpoint,
    counts,
    failed_steps,
    get,
    has_open_alert,
    holding,
    intents,
    known_runs,
    known_states,
    last_best,
    last_change,
    last_state_at,
    last_transition,
    metrics,
    nodes,
    open_runs,
    page,
    prefect_run,
    prefect_states,
    pruned_runs,
    transitions,
    transitions_since,
    trial,
    trial_counts,
    trials,
)
from o9.store.queue.claims import leases, waiting
from o9.store.queue.leader_election import leader, seconds_left
from o9.store.queue.policies import policies
from o9.store.statistics.families import family_trials
from o9.store.statistics.queries import (
    ended_since,
    first_window,
    in_status_since,
    priorities,
    queue,
    ranked,
    ranked_metrics,
    recordings,
    totals,
    windows,
)
from o9.store.statistics.repair import differences, first_ended, hours_ended_in
from o9.store.synchronization import cluster_nodes, published

"""A run's states in any order, however often each: one status, one record. A model of what the listener may meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from o9.lifecycle.control import control_of
from o9.mirror.ingest import ingest
from o9.mirror.observed_state import FLOW, TASK, ObservedState, Run
from o9.mirror.run_registry import RUNS
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store import queries
from o9.store.optimizations.prefect_runs import Adopt
from o9.store.optimizations.transitions import Cause
from o9.store.store import Store

LIVES = {
    "completed": ["PENDING Pending", "RUNNING Running", "COMPLETED Completed"],
    "failed": ["SCHEDULED Scheduled", "PENDING Pending", "RUNNING Running", "SCHEDULED AwaitingRetry",
               "RUNNING Retrying", "FAILED Failed"],
    "cancelled": ["PENDING Pending", "RUNNING Running", "CANCELLING Cancelling", "CANCELLED Cancelled"],
    "running": ["PENDING Pending", "RUNNING Running", "PAUSED Paused", "RUNNING Running"],
    "paused": ["PENDING Pending", "RUNNING Running", "PAUSED Paused", "RUNNING Running", "PAUSED Suspended"],
    "timeout": ["PENDING Pending", "RUNNING Running", "PAUSED Paused", "RUNNING Running", "FAILED TimedOut"],
}  # fmt: skip
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def mirrored(name: str) -> OptimizationState:
    return OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        utc_now(), utc_now(), metadata={"strategy": "mirrored"},
    )  # fmt: skip


def life(name: str, end: str) -> list[ObservedState]:
    states = [(FLOW, name, state) for state in LIVES[end]]
    states[2:2] = [(TASK, f"{name}-task", state) for state in LIVES["completed"]]
    return [
        ObservedState(kind, run, run, f"{name}-{number}", *state.split(), "", BEGAN + timedelta(seconds=number))  # type: ignore[call-arg, arg-type]
        for number, (kind, run, state) in enumerate(states)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("end", LIVES)
def test_any_order_and_number_of_hearings_end_in_the_same_record(end: str, store_url: str) -> None:
    numbers = count()

    @given(st.data())
    @hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def check(data: st.DataObject) -> None:
        RUNS._recorded.clear()
        name = f"a{next(numbers)}"
        store.write(Adopt(mirrored(name), name, "node", 30.0))
        states, run = life(name, end), Run(name, name, 1, "mirrored")
        heard = data.draw(st.permutations(states + data.draw(st.lists(st.sampled_from(states)))))
        forget = data.draw(st.booleans())
        while heard:
            size = data.draw(st.integers(1, len(heard)))
            loop.run(ingest(store, "node", run, heard[:size], Cause.EVENT, request=control_of(store).request))
            heard = heard[size:]
            if forget:
                RUNS._recorded.clear()
        state = store.read(queries.get, name)
        assert state is not None
        assert state.status.value == end
        path = [row["to_status"] for row in store.read(queries.transitions, name)]
        assert path[:1] + path[-1:] == ["created", end]
        assert all(before != after for before, after in pairwise(path))
        recorded = [
            (row["run_id"], row["state_id"], row["state_name"]) for row in store.read(queries.prefect_states, name)
        ]
        assert recorded == [(observed.run_id, observed.state_id, observed.state_name) for observed in states]

    with Store(store_url) as store, asyncio.Runner() as loop:
        check()

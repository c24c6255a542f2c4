"""A run's states in any order, however often each: one status, one record. A model of what the listener may meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from o9.mirror import recorder
from o9.mirror.seen import FLOW, TASK, Run, Seen
from o9.mirror.taking import take
from o9.model.optimization import OptimizationState, utc_now
from o9.model.states import OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store.runs import Adopt
from o9.store.store import Store
from o9.store.transitions import Cause

LIVES = {
    "completed": ["PENDING Pending", "RUNNING Running", "COMPLETED Completed"],
    "failed": ["SCHEDULED Scheduled", "PENDING Pending", "RUNNING Running", "SCHEDULED AwaitingRetry",
               "RUNNING Retrying", "FAILED Failed"],
    "cancelled": ["PENDING Pending", "RUNNING Running", "CANCELLING Cancelling", "CANCELLED Cancelled"],
    "timeout": ["PENDING Pending", "RUNNING Running", "PAUSED Paused", "RUNNING Running", "FAILED TimedOut"],
}  # fmt: skip
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def mirrored(name: str) -> OptimizationState:
    return OptimizationState(
        name, name, "", OptimizationType.PARAMETER_TUNING, OptimizationStatus.CREATED, OptimizationPriority.NORMAL,
        utc_now(), utc_now(), metadata={"strategy": "mirrored"},
    )  # fmt: skip


def life(name: str, end: str) -> list[Seen]:
    states = [(FLOW, name, state) for state in LIVES[end]]
    states[2:2] = [(TASK, f"{name}-task", state) for state in LIVES["completed"]]
    return [
        Seen(kind, run, run, f"{name}-{number}", *state.split(), "", BEGAN + timedelta(seconds=number))
        for number, (kind, run, state) in enumerate(states)
    ]


@pytest.mark.parametrize("end", LIVES)
def test_any_order_and_number_of_hearings_end_in_the_same_record(end: str) -> None:
    @given(st.data())
    @hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(data: st.DataObject) -> None:
        recorder._recorded.clear()
        with TemporaryDirectory() as folder, Store(str(Path(folder) / "store.db")) as store:
            store.write(Adopt(mirrored("a"), "a", "node", 30.0))
            states, run = life("a", end), Run("a", "a", 1, "mirrored")
            # Its beginning comes from the hook that adopted it; the rest in any order, in bits of any size.
            beginning, rest = states[:2], states[2:]
            heard = data.draw(st.permutations(rest + data.draw(st.lists(st.sampled_from(states)))))
            forget = data.draw(st.booleans())
            asyncio.run(take(store, "node", [(run, seen) for seen in beginning], Cause.HOOK))
            while heard:
                size = data.draw(st.integers(1, len(heard)))
                asyncio.run(take(store, "node", [(run, seen) for seen in heard[:size]], Cause.EVENT))
                heard = heard[size:]
                if forget:
                    recorder._recorded.clear()
            state = store.get("a")
            assert state is not None
            assert state.status.value == end
            recorded = [(row["run_id"], row["state_id"], row["state_name"]) for row in store.prefect_states("a")]
            assert recorded == [(seen.run_id, seen.state_id, seen.state_name) for seen in states]

    check()

"""Which leases are dead: by what was seen on a clock that nobody can set, whatever the store's clock says."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.lifecycle.lease_expiry import FIRST_PATIENCE_SECONDS, LOOK_SECONDS, LeaseExpiry, StoreClock
from o9.store.queue.claims import HeldLease, Leases

LEASE = 30.0
NOON = 1_800_000_000.0
HOUR = 3600.0
LASTING = {"a": LEASE}


def lease(expires_at: float, node: str = "a") -> HeldLease:
    return HeldLease("one", node, 1, expires_at)


def first_dead(expiry: LeaseExpiry, held: HeldLease, *, since: float, ahead: float = 0.0) -> float:
    """After how many seconds of looking at a lease that nobody renews."""
    now = since
    while not expiry.run_out(Leases(NOON + now + ahead, (held,)), LASTING, now):
        now += LOOK_SECONDS
        assert now < since + 2 * HOUR
    return now - since


@pytest.mark.parametrize("jump", [0.0, HOUR, -HOUR])
def test_one_that_was_seen_alive_is_dead_when_its_lease_has_passed(jump: float) -> None:
    expiry = LeaseExpiry(LEASE)
    expiry.run_out(Leases(NOON, (lease(NOON + LEASE),)), LASTING, 0.0)
    renewed = lease(NOON + 2.0 + LEASE)
    assert 0 <= first_dead(expiry, renewed, since=2.0, ahead=jump) - (LEASE - LOOK_SECONDS) <= LOOK_SECONDS


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_renewal_just_before_the_jump_counts(jump: float) -> None:
    """It is first seen when its deadline says nothing any more."""
    expiry = LeaseExpiry(LEASE)
    expiry.run_out(Leases(NOON, ()), LASTING, 0.0)
    assert first_dead(expiry, lease(NOON + 1.0 + LEASE), since=2.0, ahead=jump) == LEASE - LOOK_SECONDS


@pytest.mark.parametrize(
    ("left", "node", "seconds"),
    [
        (-HOUR, "a", FIRST_PATIENCE_SECONDS),  # a living one whose clock has jumped renews in that time
        (10.0, "a", 10.0),
        (HOUR, "a", LEASE),  # the clock went back
        (-HOUR, "handed over", FIRST_PATIENCE_SECONDS),
        (300.0, "handed over", 300.0),  # to a run that is no node, so nobody knows for how long
    ],
)
def test_at_the_first_look_the_deadline_is_all_that_is_known(left: float, node: str, seconds: float) -> None:
    assert first_dead(LeaseExpiry(LEASE), lease(NOON + left, node), since=0.0) == seconds


def test_after_a_time_without_looking_nobody_could_renew() -> None:
    expiry, held = LeaseExpiry(LEASE), lease(NOON + LEASE)
    assert expiry.run_out(Leases(NOON, (held,)), LASTING, 0.0) == []
    later = 2 * LEASE
    assert 0 <= first_dead(expiry, held, since=later) - LEASE / 3 < LOOK_SECONDS


def test_a_clock_that_is_read_slowly_has_not_jumped() -> None:
    clock = StoreClock()
    assert clock.jumped(NOON, 0.0, 0.1) == 0.0
    assert clock.jumped(NOON + 2.0, 2.0, 9.0) == 0.0
    assert clock.jumped(NOON + 9.5, 9.1, 9.9) == 0.0
    assert clock.jumped(NOON + 11.0 + HOUR, 11.0, 11.1) == pytest.approx(HOUR, abs=0.5)
    assert clock.jumped(NOON + 13.0 + HOUR, 13.0, 13.1) == 0.0
    assert clock.jumped(NOON + 15.0, 15.0, 15.1) == pytest.approx(-HOUR, abs=0.5)


# After so many seconds without one the clock jumps, and is wrong by so many.
jumps = st.lists(st.tuples(st.floats(LOOK_SECONDS + 0.1, 60.0), st.floats(-2 * HOUR, 2 * HOUR)), max_size=4)


@given(jumps, st.floats(0.0, 60.0), st.floats(20.0, 100.0))
def test_the_living_keep_theirs_and_the_dead_lose_them_in_time(
    jumps: list[tuple[float, float]], born: float, died: float
) -> None:
    """A holder that looks every two seconds until it dies, and a node that looks for the dead from its own birth on."""
    moments, offsets = list(accumulate(after for after, _ in jumps)), [0.0, *(by for _, by in jumps)]

    def store_time(at: float) -> float:
        return NOON + at + offsets[bisect_right(moments, at)]

    clock, expiry = StoreClock(), LeaseExpiry(LEASE)
    held, renewed_at = lease(store_time(0.0) + LEASE), 0.0
    looks = sorted([(2.0 * n, "holder") for n in range(70)] + [(born + 2.0 * n, "other") for n in range(90)])
    dead_at = None
    for now, who in looks:
        if who == "holder" and now < died:
            if clock.jumped(store_time(now), now, now) or now - renewed_at >= LEASE / 3:
                held, renewed_at = lease(store_time(now) + LEASE), now
        elif who == "other" and expiry.run_out(Leases(store_time(now), (held,)), LASTING, now):
            dead_at = now
            break
    assert dead_at is not None
    assert dead_at >= died
    assert dead_at <= max(renewed_at + LEASE + 2 * LOOK_SECONDS, born + LEASE + LOOK_SECONDS)

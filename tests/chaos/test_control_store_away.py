"""The store goes away in the middle and comes back: nobody loses a step or a life, and the record is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import control_scenarios
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("timing")]


@pytest.fixture(scope="module")
def postgres() -> Iterator[control_scenarios.Postgres]:
    one = control_scenarios.Postgres()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("away_seconds", "lease_seconds", "looked_on"),
    [
        pytest.param(1.0, 30.0, False, id="shorter than a lease", marks=pytest.mark.long),
        pytest.param(17.0, 15.0, True, id="longer than a lease, and another one is back first"),
        pytest.param(60.0, 30.0, True, id="for a minute", marks=pytest.mark.long),
    ],
)
def test_a_store_that_was_away_has_lost_nothing(
    tmp_path: Path, postgres: control_scenarios.Postgres, chaos_seed: int,
    away_seconds: float, lease_seconds: float, looked_on: bool,
) -> None:  # fmt: skip
    figures = control_scenarios.outage(
        tmp_path / "floor", postgres, away_seconds=away_seconds, lease_seconds=lease_seconds, looked_on=looked_on,
        seed=chaos_seed,
    )  # fmt: skip
    print(figures)
    # A lease that ran out while nobody could renew one is nobody's death: its holder may renew it first.
    assert set(figures["deaths"].values()) == {0}
    assert set(figures["attempts"].values()) == {1}

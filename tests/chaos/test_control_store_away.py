"""The store goes away in the middle and comes back: nobody loses a step or a life, and the record is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import control_scenarios
import pytest


@pytest.fixture
def postgres() -> Iterator[control_scenarios.Postgres]:
    one = control_scenarios.Postgres()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("away_seconds", "lease_seconds", "aggregators"),
    [
        pytest.param(10.0, 30.0, 1, id="shorter than a lease"),
        pytest.param(10.0, 2.0, 2, id="longer than a lease, and others look on"),
        pytest.param(60.0, 30.0, 2, id="for a minute", marks=pytest.mark.slow),
    ],
)
def test_a_store_that_was_away_has_lost_nothing(
    tmp_path: Path, postgres: control_scenarios.Postgres, away_seconds: float, lease_seconds: float, aggregators: int
) -> None:
    figures = control_scenarios.outage(
        tmp_path / "floor", postgres, away_seconds=away_seconds, lease_seconds=lease_seconds, aggregators=aggregators
    )
    print(figures)
    # A lease that ran out while nobody could renew one is nobody's death: its holder renews it first.
    assert set(figures["deaths"].values()) == {0}
    assert set(figures["attempts"].values()) == {1}

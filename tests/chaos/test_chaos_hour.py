"""Whatever goes wrong, one after the other: `python benchmarks/chaos.py hour` does it for an hour."""

from __future__ import annotations

from pathlib import Path

import chaos_hour
import control_scenarios
import pytest

# All of it, but one at a time, is in other tests: kills, stops, outages, clocks, locks, full disks, a bad network.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("timing")]
FORMS = [(8.0, 10), (600.0, 30)]


@pytest.mark.parametrize(("seconds", "steps"), FORMS)
def test_on_sqlite(tmp_path: Path, chaos_seed: int, seconds: float, steps: int) -> None:
    print(chaos_hour.hour(tmp_path, seconds=seconds, seed=chaos_seed, steps=steps))


@pytest.mark.parametrize(("seconds", "steps"), FORMS)
def test_on_postgresql(tmp_path: Path, chaos_seed: int, seconds: float, steps: int) -> None:
    postgres = control_scenarios.Postgres()
    try:
        print(chaos_hour.hour(tmp_path, seconds=seconds, seed=chaos_seed, steps=steps, postgres=postgres))
    finally:
        postgres.close()

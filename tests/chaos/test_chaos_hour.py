"""Whatever goes wrong, one after the other: `python benchmarks/chaos.py hour` does it for an hour."""

from __future__ import annotations

from pathlib import Path

import chaos_hour
import control_scenarios
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("timing")]


@pytest.mark.parametrize("seconds", [8.0, pytest.param(600.0, marks=pytest.mark.long)])
def test_on_sqlite(tmp_path: Path, chaos_seed: int, seconds: float) -> None:
    print(chaos_hour.hour(tmp_path, seconds=seconds, seed=chaos_seed))


@pytest.mark.parametrize("seconds", [8.0, pytest.param(600.0, marks=pytest.mark.long)])
def test_on_postgresql(tmp_path: Path, chaos_seed: int, seconds: float) -> None:
    postgres = control_scenarios.Postgres()
    try:
        print(chaos_hour.hour(tmp_path, seconds=seconds, seed=chaos_seed, postgres=postgres))
    finally:
        postgres.close()

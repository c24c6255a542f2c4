"""Whatever goes wrong, one after the other: `python benchmarks/chaos.py hour` does it for an hour."""

from __future__ import annotations

from pathlib import Path

import chaos_hour
import control_scenarios
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("timing")]


FORMS = [(8.0, 10), pytest.param(600.0, 30, marks=pytest.mark.long)]


@pytest.mark.long  # PostgreSQL's is short; locks and full disks of SQLite are in `test_store_bad_input.py`
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

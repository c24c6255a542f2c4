"""The long forms of the tests of control under chaos. `python benchmarks/chaos.py many --seed 7`

many: 300 optimizations of random priority and length on two aggregators, one of which is killed from time to time.
kills: 200 times `kill -9`, of the aggregator, an evaluation's process, or a flow that Prefect started.
outage: a PostgreSQL that is unavailable for a minute.
hour: kills, stops, lost responses, silent networks, read-only phases, a full disk, clocks that jump; on SQLite and on
    PostgreSQL in parallel, for `--minutes`.

Each checks the record and prints its figures; a failure names the seed, which repeats the same faults.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import o9_testing  # noqa: F401 - importing it gives this run its own Prefect home


def run(asked: argparse.Namespace, path: Path, seed: int) -> dict[str, Any]:
    import chaos_hour
    import control_scenarios

    if asked.scenario == "many":
        return control_scenarios.many(
            path, count=asked.count, kills=asked.kills or 12, seed=seed, seconds=asked.seconds
        )
    if asked.scenario == "kills":
        return control_scenarios.kills(path, count=asked.kills or 200, seed=seed, seconds=asked.seconds)
    if asked.scenario == "hour" and asked.database == "sqlite":
        return chaos_hour.hour(path, seconds=60 * asked.minutes, seed=seed)
    postgres = control_scenarios.Postgres()
    try:
        if asked.scenario == "hour":
            return chaos_hour.hour(path, seconds=60 * asked.minutes, seed=seed, postgres=postgres)
        return control_scenarios.outage(
            path, postgres, away_seconds=asked.away, lease_seconds=asked.lease, looked_on=True, seed=seed
        )
    finally:
        postgres.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["many", "kills", "outage", "hour"])
    parser.add_argument("--seed", type=int, default=None, help="random by default")
    parser.add_argument("--count", type=int, default=300, help="many: the number of optimizations")
    parser.add_argument("--kills", type=int, default=None, help="many: 12; kills: 200")
    parser.add_argument("--away", type=float, default=60.0, help="outage: seconds")
    parser.add_argument("--lease", type=float, default=30.0, help="outage: seconds")
    parser.add_argument("--minutes", type=float, default=60.0, help="hour: the duration")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default=None, help="hour: only on this one")
    parser.add_argument("--seconds", type=float, default=1800.0, help="fail after this time")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    print(f"{asked.scenario}, seed {seed}", flush=True)
    if asked.scenario == "hour" and asked.database is None:
        again = [sys.executable, *sys.argv, "--seed", str(seed), "--database"]
        both = [subprocess.Popen([*again, database]) for database in ("sqlite", "postgresql")]
        sys.exit(max(abs(one.wait()) for one in both))
    folder = Path(tempfile.mkdtemp(prefix="o9-chaos-"))
    path = folder / "floor"
    try:
        figures = run(asked, path, seed)
    except BaseException:
        print(f"seed {seed} failed; the store and the processes' log are in {path}", flush=True)
        raise
    shutil.rmtree(folder)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

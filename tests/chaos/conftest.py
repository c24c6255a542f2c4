"""A Prefect home of the test run's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import o9_testing  # noqa: F401 - importing it gives this run its own Prefect home

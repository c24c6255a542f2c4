"""The habits that no reader has to check: who may import whom, how long a module may be, and nothing left undone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for room in ("src", "flows", "tasks", "blocks")
    for path in (ROOT / room).rglob("*.py")
    if "_links" not in path.parts
)
LINES = 400
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_each_floor_imports_only_from_the_floors_below() -> None:
    told = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert "0 broken" in told.stdout


def test_there_are_sources() -> None:
    assert {"lifecycle.py", "steps.py", "store.py", "aggregator.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_whole_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError", text)
    assert not text.strip() or text.startswith('"""')

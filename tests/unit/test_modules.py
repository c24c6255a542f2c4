"""The habits that no reader has to check: how long a module may be, and nothing left undone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("src", "flows", "tasks", "blocks") for path in (ROOT / room).rglob("*.py"))
LINES = 600


def test_there_are_sources() -> None:
    assert {"lifecycle.py", "steps.py", "store.py", "aggregator.py"} <= {path.name for path in SOURCES}


def test_every_room_is_marked_as_typed() -> None:
    rooms = [path.parent for folder in ("src", "src/o9") for path in (ROOT / folder).glob("*/__init__.py")]
    assert {"OptimizationStateAggregator", "store", "flows", "tasks", "blocks"} <= {room.name for room in rooms}
    assert [room.name for room in rooms if not (room / "py.typed").is_file()] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_whole_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError", text)
    assert not text.strip() or text.startswith('"""')


@pytest.mark.xdist_group("kept together")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process")
def test_pytest_xdist_keeps_groups_together(request: pytest.FixtureRequest) -> None:
    """It says so by the test's name; some releases of pytest make it forget."""
    assert request.node.nodeid.endswith("@kept together")

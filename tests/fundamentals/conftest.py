"""One Prefect server for the whole test run, and the folder of a reader who has just begun."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import o9_testing
import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)

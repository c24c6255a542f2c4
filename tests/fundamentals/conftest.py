"""The folder of a reader who has just begun."""

from __future__ import annotations

from pathlib import Path

import o9_testing
import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    o9_testing.session_server()
    monkeypatch.chdir(tmp_path)

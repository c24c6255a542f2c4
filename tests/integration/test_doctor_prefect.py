"""`o9 doctor` on Prefect: how to reach the local server, and a configured one that rejects us."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import o9_testing
import pytest
from command_line import O9Command, command_in
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> O9Command:
    return command_in(tmp_path, capsys, monkeypatch)


def finding(o9: O9Command) -> dict[str, Any]:
    (found,) = [each for each in o9("doctor", "--json").json()["findings"] if each["name"] == "prefect server"]
    assert isinstance(found, dict)
    return found


def test_it_says_how_a_terminal_reaches_the_local_server(o9: O9Command) -> None:
    server = o9_testing.session_server()
    found = finding(o9)
    assert (found["level"], server.auth_string in str(found)) == ("ok", False)
    (export,) = re.findall("export .*", found["remedy"])
    told = subprocess.run(
        ["sh", "-c", f'{export}; echo "$PREFECT_API_URL $PREFECT_API_AUTH_STRING"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == [server.api_url, server.auth_string]


def test_a_configured_server_that_lets_nobody_in_is_a_problem(o9: O9Command) -> None:
    server = o9_testing.session_server()
    for given, level in ((None, "problem"), ("o9:a guess", "problem"), (server.auth_string, "ok")):
        with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_API_AUTH_STRING: given}):
            found = finding(o9)
        assert (found["level"], "PREFECT_API_AUTH_STRING" in found["detail"]) == (level, level == "problem")

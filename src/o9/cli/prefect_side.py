"""What `doctor` and `demo` ask of Prefect. Starts nothing; importing this imports Prefect, a second of work."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_HOME,
)
from sqlalchemy.engine import make_url

from o9.model.urls import public_url

REACH_SECONDS = 3.0


@dataclass(frozen=True)
class PrefectServers:
    """configured: the URL that Prefect's settings name, or None. problem: that it does not answer, or let us in.

    local: the URL of this machine's local server where one is running, and the file with what it lets people in by.
    """

    home: Path
    configured: str | None
    problem: str | None
    local: tuple[str, Path] | None


def configured_server() -> str | None:
    """The API's URL that Prefect's settings name."""
    return PREFECT_API_URL.value() or None


def look_for_servers() -> PrefectServers:
    home = PREFECT_HOME.value().expanduser()
    configured = configured_server()
    problem = None
    if configured:
        unheard = _problem(configured)
        problem = f"does not answer ({unheard})" if unheard else _refusal(configured)
    local = next(((url, file) for url, file in _local_servers(home) if _problem(url) is None), None)
    return PrefectServers(home, configured and public_url(configured), problem, local)


def where_prefect_records() -> str:
    """Where the flow runs of this machine can be looked at."""
    if configured := configured_server():
        return f"{public_url(configured).removesuffix('/api')} in a browser"
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    where = str(make_url(url).database) if url.startswith("sqlite") else public_url(url)
    files = sorted(
        PREFECT_HOME.value().expanduser().glob("o9/server-*/server.auth"), key=lambda file: file.stat().st_mtime
    )
    # As it comes, Prefect's server answers everybody on the machine; with this it wants what O9's own local one wants.
    guarded = f'PREFECT_SERVER_API_AUTH_STRING="$(cat {files[-1]})" ' if files else ""
    return f"{where} (`{guarded}prefect server start` shows it in a browser)"


def _problem(url: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=REACH_SECONDS) as answer:
            return None if answer.status == 200 else f"it answers {answer.status}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (ValueError, HTTPException) as error:  # what is configured is no URL, and is told of with its password
        return f"{type(error).__name__}: it is no URL such as http://127.0.0.1:4200/api"


def _refusal(url: str) -> str | None:
    """Whether a server that answers does so to whoever sends the configured authentication string, or none."""
    if PREFECT_API_KEY.value():  # Prefect Cloud's way
        return None
    request = urllib.request.Request(f"{url.rstrip('/')}/hello")
    if given := PREFECT_API_AUTH_STRING.value():
        request.add_header("Authorization", f"Basic {base64.b64encode(given.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS):
            return None
    except HTTPError as error:
        return "wants another PREFECT_API_AUTH_STRING" if error.code == HTTPStatus.UNAUTHORIZED else None
    except OSError as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


def _local_servers(home: Path) -> Iterator[tuple[str, Path]]:
    """The URLs of local servers that are running or were, each with the file that holds its authentication string."""
    for state in home.glob("o9/server-*/server.json"):
        try:
            yield f"http://127.0.0.1:{json.loads(state.read_bytes())['port']}/api", state.with_name("server.auth")
        except (OSError, ValueError, KeyError):  # it is being written or taken away in this moment
            continue

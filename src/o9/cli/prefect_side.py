"""What `doctor` and `demo` ask of Prefect. Starts nothing; importing this imports Prefect, a second of work."""

from __future__ import annotations

import base64
import html
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_UI_URL,
)

from o9.aggregator.prefect_server_process import LOGIN
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
    return PrefectServers(home, configured and public_url(configured), problem, _running_local(home))


def where_prefect_records() -> str:
    """How the flow runs of this machine can be looked at."""
    if configured := configured_server():
        return f"{public_url(configured).removesuffix('/api')} in a browser"
    return "`o9 open` shows it in a browser"


def pages_at(path: str) -> str | None:
    """The address of a page of Prefect's UI, for whoever started this; None where no server runs.

    That of the local server is a file that only its owner can read: it holds what the server lets people in by.
    """
    if configured := configured_server():
        return public_url(PREFECT_UI_URL.value() or configured.removesuffix("/api")) + path
    local = next(
        ((url, file) for url, file in _local_servers(PREFECT_HOME.value().expanduser()) if not _problem(url)), None
    )
    if local is None:
        return None
    url, auth_file = local
    key = base64.b64encode(auth_file.read_bytes()).decode()
    address = f"{url.removesuffix('/api')}{LOGIN}#{key}|{path}"
    page = auth_file.with_name("open.html")
    with open(page, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(address)}">')
    return page.as_uri()


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


def _running_local(home: Path) -> tuple[str, Path] | None:
    return next(((url, file) for url, file in _local_servers(home) if _problem(url) is None), None)


def _local_servers(home: Path) -> Iterator[tuple[str, Path]]:
    """The URLs of local servers that are running or were, each with the file that holds its authentication string."""
    for state in home.glob("o9/server-*/server.json"):
        try:
            yield f"http://127.0.0.1:{json.loads(state.read_bytes())['port']}/api", state.with_name("server.auth")
        except (OSError, ValueError, KeyError):  # it is being written or taken away in this moment
            continue

"""Requests of commands to Prefect's servers. Starts nothing. Importing this imports Prefect, which takes a second."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, PREFECT_HOME, PREFECT_UI_URL

from o9.aggregator.prefect_server_process import LOGIN
from o9.model.urls import public_url

REACH_SECONDS = 3.0


def home() -> Path:
    folder: Path = PREFECT_HOME.value()
    return folder.expanduser()


def configured_server() -> str | None:
    """Return the URL of the API in Prefect's settings."""
    return PREFECT_API_URL.value() or None


def problem_of_configured(url: str) -> str | None:
    """Return why the server cannot be used, to follow its name; None if it answers and accepts the credentials."""
    if PREFECT_API_KEY.value():  # Prefect Cloud
        return _problem(url)
    given = PREFECT_API_AUTH_STRING.value()
    headers = {"Authorization": f"Basic {base64.b64encode(given.encode()).decode()}"} if given else {}
    return _problem(url, "/hello", headers)


def local_server() -> tuple[str, Path] | None:
    """Return the URL of the API of this machine's running local server, and the file with its authentication string."""
    return next(((url, file) for url, file in _local_servers() if _problem(url) is None), None)


def where_prefect_records() -> str:
    """Say where to see the flow runs of this machine."""
    if configured := configured_server():
        return f"{public_url(configured).removesuffix('/api')} in a browser"
    return "`o9 open` shows it in a browser"


def pages_at(path: str) -> str | None:
    """Return the address of a page of Prefect's UI; None if no server runs.

    For the local server, that is a file that only its owner can read, since it holds the authentication string.
    """
    if configured := configured_server():
        return public_url(PREFECT_UI_URL.value() or configured.removesuffix("/api")) + path
    local = local_server()
    if local is None:
        return None
    url, auth_file = local
    key = base64.b64encode(auth_file.read_bytes()).decode()
    address = f"{url.removesuffix('/api')}{LOGIN}#{key}|{path}"
    page = auth_file.with_name("open.html")
    with open(page, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(address)}">')
    return page.as_uri()


def _problem(url: str, path: str = "/health", headers: dict[str, str] | None = None) -> str | None:
    try:
        with urlopen(Request(f"{url.rstrip('/')}{path}", headers=headers or {}), timeout=REACH_SECONDS):
            return None
    except HTTPError as error:
        return "rejects PREFECT_API_AUTH_STRING" if error.code == 401 else f"answers HTTP {error.code}"
    except OSError as error:
        return f"does not answer ({getattr(error, 'reason', error)})"
    except (ValueError, HTTPException):  # its text would show a password in the URL
        return "is not a URL such as http://127.0.0.1:4200/api"


def _local_servers() -> Iterator[tuple[str, Path]]:
    """Yield the URL of each local server that runs or ran, with the file that holds its authentication string."""
    for state in home().glob("o9/server-*/server.json"):
        try:
            yield f"http://127.0.0.1:{json.loads(state.read_bytes())['port']}/api", state.with_name("server.auth")
        except (OSError, ValueError, KeyError):  # it is being written or removed
            continue

"""What `doctor` and `demo` ask of Prefect. Starts nothing; importing this imports Prefect, a second of work."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, PREFECT_HOME
from sqlalchemy.engine import make_url

from o9.model.urls import public_url

REACH_SECONDS = 3.0


@dataclass(frozen=True)
class PrefectServers:
    """configured: the URL that Prefect's settings name, or None. problem: why it does not answer, or None.

    local: the URL of this machine's local server where one is running.
    """

    home: Path
    configured: str | None
    problem: str | None
    local: str | None


def configured_server() -> str | None:
    """The API's URL that Prefect's settings name."""
    return PREFECT_API_URL.value() or None


def look_for_servers() -> PrefectServers:
    home = PREFECT_HOME.value().expanduser()
    configured = configured_server()
    problem = _problem(configured) if configured else None
    return PrefectServers(home, configured and public_url(configured), problem, _local(home))


def where_prefect_records() -> str:
    """Where the flow runs of this machine can be looked at."""
    if configured := configured_server():
        return f"{public_url(configured).removesuffix('/api')} in a browser"
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    where = str(make_url(url).database) if url.startswith("sqlite") else public_url(url)
    return f"{where} (`prefect server start` shows it in a browser)"


def _problem(url: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=REACH_SECONDS) as answer:
            return None if answer.status == 200 else f"it answers {answer.status}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (ValueError, HTTPException) as error:  # what is configured is no URL, and is told of with its password
        return f"{type(error).__name__}: it is no URL such as http://127.0.0.1:4200/api"


def _local(home: Path) -> str | None:
    for state in home.glob("o9/server-*/server.json"):
        try:
            url = f"http://127.0.0.1:{json.loads(state.read_bytes())['port']}/api"
        except (OSError, ValueError, KeyError):  # it is being written or taken away in this moment
            continue
        if _problem(url) is None:
            return url
    return None

"""What `doctor` and `demo` ask of Prefect. Starts nothing; importing this imports Prefect, a second of work."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, PREFECT_HOME
from sqlalchemy.engine import make_url

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
    return PrefectServers(home, configured and _without_password(configured), problem, _local(home))


def where_prefect_records() -> str:
    """Where the flow runs of this machine can be looked at."""
    if configured := configured_server():
        return f"{_without_password(configured).removesuffix('/api')} in a browser"
    database = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    local = database.get_backend_name() == "sqlite"
    where = str(database.database) if local else database.render_as_string(hide_password=True)
    return f"{where} (`prefect server start` shows it in a browser)"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}")) if parts.password else url


def _problem(url: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=REACH_SECONDS) as answer:
            return None if answer.status == 200 else f"it answers {answer.status}"
    except (OSError, ValueError) as error:  # ValueError: what is configured is no URL
        return str(getattr(error, "reason", error))


def _local(home: Path) -> str | None:
    for state in home.glob("o9/server-*/server.json"):
        try:
            url = f"http://127.0.0.1:{json.loads(state.read_bytes())['port']}/api"
        except (OSError, ValueError, KeyError):  # it is being written or taken away in this moment
            continue
        if _problem(url) is None:
            return url
    return None

"""A password in a URL, by whatever way it came, is found on no surface: output, errors, logs, reports, answers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import zygote
from command_line import O9, Answer, O9Command, command_in, create, work
from o9_testing import free_port
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, temporary_settings
from store_backend import Requests

from o9.aggregator import prefect_server
from o9.cli.prefect_side import where_prefect_records
from o9.lifecycle.control import control_of
from o9.mirror.reconciler import reconcile
from o9.model.errors import OptimizationError
from o9.model.logs import configure_logging
from o9.model.settings import settings
from o9.store.store import Store

SECRET = "T0PSECRET"
FILE = "{name: one, optimization_id: one, metadata: {objective: branin}}"
# Where no store is, or none that anybody could mean. {port}: nobody listens there.
NOWHERE = {
    "a password": "postgresql://ann:{secret}@127.0.0.1:{port}/desk",
    "a password in the query": "postgresql://127.0.0.1:{port}/desk?user=ann&password={secret}",
    "a password of a key": "postgresql://ann@127.0.0.1:{port}/desk?sslmode=require&sslpassword={secret}",
    "a parameter that does not exist": "postgresql://ann@127.0.0.1:{port}/desk?passwort={secret}",
    "no port": "postgresql://ann:{secret}@127.0.0.1:port/desk",
    "no host": "postgresql://ann:{secret}/desk",
    "an @ in the password": "postgresql://ann:x@{secret}@127.0.0.1:{port}/desk",
    "a / in the password": "postgresql://ann:x/{secret}@127.0.0.1:{port}/desk",
    "three slashes": "postgresql:///ann:{secret}@127.0.0.1/desk",
    "one slash": "postgresql:/ann:{secret}@127.0.0.1/desk",
    "no colon": "postgresql//ann:{secret}@127.0.0.1/desk",
    "as psql takes it": "host=127.0.0.1 user=ann password={secret}",
    "no scheme": "://ann:{secret}@127.0.0.1/desk",
    "no driver": "postgresql+none://ann:{secret}@127.0.0.1:{port}/desk",
    "another database": "mysql://ann:{secret}@127.0.0.1/desk",
    "a user of SQLite": "sqlite://ann:{secret}@127.0.0.1/desk.db",
}
# On a store that is there; {url} has a query already.
THERE: dict[str, Callable[[str], str]] = {
    "a password": lambda url: url.replace("postgres:@", f"postgres:{SECRET}@"),
    "a password in the query": lambda url: f"{url}&password={SECRET}",
}
COMMANDS = [
    ["list"], ["list", "--json"], ["list", "--verbose"],
    ["show", "done"], ["show", "done", "--json"], ["trials", "done"],
    ["show", "ghost"], ["health"], ["health", "done"], ["stats"], ["trends"], ["alerts", "list"],
    ["alerts", "silence", "list"], ["submit", "one.yaml"], ["pause", "waiting"], ["resume", "waiting"],
    ["cancel", "waiting", "ghost"], ["retry", "done"], ["db", "upgrade"], ["db", "check"], ["db", "check", "--json"],
    ["db", "backup", "copy.db"], ["db", "prune", "--older-than", "1", "--dry-run"],
    ["report", "-o", "one.html", "done"], ["report"], ["doctor"], ["doctor", "--json"],
]  # fmt: skip
FEW = [["list"], ["submit", "one.yaml"], ["db", "check"], ["doctor"]]  # all say it by the same words


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[O9Command]:
    o9 = command_in(tmp_path, capsys, monkeypatch)
    Path("one.yaml").write_text(FILE, encoding="utf-8")
    yield o9
    settings.cache_clear()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What O9's own handler writes, as JSON."""
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream)
    yield stream
    logging.getLogger("o9").handlers[:] = [
        handler for handler in logging.getLogger("o9").handlers if handler.get_name() != "o9"
    ]
    logging.getLogger("o9").propagate = True


def raised(call: Callable[[], object]) -> str:
    """The error with all that led to it, as a traceback shows it."""
    with pytest.raises(OptimizationError) as refused:
        call()
    logging.getLogger("o9").error("it failed", exc_info=refused.value)
    return "".join(traceback.format_exception(refused.value))


def said(answer: Answer) -> str:
    return answer.out + answer.err


@pytest.mark.parametrize("way", NOWHERE)
def test_no_error_about_a_store_shows_its_password(
    way: str, o9: O9Command, set_o9: Callable[..., None], logged: io.StringIO
) -> None:
    url = NOWHERE[way].format(secret=SECRET, port=free_port())
    told = [raised(lambda: Store(url))]
    for command in COMMANDS if way in THERE else FEW:
        answer = o9(*command, "--store", url)
        assert answer.code == 1, said(answer)
        told.append(said(answer))
    if "://" in url:
        told += [said(o9("list", url)), said(o9("show", url))]
    set_o9(store_url=url)
    told += [said(o9(*command)) for command in (["list"], ["doctor", "--json"])]
    run = zygote.run([*O9, "run", "one.yaml", "--verbose"])
    assert run.returncode == 1
    told += [run.stdout, run.stderr]
    told += [repr(settings()), str(settings()), logged.getvalue()]
    for text in told:
        assert SECRET not in text


@pytest.mark.parametrize("way", THERE)
def test_no_surface_of_a_store_shows_its_password(
    way: str, o9: O9Command, postgres_url: str, set_o9: Callable[..., None], logged: io.StringIO
) -> None:
    url = THERE[way](postgres_url)
    assert SECRET in url
    with Store(url) as store, asyncio.Runner() as runner:
        create(store, "done")
        work(store, "done", 3, "completed")
        create(store, "waiting")
        told = [f"{store!r} {store.name}", json.dumps(Requests(store, runner).send("/health"))]
    for command in COMMANDS:
        answer = o9(*command, "--store", url)
        assert answer.code in (0, 1), said(answer)
        told.append(said(answer))
    assert any("--store" in text for text in told)  # a command to type next
    set_o9(store_url=url)
    told += [said(o9("doctor", "--json")), said(o9("list")), repr(settings()), logged.getvalue()]
    pages = [path.read_text(encoding="utf-8") for path in Path().glob("*.html")]
    assert len(pages) == 2
    for text in (*told, *pages):
        assert SECRET not in text


class _Refuses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """Of a server that refuses every request."""
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    "place", ["127.0.0.1:{free}", "127.0.0.1:{refusing}", "127.0.0.1", "127.0.0.1:port", "x@127.0.0.1", ""]
)
def test_no_word_about_prefects_server_shows_its_password(
    place: str, o9: O9Command, store_url: str, refusing_port: int, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place.format(free=free_port(), refusing=refusing_port)
    monkeypatch.setattr(prefect_server, "REACH_SECONDS", 0.3)
    database = f"postgresql+asyncpg://ann:{SECRET}@127.0.0.1/prefect?password={SECRET}"
    with (
        temporary_settings({PREFECT_API_URL: f"http://ann:{SECRET}{where and '@'}{where}/api"}),
        Store(store_url) as store,
    ):
        told = [said(o9("doctor")), said(o9("doctor", "--json")), where_prefect_records()]
        told.append(raised(lambda: asyncio.run(prefect_server.ensure_prefect_server())))
        if "{" in place:  # else Prefect's client itself cannot be made
            told.append(raised(lambda: asyncio.run(reconcile(store, "node", request=control_of(store).request))))
    with temporary_settings({PREFECT_API_URL: None, PREFECT_API_DATABASE_CONNECTION_URL: database}):
        told.append(where_prefect_records())
    for text in (*told, logged.getvalue()):
        assert SECRET not in text

"""Prefect's pages of the local server: what is public, what only the owner sees, and how `o9 open` logs in."""

from __future__ import annotations

import base64
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import httpx
import o9_testing
import pytest
from command_line import O9Command, command_in, create
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from o9.aggregator.prefect_server_process import LOGIN
from o9.model.settings import settings
from o9.store.store import Store

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def o9(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[O9Command]:
    yield command_in(tmp_path, capsys, monkeypatch)
    settings.cache_clear()


def test_the_pages_are_served_and_the_api_wants_the_string() -> None:
    server = o9_testing.session_server()
    root = server.api_url.removesuffix("/api")
    with httpx.Client(base_url=root, follow_redirects=True) as client:
        page = client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
        assert client.get("/ui-settings").json()["api_url"] == server.api_url
        assert client.get(LOGIN).status_code == 200
        assert server.auth_string not in client.get(LOGIN).text
        assert client.get("/api/admin/version").status_code == 401


def test_open_writes_the_address_into_a_file_of_the_owners(o9: O9Command) -> None:
    server = o9_testing.session_server()
    told = o9("open", "--no-browser")
    page = Path(unquote(urlparse(told.out.strip()).path))
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    key = base64.b64encode(server.auth_string.encode()).decode()
    assert f"{server.api_url.removesuffix('/api')}{LOGIN}#{key}|/" in page.read_text()


def test_what_never_ran_has_no_page(o9: O9Command, store_url: str) -> None:
    o9_testing.session_server()
    with Store(store_url) as store:
        create(store, "waits")
    told = o9("open", "waits", "--no-browser", "--store", store_url)
    assert (told.code, "waits" in told.err) == (1, True)


@pytest.mark.slow
@pytest.mark.long  # a minute; the page itself is asked for by HTTP above
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="on Debian: apt-get install chromium chromium-driver")
def test_a_browser_that_comes_by_it_is_let_in(o9: O9Command, wait_until: object) -> None:
    server = o9_testing.session_server()
    address = o9("open", "--no-browser").out.strip()
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser.get(address)
        assert callable(wait_until)
        wait_until(lambda: "Dashboard" in browser.title, 60)
        kept = browser.execute_script("return localStorage.getItem('prefect-password')")
        assert base64.b64decode(kept).decode() == server.auth_string
        browser.get(f"{server.api_url.removesuffix('/api')}{LOGIN}#d3Jvbmc=|/")
        wait_until(lambda: "o9 open" in browser.page_source.partition("<script")[0], 60)
        assert browser.execute_script("return localStorage.getItem('prefect-password')") == kept
    finally:
        browser.quit()

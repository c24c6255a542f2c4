"""Reports of real optimizations in a real browser: no request, no foreign script, all plots drawn, whole at any width.

Needs Chromium and its driver from the system (Debian: `apt-get install chromium chromium-driver`); without them the
structure of the page is tested still, in `tests/unit/test_report_page.py`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import o9_testing
import pytest
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.chrome.service import Service

from o9.health.checker import OptimizationHealthChecker
from o9.report.write import report_of, report_of_all, write
from o9.store.store import Store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = [package for package, found in (("chromium", CHROMIUM), ("chromium-driver", DRIVER)) if not found]
pytestmark = [
    pytest.mark.xdist_group("browser"),  # one process makes the reports and starts Chromium, once
    pytest.mark.skipif(
        bool(MISSING), reason=f"no Chromium with its driver; on Debian: apt-get install {' '.join(MISSING)}"
    ),
]
NARROW, WIDE = 390, 1440
CHINESE = "横截面动量 · 沪深300 🚀"
HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
SPACE = {
    "快线": {"type": "int", "low": 2, "high": 40},
    "stop": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    HOSTILE: {"type": "categorical", "choices": ["long", HOSTILE, "长"]},
}
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def crossover(parameters: dict[str, Any]) -> Any:
    from OptimizationStateAggregator import Evaluation

    if parameters["快线"] % 13 == 5:
        raise ValueError(HOSTILE)
    random = np.random.default_rng(parameters["快线"])
    market = np.random.default_rng(0).normal(0.0003, 0.01, 500)
    returns = 0.5 * market + random.normal(0.0002, 0.005, 500)
    later = random.normal(0.0002, 0.005, 120)
    value = float(returns.mean() / returns.std() * 252**0.5)
    return Evaluation(
        value, returns=returns, periods_per_year=252, hold_out_returns=later, baseline_returns=market,  # type: ignore[arg-type]
        baseline_hold_out_returns=later / 2,  # type: ignore[arg-type]
        metrics={"out_of_sample_annual_volatility_of_the_worst_fold": 0.1, "turnover": 2.0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of a store in which two optimizations ran and one waits."""
    folder = tmp_path_factory.mktemp("reports")
    store_url = str(folder / "store.db")
    ids = asyncio.run(_run(store_url))
    asyncio.run(_judge(store_url, ids[0]))
    with Store(store_url) as store:
        reports = {name: report_of(store, [name]) for name in ids}
        reports |= {"both": report_of(store, ids[:2]), "all": report_of_all(store)}
    return {name: write(text, folder / f"{place}.html") for place, (name, text) in enumerate(reports.items())}


async def _run(store_url: str) -> list[str]:
    from OptimizationStateAggregator import OptimizationStateAggregator, objective

    o9_testing.session_server()

    @objective("report-crossover", search_space=SPACE)
    async def of_the_test(parameters: dict[str, Any]) -> Any:
        return crossover(parameters)

    fields: dict[str, Any] = {"objective": "report-crossover", "seed": 5, "trials_per_step": 20, "sampler": "random"}
    plan = {"chinese": CHINESE, "hostile": HOSTILE}
    async with OptimizationStateAggregator(storage_path=store_url, monitoring_interval=0.1) as aggregator:
        for name, title in plan.items():
            await aggregator.submit_optimization(
                o9_testing.new(name, name=title, total_steps=2, baseline_performance=0.5, **fields)
            )
        for name in plan:
            state = await o9_testing.ended(aggregator, name)
            assert state.status.value == "completed", state.issues
        await aggregator.lifecycle_manager.create_optimization(o9_testing.new("held", name="Held back", **fields))
    return [*plan, "held"]


async def _judge(store_url: str, name: str) -> None:
    with Store(store_url) as store:
        checker = OptimizationHealthChecker(store=store)
        await checker.initialize()
        await checker.check_optimization_health(name)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def opened(browser: webdriver.Chrome, page: Path, width: int, wait_until: Any) -> None:
    """Open `page` in a window of this width, and wait until all of it is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    logged(browser)
    browser.get(page.as_uri())
    drawn = "return document.documentElement.dataset.drawn || !document.querySelector('.plot')"
    wait_until(lambda: browser.execute_script(drawn), 60)


def logged(browser: webdriver.Chrome) -> tuple[list[str], list[str]]:
    """What was requested, and what was complained of, since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"].startswith("file:")
    ]
    return asked, [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


LOOK = """
const shown = (element) => element.getBoundingClientRect();
const texts = [...document.querySelectorAll('.plot text')].filter((text) => text.textContent.trim());
return {
  wide: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,
  plots: [...document.querySelectorAll('.plot')].map((plot) => ({
    id: plot.id, drawn: plot.dataset.drawn === 'yes', wide: shown(plot).width, high: shown(plot).height,
    svg: [...plot.querySelectorAll('.main-svg')].slice(0, 1).map((svg) => [shown(svg).width, shown(svg).height])[0],
    marks: plot.querySelectorAll('.point, .points path, .bars path, .js-line, .boxes path, path.box').length,
  })),
  smallest: Math.min(...texts.map((text) => parseFloat(getComputedStyle(text).fontSize))),
  missing: [...document.querySelectorAll('.missing')].map((element) => element.textContent),
  titles: [...document.querySelectorAll('h1')].map((title) => title.textContent.trim()),
  names: [...document.querySelectorAll('.multiples h3')].map((title) => title.textContent.trim()),
  ticks: [...document.querySelectorAll('.plot .ytick text, .plot .xtick text')].map((text) => text.textContent),
  scripts: document.scripts.length, pictures: document.images.length, pwned: window.pwned === undefined,
  sharing: document.querySelectorAll('[data-title*="loud"], [data-title*="hare"], a[href^="http"]').length,
};
"""


@pytest.mark.parametrize(
    ("name", "width"),
    [("chinese", NARROW), ("hostile", NARROW), ("both", WIDE), ("held", NARROW), ("all", WIDE)],
)
def test_a_report_is_whole_and_legible_and_asks_for_nothing(
    browser: webdriver.Chrome, pages: dict[str, Path], wait_until: Any, name: str, width: int
) -> None:
    opened(browser, pages[name], width, wait_until)
    seen = browser.execute_script(LOOK)
    asked, complaints = logged(browser)
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {pages[name].as_uri()}
    assert complaints == []
    assert seen["wide"] <= seen["window"] <= width
    expected = {"chinese": 10, "hostile": 10, "held": 1, "both": 20, "all": 0}[name]
    assert len(seen["plots"]) == expected
    for plot in seen["plots"]:
        assert plot["drawn"], plot
        assert plot["marks"] > 0, plot
        assert plot["svg"] == pytest.approx([plot["wide"], plot["high"]], abs=1), plot
        assert plot["wide"] <= width, plot
    assert not expected or seen["smallest"] >= 11
    assert sum("Not drawn." in reason for reason in seen["missing"]) == {"held": 7, "all": 1}.get(name, 0)
    assert seen["pwned"]
    assert (seen["scripts"], seen["pictures"], seen["sharing"]) == (3 if expected else 0, 0, 0)
    if name in ("chinese", "hostile"):
        assert seen["titles"] == [CHINESE if name == "chinese" else HOSTILE]
        assert "快线" in seen["names"]
        assert {"快线", "长"} <= set(seen["ticks"])


def test_without_scripts_it_is_read_all_the_same(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["chinese"].as_uri())
        told = browser.find_element("tag name", "main").text
        hidden = browser.find_element("class name", "plot").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not hidden
    for sentence in (
        CHINESE,
        "Plots need JavaScript",
        "The best value",
        "What to expect",
        "turned 1 into",
        "Key figures",
    ):
        assert sentence in told


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext; on Debian: apt-get install poppler-utils")
def test_printed_as_soon_as_it_is_loaded_it_has_every_plot(pages: dict[str, Path], tmp_path: Path) -> None:
    printed = tmp_path / "report.pdf"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, "--disable-dev-shm-usage", profile, f"--print-to-pdf={printed}"]
    subprocess.run([*command, pages["both"].as_uri()], check=True, capture_output=True, timeout=120)
    told = subprocess.run(["pdftotext", str(printed), "-"], check=True, capture_output=True, text=True).stdout
    for title in (
        "Sharpe ratio a year", "claimed in sample", "trial", "share of the variance of ranks", "stop", "years",
        "drawdown", "trials", "rank out of sample (logit)", "splits",
    ):  # fmt: skip
        assert told.splitlines().count(title) >= 2, title


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_follows_the_reader_s_light_and_dark(
    browser: webdriver.Chrome, pages: dict[str, Path], wait_until: Any, scheme: str, dark: bool
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(browser, pages["chinese"], WIDE, wait_until)
    colours = browser.execute_script(
        "const of = (selector, name) => getComputedStyle(document.querySelector(selector))[name];"
        "return [of('html', 'backgroundColor'), of('html', 'color'), of('.plot .xtick text', 'fill'),"
        " of('.verdict .why', 'color')]"
    )
    paper, *inks = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
    assert (paper < 50) is dark
    assert all(abs(ink - paper) > 100 for ink in inks)


def test_its_policy_stops_whatever_would_ask_or_run(
    browser: webdriver.Chrome, pages: dict[str, Path], wait_until: Any
) -> None:
    opened(browser, pages["hostile"], WIDE, wait_until)
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.pwned = 1';"
        "document.body.append(script);"
        "const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(image);"
    )
    with pytest.raises(JavascriptException, match="Failed to fetch"):
        browser.execute_async_script(
            "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(done, (error) => { throw error })"
            ".catch((error) => done(Promise.reject(error)))"
        )
    assert browser.execute_script("return window.pwned === undefined")
    _, complaints = logged(browser)
    assert sum("Content Security Policy" in complaint for complaint in complaints) >= 3

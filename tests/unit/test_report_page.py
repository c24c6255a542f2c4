"""The page as HTML: it makes no requests, no text in it becomes a script, and it says everything in words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_steps import put
from traded import CHINESE, PARAMETER, noise, trade

from o9.health.checker import OptimizationHealthChecker
from o9.model.errors import OptimizationError
from o9.model.optimization import utc_now
from o9.model.states import OptimizationStatus
from o9.report.facts import read_all
from o9.report.page import script_json
from o9.report.write import file_name, report_of, report_of_all, write
from o9.store.store import Store

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202egnp.exe"
REFERENCES = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background", "cite", "ping"}
NEVER_CLOSED = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser without scripts would find."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def plots(self) -> dict[str, Any]:
        return next((json.loads(text) for attributes, text in self.scripts if attributes.get("id") == "o9-plots"), {})

    @property
    def policy(self) -> str:
        return next(
            attributes["content"] or ""
            for tag, attributes in self.elements
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )


def checked(text: str) -> Page:
    """The page, which needs no network and runs nothing but what its policy names."""
    page = Page(text)
    assert text.startswith("<!doctype html>")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in REFERENCES & attributes.keys():
            assert str(attributes[name]).startswith(("#", "data:,")), (tag, attributes)
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "form", "base", "img"} == set()
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run}
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert set(rules["script-src"].split()) == (hashes or {"'none'"})
    assert len(run) == (2 if page.plots else 0)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(page.plots) == {name for name in ids if name and name.startswith("plot-")}
    return page


def has(page: Page, *sentences: str) -> None:
    for sentence in sentences:
        assert sentence in page.text, sentence


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url) as opened:
        yield opened


# One optimization


def test_the_verdict_stands_on_top_and_every_figure_is_told(store: Store) -> None:
    market = np.random.default_rng(9).normal(0.0003, 0.01, 600)
    trade(store, "trend-1", noise(600), 60, name=CHINESE, failing=2, baseline=market, target_performance=9.0)
    page = checked(report_of(store, ["trend-1"]))
    body = page.text.partition("Optimization report")[2]
    order = [CHINESE, "UNPROVEN", "What to expect", "What the verdict is based on", "Key figures", "Health",
             "History of the trials",
             "Which parameters mattered", "The value along each parameter", "Equity curve and drawdown of the best",
             "Sharpe ratios of all trials, and luck", "Is the best in sample also good out of sample?", "Timeline",
             "The best parameters", "Errors and warnings", "How this was computed"]  # fmt: skip
    places = [body.index(title) for title in order]
    assert places == sorted(places)
    has(
        page, "Luck can explain this result.", "Do not trade on it", "Forecast Sharpe ratio", "not reached",
        "60 2 failed", "alpha over the baseline, beta",
        "Deflated Sharpe ratio", "Track record needed", "Backtest needed", "ValueError: no data",
        PARAMETER, "In sample, 2.4 years: the best turned 1 into",
    )  # fmt: skip
    assert len(page.plots) == 10


def test_what_is_not_known_is_said_in_its_place(store: Store) -> None:
    put(store, "waiting", name="Not begun")
    page = checked(report_of(store, ["waiting"]))
    has(page, "UNPROVEN", "The ledger has no trials", "no result yet", "baseline_performance is not set")
    assert page.text.count("Not drawn.") == 7
    assert len(page.plots) == 1  # of its life


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        pytest.param(lambda n, r: None, "the best, has no returns", id="none"),
        pytest.param(lambda n, r: np.full(300, 0.001), "never vary", id="constant"),
        pytest.param(lambda n, r: np.where(np.arange(300) == 7, np.nan, r.normal(size=300)), "not finite", id="nan"),
        pytest.param(lambda n, r: r.normal(0, 0.01, 300 + n), "no returns over the same periods", id="lengths"),
        pytest.param(lambda n, r: np.zeros(0), "no returns", id="empty"),
        pytest.param(lambda n, r: r.normal(0, 0.01, 2), "too few", id="two"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the test's own arithmetic on such returns
def test_poor_returns_are_unknown_with_the_reason(store: Store, returns: Any, told: str) -> None:
    trade(store, "poor", returns, 40)
    page = checked(report_of(store, ["poor"]))
    has(page, "UNPROVEN", told, "The best value", "History of the trials")
    assert "nan" not in json.dumps(page.plots).lower().replace("finance", "")


def test_one_trial_is_a_report_too(store: Store) -> None:
    trade(store, "one", noise(500), 1)
    page = checked(report_of(store, ["one"]))
    has(
        page,
        "1 trial has a value, and none beat the first",
        "30 are needed",
        "at least two are needed",
    )


def test_text_of_others_stays_text(store: Store) -> None:
    hostile = {"objective": HOSTILE, "sampler": HOSTILE}
    fields: dict[str, Any] = {"name": HOSTILE, "description": HOSTILE, "metadata": hostile}
    trade(store, HOSTILE, noise(200), 40, failing=3, error=HOSTILE, **fields)
    text = report_of(store, [HOSTILE])
    page = checked(text)
    assert "<script>window" not in text
    assert "\u202e" not in text
    assert page.text.count("</script><script>window.pwned=1</script><img src=x") >= 6
    has(page, "{{ 7 * 7 }}\\u202egnp.exe")
    assert [tag for tag, _ in page.elements].count("title") == 1


def test_several_optimizations_share_a_page_and_one_plotly(store: Store) -> None:
    trade(store, "first", noise(200), 40, name="甲")
    trade(store, "second", noise(200), 40, name="乙", end=None)
    text = report_of(store, ["first", "second"])
    page = checked(text)
    assert text.count("* plotly.js v") == 1
    assert [attributes["id"] for tag, attributes in page.elements if tag == "article"] == ["o1", "o2"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#o1", "#o2"]
    has(page, "2 optimizations", "甲", "乙", "Not shown to be more than luck, so far")


def test_an_id_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(OptimizationError, match="no optimization 'nothing'"):
        report_of(store, ["nothing"])


@pytest.mark.slow
def test_50_000_trials_are_a_page_of_a_few_megabytes(store: Store) -> None:
    trade(store, "many", lambda n, r: None, 50_000, per_step=10_000)
    text = report_of(store, ["many"])
    assert len(text.encode()) < 6_500_000  # although every trial was better than all before
    has(checked(text), "values are drawn", "1,200 of 50,000 trials are drawn")


def test_what_of_the_ledger_was_not_looked_at_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trade(store, "long", noise(100), 30)
    monkeypatch.setattr("o9.health.facts.MOST_TRIALS", 12)
    has(checked(report_of(store, ["long"])), "The first 12 of 30 trials; the later ones are only counted")


# All of them


async def test_the_page_of_all_counts_ranks_and_judges(store: Store) -> None:
    trade(store, "done-1", noise(200), 40, name=CHINESE)
    trade(store, "done-2", noise(200), 20, name=HOSTILE, end=OptimizationStatus.FAILED)
    trade(store, "busy-1", noise(200), 20, end=None)
    put(store, "waiting-1")
    checker = OptimizationHealthChecker(store=store)
    await checker.initialize()
    await checker.check_optimization_health("done-1")
    text = await asyncio.to_thread(report_of_all, store)
    page = checked(text)
    has(
        page, "By status, now completed 1 created 1 failed 1 running 1", "50%", "UNPROVEN", "not judged yet", CHINESE,
        "created 1, the longest for",
        "Improvement over the baseline", "Everything ended within one hour", "parameter tuning",
    )  # fmt: skip
    assert page.text.count("not judged yet") == 3
    assert "<script>window" not in text


def test_the_page_of_nothing_says_so(store: Store) -> None:
    page = checked(report_of_all(store))
    has(page, "No optimizations", "No optimization is waiting or running", "Nothing has ended yet", "o9 demo")
    assert not page.plots


def test_trends_are_drawn_where_there_are_windows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trade(store, "done", noise(50), 5)
    later = utc_now() + timedelta(days=3)
    monkeypatch.setattr("o9.statistics.statistics.utc_now", lambda: later)
    found = read_all(store, later)
    assert found.trends["window"] == "day"
    monkeypatch.setattr("o9.report.write.utc_now", lambda: later)
    page = checked(report_of_all(store))
    has(page, "By day, from", "needs 5")
    assert len(page.plots) == 4


def test_what_is_left_out_of_the_list_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(store, f"many-{number}")
    monkeypatch.setattr("o9.report.facts.NEWEST", 2)
    page = checked(report_of_all(store))
    has(page, "The newest 2 of 5; 3 older ones are only counted above", "created 5, the longest for")


# Files


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        ([], "o9-report.html"),
        (["trend-7.b_1"], "o9-report-trend-7.b_1.html"),
        (["动量 一号"], r"o9-report-动量-一号-\w{6}.html"),
        (["../../etc/passwd"], r"o9-report-..-..-etc-passwd-\w{6}.html"),
        (["长" * 500], r"o9-report-长{50}-\w{6}.html"),
        (["a", "b", "c"], r"o9-report-a-and-2-more-\w{6}.html"),
        (["///"], r"o9-report-\w{6}.html"),
    ],
)
def test_a_file_s_name_is_safe_and_its_own(ids: list[str], name: str) -> None:
    assert re.fullmatch(name.replace("..-..", r"\.\.-\.\."), file_name(ids)), file_name(ids)
    assert len(file_name(ids).encode()) <= 255
    assert os.sep not in file_name(ids)


def test_other_ids_have_other_files() -> None:
    ids = ["a/b", "a b", "a-b", "A-b", "a\tb"]
    assert len({file_name([name]) for name in ids}) == len(ids)


def test_a_report_is_written_over_and_no_other_file_is(tmp_path: Path, store: Store) -> None:
    page = report_of_all(store)
    target = tmp_path / "r.html"
    assert write(page, target) == target.resolve()
    assert write(page + " ", target).read_text(encoding="utf-8") == page + " "
    (tmp_path / "notes.html").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name, why in (("notes.html", "not an O9 report"), ("folder", "a folder"), ("none/r.html", "does not exist")):
        with pytest.raises(OptimizationError, match=why):
            write(page, tmp_path / name)
    with pytest.raises(OptimizationError, match="not a regular file"):
        write(page, Path("/dev/null"))
    assert (tmp_path / "notes.html").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} >= {"r.html", "notes.html", "folder"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, store: Store) -> None:
    target = write(report_of_all(store), tmp_path / "r.html")
    before = target.read_text(encoding="utf-8")
    script = (
        "import resource, sys; from pathlib import Path; from o9.report.write import write\n"
        "from o9.model.errors import OptimizationError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write('x' * 1_000_000, Path(sys.argv[1]))\n"
        "except OptimizationError as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "File too large; choose another place" in told.stdout
    assert target.read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".db" and "store" not in path.name] == ["r.html"]


def test_json_cannot_end_the_script_that_holds_it() -> None:
    document = {"a": "</script><!--", "b": "\u2028&\udc80横"}
    text = script_json(document)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text)["a"] == document["a"]
    assert "横" in text
    with pytest.raises(ValueError, match="JSON"):
        script_json({"a": float("nan")})

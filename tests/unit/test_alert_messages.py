"""Messages: what they say, that they fit, and that nothing which others wrote does harm in them."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from alert_samples import NOW, alert, notice, samples
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from o9.alerts.messages.markdown import markdown_text
from o9.alerts.messages.render import Form, Message, checked_link
from o9.alerts.pipeline.alert import Alert, NoticeKind
from o9.text.cut import ELLIPSIS, cut, cut_lines, size
from o9.text.escape import chat_line, chat_lines

# What people read


@pytest.mark.parametrize(
    ("sample", "title"),
    [
        ("one alert", "[CRITICAL] Drawdown limit breached: momentum-us"),
        ("an alert of no optimization", "[INFO] Store away"),
        ("a group of 14", "[CRITICAL] 14 alerts firing, 2 resolved"),
        ("4 of 14 are new", "[CRITICAL] 4 alerts new, 1 resolved, 10 known"),
        ("resolved", "[RESOLVED] Drawdown limit breached: momentum-us"),
    ],
)
def test_the_title_says_how_bad_what_and_where(sample: str, title: str) -> None:
    assert Message(samples()[sample]).title == title


@pytest.mark.parametrize(
    ("kind", "badge"), [("flapping", "FLAPPING"), ("escalation", "ESCALATED"), ("repeat", "STILL FIRING")]
)
def test_the_title_says_why_it_is_sent_again(kind: str, badge: str) -> None:
    told = Message(replace(samples()["one alert"], kind=NoticeKind(kind)))
    assert told.title == f"[CRITICAL, {badge}] Drawdown limit breached: momentum-us"
    group = Message(replace(samples()["a group of 14"], kind=NoticeKind(kind), resolved=()))
    assert group.title == f"[CRITICAL, {badge}] 14 alerts firing"


def test_a_group_of_one_title_is_called_by_it() -> None:
    three = [alert(optimization=f"trend-{n}") for n in range(3)]
    assert Message(notice(*three[:2], resolved=(three[2],))).title == "[ERROR] Trials fail (2 firing, 1 resolved)"


def test_a_name_stands_beside_the_id_and_a_series_in_the_title_of_its_group() -> None:
    labels = {"title": "Trials fail", "level": "error", "optimization": "carry-7f3a", "rule": "failed"}
    run = replace(alert(optimization="carry-7f3a"), labels=labels | {"name": "carry-2026-01-30", "series": "carry"})
    assert Message(notice(run)).title == "[ERROR] Trials fail: carry-2026-01-30 · carry-7f3a"
    assert "- Optimization: carry-2026-01-30 · carry-7f3a\n- Since" in Message(notice(run)).body()
    of_all = replace(run, labels={"title": "Trials fail", "level": "error", "series": "carry", "rule": "failed"})
    assert Message(notice(of_all)).title == "[ERROR] Trials fail: carry · carry-7f3a"
    unnamed = replace(run, labels=labels | {"name": "carry-7f3a", "series": "carry-7f3a"})
    assert Message(notice(unnamed)).title == "[ERROR] Trials fail: carry-7f3a"
    group = replace(notice(run, unnamed), group_labels={"title": "Trials fail", "level": "error", "series": "carry"})
    assert Message(group).title == "[ERROR] Trials fail: carry (2 firing)"


def test_what_differs_by_labels_alone_is_told_apart_everywhere() -> None:
    books = [
        replace(
            alert("Drawdown", optimization=""), alert_id=book,
            labels={"title": "Drawdown", "level": "error", "venue": "XNYS\n\x1b[31m", "book": book},
        )
        for book in "abc"
    ]  # fmt: skip
    assert Message(notice(books[0])).title == r"[ERROR] Drawdown (book=a, venue=XNYS \x1b[31m)"
    for form in Form:
        told = Message(notice(*books)).body(form)
        assert all(f"(book={book}, venue=XNYS" in told for book in "abc")
        assert "\x1b" not in told
        assert "book=a, venue=XNYS" in Message(notice(books[0])).body(form)


def test_labels_that_are_said_otherwise_are_not_said_again_and_long_ones_are_cut() -> None:
    labels = {"title": "Trials fail", "level": "error", "optimization": "trend-7", "rule": "failed"}
    long = {f"label {n:02}": "v" * 1_000 for n in range(20)}
    assert "Labels" not in Message(notice(replace(alert(), labels=labels))).body()
    assert "- Labels: title=other\n" in Message(notice(replace(alert(), labels={**labels, "title": "other"}))).body()
    (told,) = re.findall("- Labels: .*", Message(notice(replace(alert(), labels={**labels, **long}))).body())
    assert told.startswith("- Labels: label 00=vvvv")
    assert 100 < len(told) <= 10 + 160


def test_one_alert_in_plain_text() -> None:
    assert Message(samples()["one alert"]).body() == (
        "The best trial has lost 23.4% from its peak; metadata.risk_limits allows 20%.\n"
        "\n"
        "- Optimization: momentum-us\n"
        "- Since: 2026-01-30 14:01:00 UTC, for 4 min\n"
        "- Labels: desk=systematic\n"
        "- Figures: drawdown 0.2341; limit 0.2; trial 118\n"
        "- What to do: halve the leverage, or take the next best trial within the limit\n"
        "- Link: https://o9.example.com/optimizations/0\n"
        "- Command: o9 show momentum-us"
    )


@pytest.mark.parametrize("form", list(Form))
def test_every_form_says_what_where_since_when_how_much_and_what_to_do(form: Form) -> None:
    told = Message(samples()["one alert"]).body(form)
    for each in ("has lost 23.4%", "momentum-us", "14:01:00 UTC, for 4 min", "drawdown", "0.2341", "halve the leverage",
                 "https://o9.example.com/optimizations/0", "o9 show momentum-us"):  # fmt: skip
        assert each in told
    assert ("CRITICAL" in told) == (form is Form.PAGE), "else the title says it"


@pytest.mark.parametrize("form", list(Form))
def test_a_group_shows_the_first_ten_and_how_many_more(form: Form) -> None:
    told = Message(samples()["a group of 14"]).body(form)
    shown = re.findall(r"https://o9\.example\.com/optimizations/(\d+)(?=[\s>)])", told.replace('"', " "))
    assert len(set(shown)) == 10
    assert "and 6 more" in told
    assert "Firing: 3 critical, 3 error, 8 warning. Resolved: 1 critical, 1 warning." in told


@pytest.mark.parametrize("form", list(Form))
def test_of_a_group_the_news_are_shown_first(form: Form) -> None:
    told = Message(samples()["4 of 14 are new"]).body(form)
    shown = re.findall(r"https://o9\.example\.com/optimizations/(\d+)(?=[\s>)])", told.replace('"', " "))
    assert list(dict.fromkeys(shown))[:5] == ["0", "1", "3", "2", "14"]
    assert [told.count(f"{each}, NEW") for each in ("CRITICAL", "ERROR", "WARNING", "RESOLVED")] == [1, 1, 2, 0]
    news = "New: 1 critical, 1 error, 2 warning. Resolved: 1 warning. Known: 2 critical, 2 error, 6 warning."
    assert news in told


def test_what_is_over_is_among_those_that_are_shown_of_hundreds() -> None:
    known = tuple(replace(alert(optimization=f"trend-{n}"), alert_id=f"a{n}") for n in range(443))
    over = replace(alert(optimization="carry-fx"), alert_id="over", ends_at=NOW)
    told = Message(replace(notice(*known, resolved=(over,)), known=443))
    assert told.title == "[ERROR] Trials fail (1 resolved, 443 known)"
    assert told.body().startswith("Resolved: 1 error. Known: 443 error.\n\n1. RESOLVED Trials fail: carry-fx\n")


def test_what_is_over_says_so_and_asks_for_nothing() -> None:
    told = Message(samples()["resolved"]).body()
    assert "14:01:00 UTC, ended after 4 min" in told
    assert "What to do" not in told


@pytest.mark.parametrize(
    ("kind", "reason", "first"),
    [
        ("flapping", "it changed 6 times in 10 min", "It changed 6 times in 10 min."),
        ("escalation", "not acknowledged for 30 min", "Not acknowledged for 30 min."),
    ],
)
def test_why_it_is_told_stands_first_where_that_is_the_news(kind: str, reason: str, first: str) -> None:
    told = Message(replace(samples()["one alert"], kind=NoticeKind(kind), reason=reason)).body()
    assert told.startswith(first)
    assert "Why now" not in told


def test_why_it_is_sent_is_said_where_it_is_no_news() -> None:
    one = replace(samples()["one alert"], reason="it still fires")
    assert "Why now" not in Message(one).body()
    assert Message(replace(one, kind=NoticeKind.REPEAT)).body().endswith("\nWhy now: it still fires")
    assert Message(replace(one, may_be_double=True)).body().endswith("\nWhy now: it still fires")


def test_a_command_that_the_remedy_names_is_said_once() -> None:
    told = Message(notice(alert(remedy="`o9 show trend-7` shows what happened"))).body()
    assert told.count("o9 show trend-7") == 1


def test_a_remedy_that_the_message_ends_with_is_said_once() -> None:
    told = Message(notice(alert(message="trials fail: mend the objective", remedy="mend the objective"))).body()
    assert told.startswith("trials fail\n")
    assert told.count("mend the objective") == 1


def test_what_is_to_be_typed_is_code_in_html() -> None:
    one = alert(remedy="run `o9 show <x>`; a ` alone is none")
    assert "run <code>o9 show &lt;x&gt;</code>; a ` alone is none</li>" in Message(notice(one)).body(Form.HTML)
    assert "run `o9 show <x>`" in Message(notice(one)).body()


@pytest.mark.parametrize("form", list(Form))
def test_a_remedy_that_all_have_is_said_once(form: Form) -> None:
    ways = [alert(optimization=f"trend-{n}", remedy=f"o9 retry trend-{n} runs it again") for n in (1, 10)]
    told = Message(notice(*ways)).body(form)
    assert told.count("runs it again") == told.count("o9 retry ID runs it again") == 1
    told = Message(notice(*ways, alert(remedy="look at the venue"))).body(form)
    assert all(each in told for each in ("o9 retry trend-1 ", "o9 retry trend-10 ", "look at the venue"))
    one = Message(notice(ways[0], resolved=(replace(ways[1], ends_at=NOW),))).body(form)
    assert one.count("o9 retry trend-1 runs it again") == one.count("runs it again") == 1


TRACEBACK = """Traceback (most recent call last):
  File "objective.py", line 3, in objective
    return prices[window]
           ~~~~~~^^^^^^^^
"""


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        (f"It broke: {TRACEBACK}KeyError: 'window'", "It broke: KeyError: 'window'"),
        (
            f"{TRACEBACK}KeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n"
            f"{TRACEBACK}ValueError: bad\nmore of it",
            "ValueError: bad more of it",
        ),
        (f"It broke: {TRACEBACK}", "It broke:"),
    ],
)
def test_of_a_traceback_a_group_shows_the_error(text: str, brief: str) -> None:
    told = Message(notice(alert(message=text), alert(message="other"))).body()
    assert brief in [each.strip() for each in told.split("\n")]


def test_figures_that_only_say_what_it_is_about_are_not_shown() -> None:
    figures = {"failed": 1.0, "trials": 40.0}
    assert "- Figures: trials 40\n" in Message(notice(alert(rule="failed", evidence=figures))).body()
    assert "- Figures: failed 1; trials 40\n" in Message(notice(alert(evidence=figures))).body()
    assert "- Figures: failed 3\n" in Message(notice(alert(rule="mine", evidence={"failed": 3}))).body()


def test_a_link_comes_from_the_alert_or_from_the_pattern() -> None:
    desk = "https://desk.example/o9/{optimization}?alert={alert}"
    about = Message(notice(alert(optimization="trend/7 x")), link=desk)
    assert "https://desk.example/o9/trend%2F7%20x?alert=a" in about.body()
    own = alert(link="https://elsewhere.example/7")
    assert "https://elsewhere.example/7" in Message(notice(own), link=desk).body()


def test_the_pages_of_its_run_and_report_stand_beside_the_link() -> None:
    run, report = "https://prefect.example/runs/flow-run/1", "https://o9.example/api/v1/optimizations/a/report"
    told = Message(notice(alert(link="https://elsewhere.example/7", run=run, report=report))).body()
    assert f"- Run: {run}\n- Report: {report}\n- Link: https://elsewhere.example/7\n" in told
    assert f"   {run}\n   {report}\n" in Message(notice(alert(run=run, report=report), alert())).body()
    assert "Run" not in Message(notice(alert(run="javascript:alert(1)"))).body()


@pytest.mark.parametrize("link", ["javascript:alert(1)", "ftp://a.example", "desk", "https://", "https:// a"])
def test_what_is_no_address_of_a_page_is_no_link(link: str) -> None:
    assert "Look" not in Message(notice(alert(link=link))).body()
    with pytest.raises(ValueError, match="expected a URL"):
        checked_link(link)


def test_a_command_is_safe_to_paste() -> None:
    assert "o9 show 'a; rm -rf ~'" in Message(notice(alert(optimization="a; rm -rf ~"))).body()


# How long it may be


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(0, 80))
def test_a_cut_text_fits_and_ends_behind_a_whole_character(text: str, limit: int) -> None:
    told = cut(text, limit)
    assert size(told) <= limit
    assert text.startswith(told.removesuffix(ELLIPSIS))
    assert size(text) > limit or told == text


@pytest.mark.parametrize("text", ["\U0001f600" * 50, "ab" * 100, "中" * 100])
def test_a_cut_keeps_as_much_as_fits(text: str) -> None:
    assert 39 <= size(cut(text, 40)) <= 40


def test_size_is_what_services_count_at_most() -> None:
    assert (size("a"), size("é"), size("中"), size("\U0001f600"), size("a\U0001f600")) == (1, 1, 1, 2, 3)


def test_lines_are_kept_whole() -> None:
    assert cut_lines("**one**\n\n**two**\n**three**", 20) == f"**one**\n\n**two**\n{ELLIPSIS}"


class Balanced(HTMLParser):
    """Fails at a tag that is not closed, or an attribute in the middle of being cut."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == "br" or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("limit", [30, 140, 300, 1_000, 2_000, 4_096, 35_000])
@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("sample", samples())
def test_a_body_fits_whatever_the_service_takes(sample: str, form: Form, limit: int) -> None:
    told = Message(samples()[sample]).body(form, limit)
    assert size(told) <= limit
    if form in (Form.HTML, Form.PAGE):
        page = Balanced()
        page.feed(told)
        page.close()
        assert not page.open
    else:
        assert told
        assert told.count("**") % 2 == 0


def test_less_room_leaves_out_what_each_says_before_which_they_are() -> None:
    told = Message(samples()["a group of 14"]).body(Form.TEXT, 1_200)
    assert "and 6 more" in told
    assert "halve the leverage" not in told
    assert "https://" not in told


def test_a_long_text_of_one_alert_leaves_room_for_what_to_do() -> None:
    told = Message(notice(alert(message="word " * 1_000, remedy="mend it"))).body(Form.TEXT, 400)
    assert "word…" in told
    assert "What to do: mend it" in told
    assert "o9 show trend-7" in told


@pytest.mark.parametrize("form", list(Form))
def test_a_message_that_is_cut_says_where_all_of_it_is(form: Form) -> None:
    one = replace(alert("A", "word " * 1_000), alert_id="it's-1")
    where = "… (all of it: o9 alerts show 'it'\"'\"'s-1')"

    def told(of: Alert, limit: int | None = None) -> str:
        body = Message(notice(of)).body(form, limit)
        assert limit is None or size(body) <= limit
        return html.unescape(body.replace("\\", ""))

    assert where in told(one)
    if form is not Form.PAGE:
        assert where in told(one, 700)
    assert "all of it" not in told(one, 120), "no room"
    assert "all of it" not in told(replace(one, message="word"))
    assert "all of it" not in told(replace(one, alert_id=""))
    assert "all of it" not in told(replace(one, alert_id="a\nb"))
    assert where in html.unescape(Message(notice(one, alert("B"))).body(form).replace("\\", ""))


def test_a_message_of_a_megabyte_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = notice(
        alert("T" * 1_000_000, "m\u0301" * 1_000_000, remedy="r" * 1_000_000, evidence={"x": "y" * 1_000_000})
    )
    for form in Form:
        assert size(Message(huge).body(form)) < 12_000
    assert size(Message(huge).title) <= 200


# What others wrote


@pytest.mark.parametrize(
    ("evil", "told"),
    [
        ("a\r\nBcc: everybody@example.com", "a Bcc: everybody@example.com"),
        ("a\nb\u2028c\x85d\x0be", "a b c d e"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("half \ud83d of one", r"half \ud83d of one"),
        ("  much   space\t", "much space"),
        (
            "@everyone @here <!channel> <@U1> <at>x</at>",
            "@\u200beveryone @\u200bhere <\u200b!channel> <\u200b@U1> <\u200bat>x<\u200b/at>",
        ),
        ("a@b.example, x < y, @hereafter", "a@b.example, x < y, @hereafter"),
        ("<https://evil.example|look>", "<\u200bhttps://evil.example|look>"),
    ],
)
def test_a_line_is_one_line_and_steers_nothing(evil: str, told: str) -> None:
    assert chat_line(evil) == told


def test_lines_stay_lines() -> None:
    assert chat_lines("\r\na\t\r\nb\n\n\n\nc\x00\n") == "a\nb\n\nc\\x00"


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=80)
TRICKY = st.text(st.sampled_from("*_`~[]()<>#+-=|!\\&\"'@:/ \n\r\t{}%1.)a中\u202e\u0301"), max_size=60)


@pytest.mark.slow
@given(
    ANYTHING | TRICKY,
    ANYTHING | TRICKY,
    ANYTHING | TRICKY,
    st.dictionaries(ANYTHING, ANYTHING | st.floats() | st.none(), max_size=3),
)
@example("", "", "", {})
def test_no_text_breaks_a_message(title: str, text: str, optimization: str, evidence: dict[str, Any]) -> None:
    one = alert(title, text, optimization, remedy=text, link=title, evidence=evidence)
    for told in (
        notice(one),
        notice(one, replace(one, alert_id="b")),
        notice(resolved=(one,), kind=NoticeKind.RESOLVED),
    ):
        written = Message(told)
        title_told = written.title
        assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in title_told)
        for form in Form:
            body = written.body(form)
            assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in body if each != "\n")
        page = Balanced()
        page.feed(written.body(Form.PAGE))
        assert not page.open


@given(TRICKY | ANYTHING)
@example("*bold*, _soft_, `code`, [a](b), <b>, ~~gone~~, # no heading")
@example("1. one\n2) two\n- three\n+ four\n> five\n=== six")
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    written = chat_lines(text)
    assert not re.search(r"@[a-z0-9&]", markdown_text(written), re.IGNORECASE)
    rendered = MarkdownIt("commonmark").enable("strikethrough").render(f"x {markdown_text(written)}")
    shown = html.unescape(re.sub(r"</?p>|<br />", "", rendered)).replace("\u200b", "")
    assert "<" not in re.sub(r"</?p>|<br />", "", rendered)
    written = written.replace("\u200b", "")
    entities = html.unescape(written)  # `&amp;` in a text is no escape of ours
    assert [each.split() for each in shown.split("\n") if each.strip()] in (
        [each.split() for each in f"x {written}".split("\n") if each.strip()],
        [each.split() for each in f"x {entities}".split("\n") if each.strip()],
    )


def test_html_shows_a_text_as_it_is() -> None:
    evil = '<script>alert(1)</script><img src=x onerror="x">'
    told = Message(
        notice(alert(evil, evil, evil, remedy=evil, link='https://x.example/"><script>', evidence={evil: evil}))
    )
    body = told.body(Form.PAGE)
    assert "<script" not in body
    assert "<img" not in body
    assert "https://x.example/%22%3E%3Cscript%3E" in body


def test_metadata_of_any_kind_is_taken() -> None:
    odd = alert(remedy=["x"], link=7, evidence=[1, 2])
    assert "Figures" not in Message(notice(odd)).body()

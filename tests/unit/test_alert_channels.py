"""Channels without a network: what is one, what its answers mean, what hangs, and that no secret ever comes out."""

from __future__ import annotations

import asyncio
import base64
import email.message
import functools
import html
import io
import json
import logging
import smtplib
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import requests
from alert_samples import samples
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from o9.alerts.channels.outcome import LONGEST_WAIT, REASON_LIMIT, Channel, Failed, Sent, failure_of
from o9.alerts.channels.redaction import HIDDEN, Secrets, guarded, redacted, secret_parts
from o9.alerts.channels.registry import BlockChannel, FunctionChannel, LogChannel, built_in_channels, channel_of
from o9.alerts.messages.render import Message
from o9.alerts.pipeline.alert import Notice
from o9.model.errors import OptimizationValidationError
from o9.model.optimization import OptimizationAlert
from o9.user_code.calls import Calls

NOW = datetime(2026, 1, 30, 14, 5, tzinfo=UTC)
ONE, MANY, OVER = samples()["one alert"], samples()["a group of 14"], samples()["resolved"]
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


async def send(channel: Channel, notice: Notice = ONE) -> Sent | Failed:
    return await channel.send(Message(notice), notice)


# What is a channel


class Notifies:
    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def notify(self, body: str, subject: str | None = None) -> None:
        self.told.append((body, subject))


class CallsAsync:
    async def __call__(self, alert: OptimizationAlert) -> None: ...


def plain(alert: OptimizationAlert) -> None: ...


async def coroutine(alert: OptimizationAlert) -> None: ...


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (plain, "FunctionChannel"), (coroutine, "FunctionChannel"), (CallsAsync(), "FunctionChannel"),
        (functools.partial(coroutine), "FunctionChannel"), (lambda alert: None, "FunctionChannel"),
        (Notifies(), "BlockChannel"), (SLACK, "AppriseChannel"), (LogChannel(), "LogChannel"),
    ],
)  # fmt: skip
def test_a_channel_is_a_function_a_url_or_a_block(what: Any, kind: str) -> None:
    assert type(channel_of("desk", what)).__name__ == kind


def test_three_stand_from_the_start() -> None:
    assert list(built_in_channels()) == ["log", "console", "file"]


@pytest.mark.parametrize(
    ("name", "what", "field", "told"),
    [
        ("desk", 7, "channels.desk", "int is not a channel; pass a function"),
        ("desk", Notifies, "channels.desk", "Notifies is a class; pass an instance"),
        ("desk", lambda: None, "channels.desk", "takes (); it must accept exactly one argument"),
        ("desk", lambda a, b: None, "channels.desk", "takes (a, b); it must accept exactly one argument"),
        ("desk", "", "channels.desk", "slack://"),
        ("desk", "desk", "channels.desk", "slack://"),
        ("desk", "nowhere://a/b/c", "channels.desk", "slack://"),
        ("desk", "slak://a", "channels.desk", "slack?"),
        ("desk", "json://", "channels.desk", "Unparseable JSON URL"),
        ("desk", "json://a/\nb", "channels.desk", "none of them a control character"),
        ("desk", "json://a/" + "b" * 9_000, "channels.desk", "at most 8,000 characters"),
        ("desk", "https://hooks.example.com/T0PSECRET", "channels.desk", "jsons://"),
        ("desk", "mqtt://host/topic", "channels.desk", "needs a library for mqtt://"),
        ("", plain, "channels", "cannot be a channel's name"),
        ("a\nb", plain, "channels", "cannot be a channel's name"),
        ("a" * 201, plain, "channels", "cannot be a channel's name"),
    ],
)
def test_what_is_no_channel_is_refused_with_the_field_and_the_remedy(
    name: str, what: Any, field: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        channel_of(name, what)
    assert refused.value.field == field
    assert told in refused.value.problem
    assert "T0PSECRET" not in str(refused.value)
    assert redacted(refused.value.problem) == refused.value.problem, "what it says to write stays readable"
    assert not caplog.records


# What an error means


def http(status: int, headers: dict[str, str] | None = None, body: str = "") -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    answer.headers.update(headers or {})
    answer._content = body.encode()
    return requests.HTTPError("x", response=answer)


def by_httpx(status: int, headers: dict[str, str]) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://hooks.example.com/T0PSECRET")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status, headers=headers, text="why"))


def by_urllib(status: int, headers: dict[str, str]) -> urllib.error.HTTPError:
    told = email.message.Message()
    for name, value in headers.items():
        told[name] = value
    return urllib.error.HTTPError("https://hooks.example.com/T0PSECRET", status, "x", told, io.BytesIO(b"why"))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__context__ = cause
    return error


REFUSED = smtplib.SMTPRecipientsRefused({"a@b.example": (550, b"no such user"), "c@d.example": (550, b"nor this")})
GREY = smtplib.SMTPRecipientsRefused({"a@b.example": (550, b"no such user"), "c@d.example": (451, b"later")})
DOUBT = "; whether it arrived is unknown"
UNTRUSTED = ssl.SSLCertVerificationError(1, "x")
UNTRUSTED.verify_message = "certificate has expired"


@pytest.mark.parametrize(
    ("error", "reason", "seconds", "permanent"),
    [
        (http(500, body="boom"), "HTTP 500: boom", None, False),
        (http(503, {"Retry-After": "120"}), "HTTP 503", 120, False),
        (http(429, {"Retry-After": "1.5"}, "slow down"), "HTTP 429: slow down", 1.5, False),
        (http(429, {"Retry-After": "Fri, 30 Jan 2026 14:06:00 GMT"}), "HTTP 429", 60, False),
        (http(429, {"Retry-After": "Fri, 30 Jan 2026 14:00:00 GMT"}), "HTTP 429", 0, False),
        (http(429, {"Retry-After": "99999999"}), "HTTP 429", LONGEST_WAIT.total_seconds(), False),
        (http(429, {"Retry-After": "soon"}), "HTTP 429", None, False),
        (http(400, body="<html>nginx"), "HTTP 400", None, True),
        (http(404, body="no_service"), "HTTP 404: no_service", None, True),
        (http(408), "HTTP 408", None, False),
        (http(302), "HTTP 302", None, False),
        (by_httpx(429, {"Retry-After": "7"}), "HTTP 429: why", 7, False),
        (by_urllib(410, {"Retry-After": "7"}), "HTTP 410", 7, True),
        (caused(RuntimeError("mine"), http(401, body="who?")), "HTTP 401: who?", None, True),
        (smtplib.SMTPAuthenticationError(535, b"wrong"), "SMTP 535: wrong", None, True),
        (smtplib.SMTPDataError(451, b"later"), "SMTP 451: later", None, False),
        (smtplib.SMTPSenderRefused(550, b"not you", "a@b.example"), "SMTP 550: not you", None, True),
        (REFUSED, "SMTP 550: nor this", None, True),
        (GREY, "SMTP 550: no such user", None, False),
        (smtplib.SMTPServerDisconnected("gone"), f"SMTPServerDisconnected: gone{DOUBT}", None, False),
        (smtplib.SMTPNotSupportedError("no login"), "SMTPNotSupportedError: no login", None, True),
        (ConnectionRefusedError(111, "Connection refused"), "connection refused", None, False),
        (ConnectionResetError(104, "Reset by peer"), "reset by peer; whether it arrived is unknown", None, False),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known", None, False),
        (requests.exceptions.ConnectTimeout("x"), "the connection timed out", None, False),
        (TimeoutError(), "the answer timed out; whether it arrived is unknown", None, False),
        (UNTRUSTED, "the server's certificate is not trusted: certificate has expired", None, False),
        (KeyError("desk"), "KeyError: 'desk'", None, False),
        (ValueError(), "ValueError", None, False),
    ],
)  # fmt: skip
def test_an_error_says_why_when_again_and_whether_at_all(
    error: Exception, reason: str, seconds: float | None, permanent: bool
) -> None:
    wait = None if seconds is None else timedelta(seconds=seconds)
    assert failure_of(error, now=NOW) == Failed(reason, wait, permanent, in_doubt=reason.endswith(DOUBT))


def test_a_reason_is_one_short_line() -> None:
    told = failure_of(RuntimeError("a\nb " + "long " * 1_000), now=NOW).reason
    assert "\n" not in told
    assert len(told) <= REASON_LIMIT


# What must not be read


SECRET = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp")), min_size=6, max_size=24
).filter(lambda text: text.strip("*") == text and HIDDEN not in text)


@pytest.mark.slow
@given(SECRET, SECRET, SECRET)
@example("pa:ss@wo/rd", "?q=1&x", "100%25")
@settings(max_examples=40, deadline=None)
def test_no_secret_of_a_url_is_in_a_redacted_text(password: str, path: str, value: str) -> None:
    assume("example" not in password + path + value)
    url = (
        f"jsons://user:{quote(password, safe='')}@hooks.example.com:8443/{quote(path, safe='')}"
        f"?+Authorization={quote(value, safe='')}&format=text"
    )
    secrets = Secrets(secret_parts(url, shown="hooks.example.com:8443"))
    forms: list[Callable[[str], str]] = [
        str, lambda text: quote(text, safe=""), quote, quote_plus, repr, json.dumps, html.escape,
        lambda text: json.dumps(text, ensure_ascii=False), str.upper, lambda text: repr(text.encode()),
    ]  # fmt: skip
    held = (password, path, value, url, base64.b64encode(f"user:{password}".encode()).decode())
    for secret, shape in product(held, forms):
        if shape is str.upper and not secret.isascii():
            continue
        written = shape(secret)
        told = redacted(f"it said <{written}> and {written} {written}!", secrets)
        assert written.strip("'\"") not in told
        assert "it said" in told
    assert "hooks.example.com:8443" in redacted("cannot reach hooks.example.com:8443", secrets)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see https://user:pw@a.example/T0P?x=1, and go", "see https://a.example/***, and go"),
        ("at https://a.example.", "at https://a.example."),
        ("slack://T1/A1/X1 failed", "slack://*** failed"),
        ("https://a.example:8443/x", "https://a.example:8443/***"),
        ("http://[::1]:8080/x http://[/x", "http://::1:8080/*** http://***"),
        ("Max retries exceeded with url: /T0P/S (Caused", "Max retries exceeded with url: *** (Caused"),
        ('password=abc token: \'abc\' {"api_key": "abc"}', 'password=*** token: \'***\' {"api_key": "***"}'),
        ("Authorization: Bearer abc; sig=abc&x", "Authorization: ***; sig=***&x"),
        ("535 authentication failed", "535 authentication failed"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_though_it_is_not_known(text: str, told: str) -> None:
    assert redacted(text) == told


def test_a_short_password_is_hidden_where_it_stands_alone() -> None:
    secrets = Secrets(secret_parts("mailto://me:a1@example.com", shown="example.com"))
    assert redacted("login a1 refused, 'a1', data1", secrets) == "login *** refused, '***', data1"


DISCORD = "JHZ7lQml277CDHmQKMHI8qBe7bk2ZwO5UKjCiOAF7711o33MyqU344Qpgv7YTpadV_js"
BOT = "AAabcdefghijklmnop_qrstuvwxyz12345678"
URLS = {
    "json://user:hunter2X@localhost:8080/T0PSECRET?+Authorization=Bearer%20SECRETB": ("hunter2X", "T0PSECRET"),
    SLACK: ("T1JJ3T3L2", "A1BRTD4JD", "TIiajkdnlazkcOXrIdevi7FQ"),
    "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": ("TIiajkdnlazkcOXrIdevi7FQ",),
    f"discord://4174216298/{DISCORD}": ("4174216298", DISCORD),
    "workflows://host.example.com/643e69f83c8944/Jrdxi5ahNnlqMv0r": ("643e69f83c8944", "Jrdxi5ahNnlqMv0r"),
    "json://localhost/?+Authorization=Bearer%20SECRETB": ("SECRETB", "Bearer SECRETB"),
    "mailtos://user:hunter2X@mail.example.com?to=desk@example.org": ("hunter2X",),
    f"tgram://123456789:{BOT}/12315544/": ("123456789", BOT),
    "pbul://o.gn5kj6nfhv736I7jC3cj3QLRiyhgl98b": ("o.gn5kj6nfhv736I7jC3cj3QLRiyhgl98b",),
}  # fmt: skip


@pytest.mark.parametrize("url", URLS)
async def test_a_channel_shows_its_scheme_and_host_only(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repr, str, fields in an f-string, answer, and all that anybody logs at DEBUG while it sends in vain."""

    def nowhere(*args: Any, **kwargs: Any) -> Any:
        logging.getLogger("urllib3.connectionpool").debug("POST %s for %s", url, URLS[url])
        raise OSError(5, f"cannot reach {url} with {URLS[url]}")

    caplog.set_level(1)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    channel = channel_of("desk", url)
    outcome = await send(channel)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("cannot reach")
    assert "POST" in caplog.text
    told = f"{channel!r} {channel} {channel.__dict__} {outcome} {caplog.text} {''.join(capfd.readouterr())}"
    told += "".join(str(record.args) + str(record.msg) for record in caplog.records)
    for secret in URLS[url]:
        assert secret not in told
        assert quote(secret, safe="") not in told


@given(SECRET, SECRET)
@example("mailtos://user", "password@host")
@settings(max_examples=40, deadline=None)
def test_a_url_that_is_refused_is_not_shown(password: str, token: str) -> None:
    public = shown_of("an0therPassw0rd", "an0therT0ken")
    assume(password not in public and token not in public)
    shown = shown_of(password, token)
    for secret in (password, quote(password, safe=""), token):
        assert secret not in shown


def shown_of(password: str, token: str) -> str:
    """Everything that is said, and logged, of URLs with these."""
    heard: list[logging.LogRecord] = []
    listener = logging.Handler(1)
    listener.emit = heard.append  # type: ignore[method-assign, assignment]
    logging.getLogger().addHandler(listener)
    shown = []
    try:
        for scheme in ("https", "slack", "nowhere", "mailto", "tgram", "json"):
            try:
                shown.append(repr(channel_of("desk", f"{scheme}://u:{quote(password, safe='')}@/{token}")))
            except OptimizationValidationError as error:
                shown.append(f"{error} {error.__cause__} {error.__context__ if not error.__suppress_context__ else ''}")
    finally:
        logging.getLogger().removeHandler(listener)
    return "\n".join([*shown, *(record.getMessage() for record in heard)])


def test_what_is_logged_while_guarded_is_redacted_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("urllib3.connectionpool")
    caplog.set_level(1)
    with guarded(Secrets(["T0PSECRET"])):
        log.debug("url %s", "/T0PSECRET")
        try:
            raise ValueError("T0PSECRET")
        except ValueError:
            log.exception("it failed")
        log.warning("%d arguments", "T0PSECRET")  # as careless code does
        with ThreadPoolExecutor(1) as other:
            other.submit(log.warning, "elsewhere T0PSECRET").result()
    log.debug("url %s", "/T0PSECRET")
    told = [caplog.handler.format(record) for record in caplog.records]
    assert [("T0PSECRET" in each) for each in told] == [False, False, False, True, True]
    assert "url /***" in told[0]
    assert "ValueError: ***" in told[1]


def test_secrets_are_not_shown() -> None:
    secrets = Secrets(["T0PSECRET"])
    assert repr(secrets) == str(secrets) == "Secrets(***)"


# What hangs


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


async def test_what_hangs_is_left_behind_and_when_all_places_hang_the_answer_is_busy(
    gate: threading.Event, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    begun: list[int] = []

    def hang(alert: OptimizationAlert) -> None:
        begun.append(1)
        gate.wait(30)

    channel = FunctionChannel("desk", hang, seconds=0.05)
    first = await asyncio.gather(*(send(channel) for _ in range(6)))
    hung = [each for each in first if each == Failed(f"no answer within 0.05 s{DOUBT}", in_doubt=True)]
    assert len(hung) == len(begun) == 4
    assert all("busy" in each.reason for each in first if each not in hung and isinstance(each, Failed))

    outcome = await send(channel)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("busy: 4 earlier calls hang, the first for ")
    assert outcome.retry_after == timedelta(seconds=0.05)
    assert len(begun) == 4

    gate.set()
    await async_wait_until(lambda: channel._calls.abandoned == 0)
    assert await send(channel) == Sent()


async def test_hanging_sends_do_not_hold_the_event_loop(
    gate: threading.Event, async_wait_until: Callable[..., Awaitable[Any]]
) -> None:
    channels = [FunctionChannel(f"desk-{n}", lambda alert: gate.wait(30), seconds=0.4) for n in range(20)]
    sends = [asyncio.create_task(send(channel)) for channel in channels for _ in range(4)]
    await async_wait_until(lambda: sum(each.name.startswith("o9-channel desk") for each in threading.enumerate()) == 80)
    assert await longest_gap(0.3) < 0.3  # one call of the 80 would hold it for longer
    assert all(isinstance(outcome, Failed) for outcome in await asyncio.gather(*sends))


async def longest_gap(seconds: float) -> float:
    gaps, last, end = [], time.monotonic(), time.monotonic() + seconds
    while last < end:
        await asyncio.sleep(0.001)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
    return max(gaps)


async def test_calls_wait_for_a_place_and_keep_their_order() -> None:
    threads, order = Calls("desk", at_once=1), []

    def call(n: int) -> int:
        order.append(n)
        return n

    assert await asyncio.gather(*(threads.run(lambda n=n: call(n), 5) for n in range(50))) == list(range(50))  # type: ignore[misc]
    assert order == list(range(50))


async def test_a_caller_that_is_cancelled_leaves_its_call_behind(gate: threading.Event) -> None:
    threads = Calls("desk")
    waiting = asyncio.create_task(threads.run(lambda: gate.wait(30), 30))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert threads.abandoned == 1


def test_a_call_that_returns_when_the_loop_is_gone_disturbs_nobody(
    gate: threading.Event, wait_until: Callable[..., Any]
) -> None:
    threads = Calls("desk")
    with pytest.raises(Exception, match=r"no answer within 0\.01 s"):
        asyncio.run(threads.run(lambda: gate.wait(30), 0.01))
    gate.set()
    wait_until(lambda: threads.abandoned == 0)


# Functions


async def test_a_function_is_called_for_each_alert_in_another_thread() -> None:
    told: list[tuple[str, bool, int]] = []
    channel = channel_of("desk", lambda alert: told.append((alert.alert_id, alert.resolved, threading.get_ident())))
    assert await send(channel, MANY) == Sent()
    assert [each[0] for each in told] == [each.alert_id for each in (*MANY.firing, *MANY.resolved)]
    assert [each[1] for each in told] == [False] * 14 + [True] * 2
    assert threading.get_ident() not in {each[2] for each in told}


@pytest.mark.parametrize("kind", ["coroutine function", "object", "function that gives a coroutine"])
async def test_a_coroutine_runs_in_the_program_s_loop(kind: str) -> None:
    told: list[tuple[str, Any]] = []

    async def tell(alert: OptimizationAlert) -> None:
        await asyncio.sleep(0)
        told.append((alert.alert_id, asyncio.get_running_loop()))

    class Notified:
        async def __call__(self, alert: OptimizationAlert) -> None:
            await tell(alert)

    what = {
        "coroutine function": tell,
        "object": Notified(),
        "function that gives a coroutine": lambda alert: tell(alert),
    }
    assert await send(channel_of("desk", what[kind]), OVER) == Sent()
    assert told == [("sample-0", asyncio.get_running_loop())]


@pytest.mark.parametrize("is_async", [False, True])
async def test_when_one_of_several_fails_those_before_it_are_not_told_again(is_async: bool) -> None:
    told: list[str] = []

    def tell(alert: OptimizationAlert) -> None:
        told.append(alert.alert_id)
        if len(told) == 3:
            raise http(429, {"Retry-After": "3"})

    async def tell_async(alert: OptimizationAlert) -> None:
        tell(alert)

    channel = channel_of("desk", tell_async if is_async else tell)
    assert await send(channel, MANY) == Failed("HTTP 429", timedelta(seconds=3))
    assert await send(channel, MANY) == Sent()
    everyone = [each.alert_id for each in (*MANY.firing, *MANY.resolved)]
    assert told == [*everyone[:3], *everyone[2:]]
    assert await send(channel, MANY) == Sent()  # a notice that was told is forgotten
    assert len(told) == 17 + 16


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (StopIteration("x"), "RuntimeError: StopIteration: x"),
        (SystemExit(3), "RuntimeError: SystemExit: 3"),
        (RuntimeError("POST https://u:pw@a.example/T0P failed"), "RuntimeError: POST https://a.example/*** failed"),
    ],
)
async def test_what_a_function_raises_is_its_answer(raised: BaseException, reason: str) -> None:
    def tell(alert: OptimizationAlert) -> None:
        raise raised

    assert await send(channel_of("desk", tell)) == Failed(reason)


async def test_a_function_that_returns_false_has_failed() -> None:
    assert await send(channel_of("desk", lambda alert: False)) == Failed("it returned False")
    assert await send(channel_of("desk", lambda alert: 0)) == Sent()


async def test_a_coroutine_that_hangs_is_left_behind_and_then_busy(
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    let_go, swallowed = asyncio.Event(), []

    async def hang(alert: OptimizationAlert) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                swallowed.append(1)
        raise ValueError("nobody hears of it")

    channel = FunctionChannel("desk", hang, seconds=0.02)
    outcomes = await asyncio.gather(*(send(channel) for _ in range(4)))
    assert set(outcomes) == {Failed(f"no answer within 0.02 s{DOUBT}", in_doubt=True)}
    assert await send(channel) == Failed("busy: 4 earlier calls hang", timedelta(seconds=0.02))
    await async_wait_until(lambda: len(swallowed) == 4)
    let_go.set()
    await async_wait_until(lambda: channel._calls.abandoned == 0)


async def test_a_coroutine_that_cancels_itself_has_failed() -> None:
    async def give_up(alert: OptimizationAlert) -> None:
        raise asyncio.CancelledError

    assert await send(channel_of("desk", give_up)) == Failed("RuntimeError: it cancelled itself")


# Blocks


async def test_an_object_that_notifies_gets_plain_text_and_the_title() -> None:
    block = Notifies()
    assert await send(channel_of("desk", block)) == Sent()
    body, subject = block.told[0]
    assert subject == "[CRITICAL] Drawdown limit breached: momentum-us"
    assert body.startswith("The best trial has lost")


async def test_an_object_s_coroutine_is_awaited_and_its_secrets_are_kept() -> None:
    class Block(BaseModel):
        url: SecretStr
        raising: bool = False

        async def notify(self, body: str, subject: str | None = None) -> None:
            if self.raising:
                raise RuntimeError(f"cannot reach {self.url.get_secret_value()} of T0PSECRET")

    assert await send(BlockChannel("desk", Block(url=SecretStr("x")))) == Sent()
    block = Block(url=SecretStr("https://hooks.example.com/services/T0PSECRET"), raising=True)
    channel = channel_of("desk", block)
    assert await send(channel) == Failed("RuntimeError: cannot reach *** of ***")
    assert "T0PSECRET" not in f"{channel!r} {channel.__dict__}"

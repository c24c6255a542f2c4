"""Messages on their way to real servers, through Apprise's plugins and Prefect's blocks as they are."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import alert_servers
import o9_testing
import pytest
import rule_subjects
from alert_samples import samples
from alert_servers import Answered, HookServer, MailServer, Received

from o9.aggregator.prefect_server import prefect_client_settings
from o9.alerts.channels.apprise import AppriseChannel
from o9.alerts.channels.outcome import Channel, Failed, Sent
from o9.alerts.channels.registry import channel_of
from o9.alerts.messages.render import Form, Message
from o9.alerts.pipeline.alert import Notice
from o9.model.errors import OptimizationValidationError

ONE, MANY, OVER = samples()["one alert"], samples()["a group of 14"], samples()["resolved"]
# aiosmtpd counts only STARTTLS as TLS, not a connection that is TLS from its first byte.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
TITLE = "[CRITICAL] Drawdown limit breached: momentum-us"
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
DISCORD_TOKEN = "JHZ7lQml277CDHmQKMHI8qBe7bk2ZwO5UKjCiOAF7711o33MyqU344Qpgv7YTpadV_js"
DISCORD = f"discord://4174216298/{DISCORD_TOKEN}"
TEAMS = "workflows://teams.example.com/643e69f83c8944/Jrdxi5ahNnlqMv0rTpqxjiZ6UO"
BRANIN = {"x": {"type": "float", "low": -5, "high": 10}, "y": {"type": "float", "low": 0, "high": 15}}
DOUBT = "whether it arrived is unknown"


async def send(channel: Channel, notice: Notice = ONE) -> Sent | Failed:
    return await channel.send(Message(notice), notice)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return alert_servers.make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusted(certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's certificate, which this process trusts."""
    own, authority = certificates
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    return own


@pytest.fixture
def services(trusted: Path) -> Iterator[HookServer]:
    """Slack, Discord, Teams and Telegram, with TLS."""
    server = HookServer(trusted)
    with alert_servers.names_lead_here(server.port):
        yield server
    server.close()


# Webhooks


async def test_json_to_a_webhook_with_login_and_header(hooks: HookServer) -> None:
    url = f"json://desk:T0P%20secret@localhost:{hooks.port}/hooks/o9?+X-Desk=systematic"
    assert await send(channel_of("desk", url)) == Sent()
    (received,) = hooks.received
    assert (received.path, received.headers["x-desk"]) == ("/hooks/o9", "systematic")
    assert received.headers["authorization"] == "Basic ZGVzazpUMFAgc2VjcmV0"
    assert received.json["title"] == TITLE
    assert received.json["type"] == "failure"
    assert received.json["message"] == Message(ONE).body()


async def test_slack(services: HookServer) -> None:
    assert await send(channel_of("desk", SLACK), MANY) == Sent()
    (received,) = services.received
    assert received.host == "hooks.slack.com"
    assert received.path == "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    (attachment,) = received.json["attachments"]
    assert attachment["title"] == "[CRITICAL] 14 alerts firing, 2 resolved"
    assert attachment["color"] == "#A32037"
    text = attachment["text"]
    assert text.startswith("Firing: 3 critical, 3 error, 8 warning. Resolved: 1 critical, 1 warning.")
    assert "10. *WARNING* Plateaued: trend-7-8" in text
    assert "<https://o9.example.com/optimizations/5>" in text
    assert "*and 6 more:* o9 alerts list" in text
    assert "**" not in text


async def test_discord(services: HookServer) -> None:
    services.otherwise = Answered(204, b"")
    assert await send(channel_of("desk", DISCORD), OVER) == Sent()
    (received,) = services.received
    assert received.host == "discord.com"
    (embed,) = received.json["embeds"]
    assert embed["title"] == "[RESOLVED] Drawdown limit breached: momentum-us"
    assert embed["color"] == 0x3AA337
    assert "- **Since:** 2026-01-30 14:01:00 UTC, ended after 4 min" in embed["description"]
    assert "<https://o9.example.com/optimizations/0>" in embed["description"]


async def test_teams_within_its_thousand_characters(services: HookServer) -> None:
    services.otherwise = Answered(202, b"")
    assert await send(channel_of("desk", TEAMS), MANY) == Sent()
    (received,) = services.received
    assert received.host == "teams.example.com"
    assert "sig=Jrdxi5ahNnlqMv0rTpqxjiZ6UO" in received.path
    title, body = received.json["attachments"][0]["content"]["body"]
    assert title["text"] == "[CRITICAL] 14 alerts firing, 2 resolved"
    assert len(body["text"]) <= 1_000
    assert "7. **WARNING** Plateaued" in body["text"]
    assert "more:** o9 alerts list" in body["text"]


async def test_telegram_in_the_html_that_it_knows(services: HookServer) -> None:
    services.otherwise = Answered(200, b'{"ok": true, "result": {}}')
    evil = replace(ONE, firing=(replace(ONE.firing[0], title="<b>risk_limit & co", message="1 < 2"),))
    channel = channel_of("desk", "tgram://123456789:AAabcdefghijklmnop_qrstuvwxyz12345678/12315544/")
    assert await send(channel, evil) == Sent()
    told = services.received[-1].json
    assert told["parse_mode"] == "HTML"
    assert told["text"].startswith("<b>[CRITICAL] &lt;b&gt;risk_limit &amp; co: momentum-us</b>")
    assert "1 &lt; 2" in told["text"]
    assert "<div" not in told["text"]


@pytest.mark.parametrize("url", [SLACK, DISCORD, TEAMS, f"{DISCORD}?format=text", f"{SLACK}?format=text"])
async def test_no_alert_calls_everybody_to_a_chat(services: HookServer, url: str) -> None:
    evil = "@everyone <!channel> @here <@U12345> <@&9> <at>boss</at> <https://evil.example|look>"
    told = replace(ONE, firing=(replace(ONE.firing[0], title=evil, message=evil, optimization_id=evil),))
    assert isinstance(await send(channel_of("desk", url), told), Sent | Failed)
    body = services.received[0].body.decode().encode().decode("unicode_escape")
    for call in ("@everyone", "@here", "<!channel", "<@U12345>", "<@&9>", "<at>", "<https://evil.example|"):
        assert call not in body
    assert "allow_mentions" not in body
    assert "https://evil.example" in body


# Mail


def letter(content: bytes) -> EmailMessage:
    told = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(told, EmailMessage)
    return told


@pytest.fixture(scope="module", params=["ssl", "starttls"])
def mail_server(request: pytest.FixtureRequest, certificates: tuple[Path, Path]) -> Iterator[tuple[MailServer, str]]:
    server = MailServer(certificates[0], starttls=request.param == "starttls")
    yield server, request.param
    server.close()


@pytest.fixture
def mail(mail_server: tuple[MailServer, str], trusted: Path) -> tuple[MailServer, str]:
    """A mail server, and the URL to it."""
    server, mode = mail_server
    server.letters.clear()
    login = f"{quote('me@example.com', safe='')}:{quote(alert_servers.PASSWORD, safe='')}"
    return server, f"mailtos://{login}@localhost:{server.port}?mode={mode}&from=o9@example.com&to=desk@example.org"


async def test_mail_with_tls_and_login(mail: tuple[MailServer, str]) -> None:
    server, url = mail
    assert await send(channel_of("desk", url), MANY) == Sent()
    (taken,) = server.letters
    assert (taken.sender, taken.recipients) == ("o9@example.com", ["desk@example.org"])
    assert (taken.login, taken.over_tls) == (b"me@example.com", True)
    told = letter(taken.content)
    assert told["Subject"] == "[CRITICAL] 14 alerts firing, 2 resolved"
    plain, page = told.get_body(("plain",)), told.get_body(("html",))
    assert plain is not None
    assert page is not None
    assert page.get_content().replace("\r\n", "\n").strip() == Message(MANY).body(Form.PAGE)
    for each in (
        "Firing: 3 critical",
        "CRITICAL",
        "均值回归-a股-9",
        "and 6 more",
        "https://o9.example.com/optimizations/5",
    ):
        assert each in plain.get_content()


async def test_a_title_cannot_add_headers_to_a_mail(mail: tuple[MailServer, str]) -> None:
    server, url = mail
    evil = "x\r\nBcc: everybody@example.com\r\n\r\n<b>body</b>\x00\u202e"
    told = replace(ONE, firing=(replace(ONE.firing[0], title=evil, optimization_id=evil),))
    assert await send(channel_of("desk", url), told) == Sent()
    (taken,) = server.letters
    assert taken.recipients == ["desk@example.org"]
    headers = letter(taken.content)
    assert headers["Bcc"] is None
    assert "Bcc: everybody@example.com <b>body</b>" in headers["Subject"]
    assert "\r\nBcc" not in taken.content.decode()


async def test_what_a_mail_server_refuses_and_what_it_puts_off(mail: tuple[MailServer, str]) -> None:
    server, url = mail
    channel = channel_of("desk", url)
    server.answers = ["451 try later", "554 looks like spam", "RCPT 550 no such user", "RCPT 450 greylisted"]
    assert await send(channel) == Failed("SMTP 451: try later")
    assert await send(channel) == Failed("SMTP 554: looks like spam", permanent=True)
    assert await send(channel) == Failed("SMTP 550: no such user", permanent=True)
    assert await send(channel) == Failed("SMTP 450: greylisted")
    assert await send(channel) == Sent()


async def test_a_wrong_password_is_permanent_and_shown_nowhere(
    mail: tuple[MailServer, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    _, url = mail
    outcome = await send(channel_of("desk", url.replace(quote(alert_servers.PASSWORD, safe=""), "hunter2hunter")))
    assert isinstance(outcome, Failed)
    assert outcome.permanent
    assert outcome.reason.startswith("SMTP 535")
    assert "hunter2hunter" not in caplog.text + str(outcome)


async def test_a_mail_server_that_nobody_vouches_for_gets_no_password(
    certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MailServer(certificates[0], starttls=False)
    try:
        outcome = await send(
            channel_of("desk", f"mailtos://me:pw@localhost:{server.port}?mode=ssl&from=a@b.com&to=c@d.com")
        )
    finally:
        server.close()
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("the server's certificate is not trusted: ")
    assert not server.letters


# Servers that fail


async def test_a_server_that_fails_in_every_way_and_recovers(hooks: HookServer) -> None:
    channel = channel_of("desk", f"json://localhost:{hooks.port}/T0PSECRET?rto=0.2")
    statuses = (500, 503, 429, 401, 404)
    hooks.answers = [
        *[Answered(status, b"no such hook /T0PSECRET", {"Retry-After": "37"}) for status in statuses],
        Answered(fault="hang"),
        Answered(fault="reset"),
    ]
    for status in statuses:  # what Apprise says of it is shown, and tried again
        outcome = await send(channel)
        assert isinstance(outcome, Failed)
        assert f"error={status}" in outcome.reason
        assert outcome == Failed(outcome.reason)
        assert "T0PSECRET" not in outcome.reason
    assert await send(channel) == Failed(f"the answer timed out; {DOUBT}", in_doubt=True)
    reset = await send(channel)
    assert isinstance(reset, Failed)
    assert reset.reason.endswith(DOUBT)
    assert reset.in_doubt
    assert not reset.permanent
    assert await send(channel) == Sent()
    assert len(hooks.received) == 8


async def test_what_slack_refuses_is_tried_again(services: HookServer) -> None:
    services.answers = [Answered(429, b"rate_limited", {"Retry-After": "30"}), Answered(404, b"no_service")]
    channel = channel_of("desk", SLACK)
    assert await send(channel) == Failed("Failed to send to Slack: error=429.")
    assert await send(channel) == Failed("Failed to send to Slack: Page not found., error=404.")
    assert await send(channel) == Sent()


async def test_where_nobody_is(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = f"localhost:{o9_testing.free_port()}"
    assert await send(channel_of("desk", f"json://{closed}/x")) == Failed("connection refused")
    assert await send(channel_of("desk", f"mailto://me:pw@{closed}?to=a@b.com&from=c@d.com")) == Failed(
        "connection refused"
    )
    with alert_servers.names_lead_here(o9_testing.free_port()):
        assert await send(channel_of("desk", SLACK)) == Failed("connection refused")


async def test_a_webhook_that_nobody_vouches_for_gets_nothing(
    certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HookServer(certificates[0])
    try:
        outcome = await send(channel_of("desk", f"jsons://localhost:{server.port}/x"))
    finally:
        server.close()
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("the server's certificate is not trusted: ")
    assert not server.received


async def test_a_server_that_never_answers_keeps_its_channel_busy_and_nobody_else(
    hooks: HookServer, async_wait_until: Callable[..., Any]
) -> None:
    """It dribbles no byte for an hour: Apprise's own time limit is set out of reach, O9's counts."""
    hooks.otherwise = Answered(fault="hang")
    channel = AppriseChannel("desk", f"json://localhost:{hooks.port}/x?rto=3600", seconds=0.3)
    hung = await asyncio.gather(*(send(channel) for _ in range(4)))
    assert set(hung) == {Failed(f"no answer within 0.3 s; {DOUBT}", in_doubt=True)}
    gaps, last = [], time.monotonic()
    for _ in range(20):
        outcome = await send(channel)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("busy: 4 earlier calls hang")
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert max(gaps) < 0.15
    assert len(hooks.received) == 4
    hooks.otherwise = Answered()
    hooks.let_go.set()
    await async_wait_until(lambda: channel._calls.abandoned == 0)
    assert await send(channel) == Sent()


# Secrets


@pytest.mark.parametrize("answer", [Answered(), Answered(500, b"boom")])
async def test_nothing_that_anybody_logs_holds_a_secret(
    services: HookServer, answer: Answered, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)
    logging.getLogger("urllib3").debug("/services/%s", "is heard")
    services.otherwise = answer
    for url in (SLACK, DISCORD, TEAMS):
        await send(channel_of("desk", url))
    told = caplog.text + "".join(capfd.readouterr())
    assert "is heard" in told
    assert '"POST /services/*** HTTP/1.1"' in told  # urllib3 tells of each request, with its path
    for secret in ("TIiajkdnlazkcOXrIdevi7FQ", "A1BRTD4JD", DISCORD_TOKEN, "Jrdxi5ahNnlqMv0rTpqxjiZ6UO"):
        assert secret not in told


# Prefect's blocks, and O9's


async def test_prefect_s_slack_block_as_it_is(services: HookServer, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.blocks.notifications import SlackWebhook

    block = SlackWebhook(url="https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    caplog.set_level(1)  # only now: what Apprise says while Prefect makes the block is Prefect's
    channel = channel_of("desk", block)
    assert await send(channel) == Sent()
    services.answers = [Answered(429, b"rate_limited", {"Retry-After": "30"}), Answered(404, b"no_service")]
    assert await send(channel) == Failed("[WARNING]: Failed to send to Slack: error=429.")
    assert await send(channel) == Failed("[WARNING]: Failed to send to Slack: Page not found., error=404.")
    assert not block._raise_on_failure
    text = services.received[0].json["attachments"][0]["text"]
    assert text.startswith("The best trial has lost 23.4%")
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in f"{caplog.text}{channel!r}{channel.__dict__}"


async def test_prefect_s_custom_webhook_block_as_it_is(hooks: HookServer) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(
        name="desk", url=f"http://localhost:{hooks.port}/{{{{token}}}}", secrets={"token": "T0PSECRET"},
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )  # fmt: skip
    channel = channel_of("desk", block)
    assert await send(channel) == Sent()
    received: Received = hooks.received[0]
    assert received.path == "/T0PSECRET"
    assert received.json["subject"] == TITLE
    hooks.answers = [Answered(429, b"slow down", {"Retry-After": "5"})]
    outcome = await send(channel)
    assert outcome == Failed("HTTP 429: slow down", timedelta(seconds=5))
    assert "T0PSECRET" not in f"{outcome}{channel!r}"


async def test_o9_s_block_is_saved_loaded_and_sent_through(services: HookServer) -> None:
    from prefect.blocks.notifications import SlackWebhook

    from o9.blocks import AlertChannel
    from o9.blocks.alert_channel import load_block

    block = AlertChannel(url=SLACK)
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in f"{block!r} {block} {block.model_dump()} {block.model_dump_json()}"
    with prefect_client_settings(o9_testing.session_server()):
        await block.save("desk-hook", overwrite=True)
        await SlackWebhook(url=f"https://hooks.slack.com/services/{SLACK.removeprefix('slack://')}").save(
            "desk-of-prefect", overwrite=True
        )
        loaded = channel_of("desk", await asyncio.to_thread(load_block, "desk-hook"))
        assert isinstance(loaded, AppriseChannel)
        assert await send(loaded) == Sent()
        theirs = channel_of("desk", await asyncio.to_thread(load_block, "slack-webhook/desk-of-prefect"))
        assert await send(theirs) == Sent()
        assert len(services.received) == 2
        with pytest.raises(OptimizationValidationError, match=r"block:nothing.*save it, or give the URL itself"):
            await asyncio.to_thread(load_block, "nothing")
    with pytest.raises(OptimizationValidationError, match=r"channels\.desk: "):
        channel_of("desk", AlertChannel(url="nowhere://T0PSECRET"))


# A desk's evening


async def test_a_desk_receives_how_its_runs_end_and_what_to_make_of_them(
    services: HookServer, hooks: HookServer, mail: tuple[MailServer, str], tmp_path: Path,
    set_o9: Callable[..., None], open_aggregator: Callable[..., Any], async_wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    """By Slack, mail and a block of Prefect: one run starts and completes, one fails, and one cannot be trusted."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    server, url = mail
    block = CustomWebhookNotificationBlock(
        name="desk", url=f"http://localhost:{hooks.port}", json_data={"title": "{{subject}}", "text": "{{body}}"}
    )
    with prefect_client_settings(o9_testing.session_server()):
        await block.save("evening", overwrite=True)
    (tmp_path / "alerts.yaml").write_text(
        "route: {receiver: desk, group_wait: 0s, group_interval: 1s, routes: [{matchers: [level=warning]}]}\n"
        f"receivers: [{{name: desk, channels: ['{SLACK}', '{url}', block:custom-webhook/evening]}}]\n"
        "link: https://reports.desk/o9-report-{optimization}.html\n"
    )
    set_o9(alerts_file=tmp_path / "alerts.yaml", public_url="https://o9.desk.example")
    aggregator = await open_aggregator()
    for name, objective, more in (
        ("carry-1", "branin", {"on_start": True, "on_completion": True, "search_space": BRANIN}),
        ("pairs-1", "json:loads", {"search_space": o9_testing.LINE}),
    ):
        await aggregator.submit_optimization(
            o9_testing.new(name, name=name[:-2].title(), total_steps=2, objective=objective, seed=1, **more)
        )
        await o9_testing.ended(aggregator, name)
    luck = {"name": "validity.data_snooping", "score": 0.2, "words": "luck alone finds as much"}
    rule_subjects.report(aggregator.store, "carry-1", [luck], "critical")
    start, end = "[INFO] Optimization started: Carry · carry-1", "[INFO] Optimization completed: Carry · carry-1"
    titles = {
        start, end, "[ERROR] Optimization failed: Pairs · pairs-1",
        "[ERROR] Validity critical: Carry · carry-1",
    }  # fmt: skip
    await async_wait_until(lambda: all(len(each) >= 4 for each in (services.received, server.letters, hooks.received)))
    slack = {each["title"]: each["text"] for got in services.received for each in got.json["attachments"]}
    letters = {str(letter(each.content)["Subject"]): letter(each.content) for each in server.letters}
    webhook = {each.json["title"]: each.json["text"] for each in hooks.received}
    for received in (list(slack), list(letters), list(webhook)):
        assert set(received) == titles
        assert received.index(start) < received.index(end)
    for title, text in webhook.items():
        (name,) = [each for each in ("carry-1", "pairs-1") if each in title]
        plain = letters[title].get_body(("plain",))
        assert plain is not None
        for told in (text, plain.get_content(), slack[title]):
            assert f"https://reports.desk/o9-report-{name}.html" in told
            assert f"https://o9.desk.example/api/v1/optimizations/{name}/report" in told
            assert f"o9 show {name}" in told
    failed = webhook["[ERROR] Optimization failed: Pairs · pairs-1"]
    assert "o9 retry pairs-1" in failed
    assert "luck alone finds as much" in webhook["[ERROR] Validity critical: Carry · carry-1"]

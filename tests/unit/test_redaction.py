"""Redaction hides what it hid when it took the square of a text's length; and what Apprise logs, in any thread."""

from __future__ import annotations

import logging
import re

import pytest
from alert_samples import samples
from hypothesis import assume, example, given
from hypothesis import strategies as st
from prefect.blocks.notifications import SlackWebhook
from pydantic import SecretStr

from o9.alerts.channels.outcome import Failed
from o9.alerts.channels.redaction import HIDDEN, host_in, redacted
from o9.alerts.channels.registry import channel_of
from o9.alerts.messages.render import Message

# As they were.
_URL = re.compile(r"""\b([a-z][a-z0-9+.\-]*)://([^\s"'<>]*[^\s"'<>.,;:)\]])""", re.IGNORECASE)
_PATH = re.compile(r"(with url: )\S+", re.IGNORECASE)
_NAMED = re.compile(
    r"""\b(authorization|passw(?:or)?d|pwd|secret|token|api[-_]?key|access[-_]?key|sig|signature|credentials?)"""
    r"""(["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"',;&)\]}]+""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b[a-z][a-z0-9+.\-]*\Z", re.IGNORECASE)
PIECES = st.sampled_from([
    "a", "a.b", "x-y+1.z", "http", "HTTPS", "://", "://", "/", "user:pw@", "hooks.example.com", ":8443", "[::1]", "[",
    "T0P", "?q=1", "&", ".", ",", ")", "]", ";", ":", " ", "\n", '"', "'", "<", ">", "token=", "Bearer ",
    "with url: ", "é",
])  # fmt: skip


def redacted_slowly(text: str) -> str:
    def bare(found: re.Match[str]) -> str:
        host = host_in(found[0])
        if not host:
            return f"{found[1]}://{HIDDEN}"
        told = f"{found[1]}://{host}"
        return told if told.lower() == found[0].lower().rstrip("/") else f"{told}/{HIDDEN}"

    return _NAMED.sub(rf"\1\2{HIDDEN}", _PATH.sub(rf"\1{HIDDEN}", _URL.sub(bare, text)))


@given(st.lists(PIECES, max_size=12).map("".join))
@example("see a.b.c://T0P, a://.,x b://c://d")
def test_it_hides_what_it_hid(text: str) -> None:
    assume(all(_SCHEME.search(text[: found.start()]) for found in re.finditer("://", text)))
    assert redacted(text) == redacted_slowly(text)


@pytest.mark.parametrize("text", ["_https://hooks/T0PSECRET", "1x://T0PSECRET", "É://T0PSECRET", "://T0PSECRET"])
def test_a_url_is_hidden_behind_whatever_stands_before_it(text: str) -> None:
    assert "T0PSECRET" not in redacted(text)


async def test_apprise_logs_no_address_in_whatever_thread_it_sends(caplog: pytest.LogCaptureFixture) -> None:
    """To several services it sends in threads of its own, which nobody guards."""
    caplog.set_level(1, "apprise")
    address = "json://ann:T0PSECRET@127.0.0.1:1/T0PSECRET"
    channel = channel_of("desk", SlackWebhook(url=SecretStr(f"{address}1 {address}2")))
    notice = samples()["one alert"]
    outcome = await channel.send(Message(notice), notice)
    assert isinstance(outcome, Failed)
    assert {record.levelno for record in caplog.records if record.name == "apprise"} >= {logging.WARNING}
    assert "T0PSECRET" not in f"{outcome} {caplog.text} {[(record.msg, record.args) for record in caplog.records]}"

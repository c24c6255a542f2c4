"""The channels of a node: built-in ones, those that its program registered, and those that the configuration names by
an address or as a block.

Contract. A channel's name is not secret and is the same on every node: that of an address is its scheme and a hash.
Invalid channels are refused at registration, or with the configuration. A block is loaded at its first send, since
Prefect's server may be unavailable before.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import inspect
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

from pydantic import Secret, SecretStr

from o9.alerts.channels.outcome import Channel, Failed, MessageChannel, Sent, failed, outcome_of
from o9.alerts.channels.redaction import Secrets, guarded, host_in, secret_parts
from o9.alerts.config.schema import BLOCK, EVERY_CHANNEL, Configuration
from o9.alerts.messages.render import Form, Message
from o9.alerts.pipeline.alert import Alert, Notice, NoticeKind, optimization_alert_of
from o9.model.errors import OptimizationValidationError
from o9.model.files import private
from o9.model.optimization import OptimizationAlert
from o9.model.settings import settings
from o9.model.states import AlertLevel
from o9.strategies.registry import is_async
from o9.text.escape import chat_line
from o9.text.format import moment
from o9.user_code.calls import Calls

logger = logging.getLogger("o9.alerts")
NAME_LIMIT = 200
SECONDS = 30.0
BUILT_IN_SECONDS = 10.0
FILE_BYTES = 5 * 2**20
FILES_KEPT = 5
IDS_LOGGED = 10
TEXT_LIMIT = 20_000  # for blocks without a limit
_REPORT_ALL = (NoticeKind.REPEAT, NoticeKind.ESCALATION)
_REMEMBERED = 100  # notices that failed in part


def built_in_channels(logged: Callable[[str], bool] = lambda _: False) -> dict[str, Channel]:
    """Return the built-in channels; a user's channel of the same name replaces one. `logged`: see ConsoleChannel."""
    return {"log": LogChannel(), "console": ConsoleChannel(logged=logged), "file": FileChannel()}


def channel_of(name: str, what: Any) -> Channel:
    """Return a channel for a function or coroutine function of one alert, an Apprise URL, an object with `notify(body,
    subject)`, or a channel.

    Raises OptimizationValidationError, which names the channel and the remedy, and contains nothing of a URL.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT or not name.isprintable():
        raise OptimizationValidationError(
            "channels", f"{name!r:.80} cannot be a channel's name; use printable text of 1 to {NAME_LIMIT} characters"
        )
    field = f"channels.{name}"
    if isinstance(what, str):
        from o9.alerts.channels.apprise import AppriseChannel  # imports Apprise

        return AppriseChannel(name, what)
    if inspect.isclass(what):
        raise OptimizationValidationError(field, f"{what.__name__} is a class; pass an instance of it")
    if hasattr(what, "to_channel"):  # O9's block
        what = what.to_channel(name)
    if hasattr(what, "send") and isinstance(getattr(what, "name", None), str):
        return cast(Channel, what)
    if callable(getattr(what, "notify", None)):
        return BlockChannel(name, what)
    if callable(what):
        _check_takes_one(field, what)
        return FunctionChannel(name, what)
    raise OptimizationValidationError(
        field,
        f"{type(what).__name__} is not a channel; pass a function or coroutine function of one alert, an Apprise URL, "
        "a block with notify(body, subject), or block:NAME",
    )


def _check_takes_one(field: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some functions in C have no signature
    try:
        signature.bind(object())
    except TypeError:
        raise OptimizationValidationError(
            field, f"it is called with one alert, but takes {signature}; it must accept exactly one argument"
        ) from None


class ChannelRegistry:
    """The channels of a program. `resolve` loads a block by its name; None if the program cannot load blocks."""

    def __init__(self, resolve: Callable[[str], Any] | None = None) -> None:
        self._resolve = resolve
        self._built_in = built_in_channels(lambda receiver: receiver in self._logged)
        self._logged: frozenset[str] = frozenset()
        self._own: dict[str, Channel] = {}
        self._named: dict[str, Channel] = {}

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the registered channels, which other nodes may not have."""
        return tuple(sorted(self._own))

    def register(self, name: str, what: Any) -> None:
        """Raises OptimizationValidationError for an invalid channel."""
        if name == EVERY_CHANNEL or "://" in str(name) or str(name).startswith(BLOCK):
            raise OptimizationValidationError("channels", f"{name!r:.80} cannot be a channel's name; use a plain name")
        self._own[name] = self._made(name, what)

    def channels(self, configuration: Configuration) -> dict[str, Channel]:
        """Return all channels of this node by name. Raises OptimizationValidationError for an invalid address."""
        references = [each for receiver in configuration.receivers.values() for each in receiver.channels]
        named = {channel_name(each): each for each in references if "://" in each or each.startswith(BLOCK)}
        self._named = {name: self._named.get(name) or self._made(name, each) for name, each in named.items()}
        through_log = () if "log" in self._own else (EVERY_CHANNEL, "log")
        self._logged = frozenset(
            name for name, each in configuration.receivers.items() if not {*each.channels}.isdisjoint(through_log)
        )
        return {**self._built_in, **self._named, **self._own}

    def unknown(self, configuration: Configuration) -> dict[str, str]:
        """Return the channels that receivers name and this node lacks, each with one of the receivers."""
        known = self.channels(configuration)
        return {
            name: receiver.name
            for receiver in configuration.receivers.values()
            for each in receiver.channels
            if each != EVERY_CHANNEL and (name := channel_name(each)) not in known
        }

    def _made(self, name: str, what: Any) -> Channel:
        if isinstance(what, str) and what.startswith(BLOCK):
            return NamedBlock(name, what.removeprefix(BLOCK), self._resolve)
        return channel_of(name, what)


def channel_name(reference: str) -> str:
    """Return the name of the channel that a receiver refers to."""
    scheme, is_address, _ = reference.partition("://")
    if not is_address:
        return reference
    return f"{scheme.lower()}-{hashlib.blake2b(reference.encode(), digest_size=4).hexdigest()}"


class NamedBlock:
    """A channel for a block, which is loaded at the first send."""

    shows_the_first = True

    def __init__(self, name: str, block: str, resolve: Callable[[str], Any] | None) -> None:
        self.name = name
        self._block = block
        self._resolve = resolve
        self._channel: Channel | None = None

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        if self._channel is None:
            if self._resolve is None:
                return Failed(f"this program cannot load the block {self._block!r}")
            try:
                block = await asyncio.to_thread(self._resolve, self._block)
                self._channel = channel_of(self.name, block)
            except Exception as error:  # noqa: BLE001 - any error of Prefect or the block is a failed send
                return failed(f"the block {self._block!r} could not be loaded: {type(error).__name__}: {error}")
        return await self._channel.send(message, notice)


class FunctionChannel:
    """A channel for a user's function or coroutine function of one alert.

    It is called for each new or resolved alert of a notice; at a repeat or an escalation for each firing one. A
    function runs in a thread, a coroutine function in the program's event loop under the watchdog. A send fails if the
    function raises or returns False. When it is retried, this process skips the alerts for which it succeeded.
    """

    def __init__(self, name: str, function: Callable[[OptimizationAlert], Any], seconds: float = SECONDS) -> None:
        self.name = name
        self._function = function
        self._seconds = seconds
        self._calls = Calls(f"channel {name}")
        self._notified: OrderedDict[tuple[str, int], set[str]] = OrderedDict()

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        key = (notice.group_key, notice.number)
        notified = self._notified.setdefault(key, set())
        firing = notice.firing if notice.kind in _REPORT_ALL else notice.new
        for alert in (*firing, *notice.resolved):
            if alert.alert_id in notified:
                continue
            given = optimization_alert_of(alert, notice.at)
            call = partial(self._function, given)
            outcome = await outcome_of(self._calls, call, self._seconds, awaits=is_async(self._function))
            if isinstance(outcome, Failed):
                while len(self._notified) > _REMEMBERED:
                    self._notified.popitem(last=False)
                return outcome
            notified.add(alert.alert_id)
        del self._notified[key]
        return Sent()


class BlockChannel(MessageChannel):
    """A channel for any object with `notify(body, subject)`, such as Prefect's notification blocks."""

    def __init__(self, name: str, block: Any) -> None:
        super().__init__(name, SECONDS, _secrets_in(block))
        self._block = block
        self._one_at_a_time = threading.Lock()  # `raise_on_failure` applies to the block, not to the call

    def _write(self, message: Message) -> Failed | None:
        raising = getattr(self._block, "raise_on_failure", contextlib.nullcontext)
        with guarded(self._secrets), self._one_at_a_time:
            try:
                with raising():
                    answer = self._block.notify(self._body(message), message.title)
                    if inspect.iscoroutine(answer):
                        asyncio.run(answer)
            except Exception as error:
                if not isinstance(log := getattr(error, "log", None), str):
                    raise
                # The error of Prefect's blocks has Apprise's log.
                return failed(log or "Prefect's block could not send it and logged no reason", self._secrets)
        return None

    def _body(self, message: Message) -> str:
        """Return the body. Prefect's blocks pass it to Apprise without a format; mail services take it for HTML."""
        servers = list(getattr(self._block, "_apprise_client", ()))  # only Prefect's blocks have it
        limit = min((each.body_maxlen for each in servers), default=TEXT_LIMIT)
        letters = bool(servers) and all(each.notify_format == Form.HTML.value for each in servers)
        return message.body(Form.PAGE if letters else Form.TEXT, limit)


def _secrets_in(block: Any) -> Secrets:
    """Return the values of all fields of the types SecretStr and Secret."""
    fields = [getattr(block, name, None) for name in getattr(type(block), "model_fields", {})]
    hidden = [each.get_secret_value() for each in fields if isinstance(each, Secret | SecretStr)]
    texts = [each for value in hidden for each in (value.values() if isinstance(value, dict) else [value])]
    return Secrets(part for each in texts if isinstance(each, str) for part in secret_parts(each, shown=host_in(each)))


# The built-in channels. No alert's text can forge an entry: a log record is one line, and in the console and the file
# all lines of an entry but the first are indented.

_shown: Callable[[Alert], bool] | None = None


def show_only(wanted: Callable[[Alert], bool] | None) -> None:
    """Limit the alerts that the log and console channels of this process show; None shows all. All count as sent.

    For an interactive program that is about few of the store's optimizations.
    """
    global _shown
    _shown = wanted


def _shown_here(message: Message) -> Message | None:
    if _shown is None:
        return message
    notice = message.notice
    firing, resolved = (tuple(filter(_shown, alerts)) for alerts in (notice.firing, notice.resolved))
    if not firing and not resolved:
        return None
    known = sum(map(_shown, notice.firing[len(notice.new) :]))
    return message.about(replace(notice, firing=firing, resolved=resolved, known=known))


_ANSI = {AlertLevel.INFO: 36, AlertLevel.WARNING: 33, AlertLevel.ERROR: 31, AlertLevel.CRITICAL: 91}
_ANSI_RESOLVED = 32


class LogChannel(MessageChannel):
    """Writes one record for each notice to the logger `o9.alerts`, at its level, or INFO if all is resolved."""

    def __init__(self) -> None:
        super().__init__("log", BUILT_IN_SECONDS, at_once=1)

    def _write(self, given: Message) -> None:
        if (message := _shown_here(given)) is None:
            return
        notice = message.notice
        alerts = [each.alert_id for each in notice.news_first[:IDS_LOGGED]]
        ids = {"receiver": notice.receiver, "kind": notice.kind.value, "alerts": alerts}
        logger.log(_level_of(message), "%s | %s", message.title, chat_line(message.body()), extra={"o9": ids})


class ConsoleChannel(MessageChannel):
    """Writes to the program's present stderr, in colour if that is a terminal and NO_COLOR is not set.

    logged: whether a receiver is also notified through the log. A message that the program's logging already shows on
    the same stream is not printed again.
    """

    def __init__(
        self, stream: Callable[[], TextIO] | None = None, logged: Callable[[str], bool] = lambda _: False
    ) -> None:
        super().__init__("console", BUILT_IN_SECONDS, at_once=1)
        self._stream = stream or (lambda: sys.stderr)
        self._logged = logged

    def _write(self, given: Message) -> None:
        if (message := _shown_here(given)) is None:
            return
        stream = self._stream()
        if self._logged(message.notice.receiver) and _log_is_shown_on(stream, _level_of(message)):
            return
        title = message.title
        if stream.isatty() and not os.environ.get("NO_COLOR"):
            title = f"\x1b[1;{_ANSI_RESOLVED if message.over else _ANSI[message.level]}m{title}\x1b[0m"
        text = f"{title}\n{_indented(message.body())}\n"
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()


class FileChannel(MessageChannel):
    """Appends to a file, by default O9_ALERTS_LOG, which is rotated at `most_bytes`; `kept` older ones are kept.
    Several processes may write to it.
    """

    def __init__(self, path: str | Path | None = None, most_bytes: int = FILE_BYTES, kept: int = FILES_KEPT) -> None:
        super().__init__("file", BUILT_IN_SECONDS, at_once=1)
        self._path = Path(path or settings().alerts_log).expanduser()
        self._most_bytes = most_bytes
        self._kept = kept

    def _write(self, message: Message) -> None:
        entry = f"{moment(message.notice.at)}  {message.title}\n{_indented(message.body())}\n".encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path.with_name(f"{self._path.name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.exists() and self._path.stat().st_size + len(entry) > self._most_bytes:
                self._rotate()
            with open(self._path, "ab", opener=private) as file:
                file.write(entry)

    def _rotate(self) -> None:
        old = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1))]
        for newer, older in zip(reversed(old[:-1]), reversed(old[1:]), strict=True):
            if newer.exists():
                newer.replace(older)


def _level_of(message: Message) -> int:
    level: int = logging.INFO if message.over else getattr(logging, message.level.name)
    return level


def _log_is_shown_on(stream: TextIO, level: int) -> bool:
    """Return whether the program's log handlers write a record of the channel `log` to this stream."""
    if not logger.isEnabledFor(level):
        return False
    at: logging.Logger | None = logger
    while at is not None:
        on_it = (each for each in at.handlers if _unwrapped(getattr(each, "stream", None)) is _unwrapped(stream))
        if any(level >= handler.level for handler in on_it):
            return True
        at = at.parent if at.propagate else None
    return False


def _unwrapped(stream: object) -> object:
    """Return the stream behind the proxy of Rich's live display, if there is one."""
    return getattr(stream, "rich_proxied_file", stream)


def _indented(text: str) -> str:
    return "\n".join(f"  {each}" if each else "" for each in text.split("\n"))

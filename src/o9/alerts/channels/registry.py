"""The channels that a node can send through: the built-in ones, those that its program registered, and those that the
configuration names by an address or as a block.

Contract. A channel's name is not secret, and is the same on every node: that of an address is its scheme and a hash.
What cannot be a channel is refused at registration, or with the configuration; a block is loaded at its first send,
since Prefect's server may be away.
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
from o9.alerts.channels.redaction import Secrets, guarded, host_in, parts_of
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
TEXT_LIMIT = 20_000  # for a block that has no limit of its own
_NOTIFIED_AGAIN = (NoticeKind.REPEAT, NoticeKind.ESCALATION)
_REMEMBERED = 100  # notices that failed in part


def built_in_channels(logged: Callable[[str], bool] = lambda _: False) -> dict[str, Channel]:
    """Those that are there from the start; a user's of the same name replaces one. `logged`: see ConsoleChannel."""
    return {"log": LogChannel(), "console": ConsoleChannel(logged=logged), "file": FileChannel()}


def channel_of(name: str, what: Any) -> Channel:
    """The channel `name`: a function or coroutine function of one alert, an Apprise URL, an object with `notify(body,
    subject)`, or a channel.

    Raises OptimizationValidationError, which names the channel and the remedy, and holds nothing of a URL.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT or not name.isprintable():
        raise OptimizationValidationError(
            "channels", f"{name!r:.80} cannot name a channel; take printable text of 1 to {NAME_LIMIT} characters"
        )
    field = f"channels.{name}"
    if isinstance(what, str):
        from o9.alerts.channels.apprise import AppriseChannel  # which loads Apprise

        return AppriseChannel(name, what)
    if inspect.isclass(what):
        raise OptimizationValidationError(field, f"{what.__name__} is a class; give an instance of it")
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
        f"{type(what).__name__} is no channel; give a function or coroutine function of one alert, an Apprise URL, "
        "a block with notify(body, subject), or block:NAME",
    )


def _check_takes_one(field: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: its first call shows it
    try:
        signature.bind(object())
    except TypeError:
        raise OptimizationValidationError(
            field, f"it is called with one alert, and takes {signature}; let it take exactly one argument"
        ) from None


class ChannelRegistry:
    """`resolve` loads a block by its name; None: this program cannot."""

    def __init__(self, resolve: Callable[[str], Any] | None = None) -> None:
        self._resolve = resolve
        self._built_in = built_in_channels(lambda receiver: receiver in self._logged)
        self._logged: frozenset[str] = frozenset()
        self._own: dict[str, Channel] = {}
        self._named: dict[str, Channel] = {}

    @property
    def own(self) -> tuple[str, ...]:
        """What the program registered, by name: other nodes may not have it."""
        return tuple(sorted(self._own))

    def register(self, name: str, what: Any) -> None:
        """Raises OptimizationValidationError for what is no channel."""
        if name == EVERY_CHANNEL or "://" in str(name) or str(name).startswith(BLOCK):
            raise OptimizationValidationError("channels", f"{name!r:.80} cannot name a channel; take a plain name")
        self._own[name] = self._made(name, what)

    def channels(self, configuration: Configuration) -> dict[str, Channel]:
        """All that this node has, by name. Raises OptimizationValidationError for an address that is none."""
        references = [each for receiver in configuration.receivers.values() for each in receiver.channels]
        named = {channel_name(each): each for each in references if "://" in each or each.startswith(BLOCK)}
        self._named = {name: self._named.get(name) or self._made(name, each) for name, each in named.items()}
        through_log = () if "log" in self._own else (EVERY_CHANNEL, "log")
        self._logged = frozenset(
            name for name, each in configuration.receivers.items() if not {*each.channels}.isdisjoint(through_log)
        )
        return {**self._built_in, **self._named, **self._own}

    def unknown(self, configuration: Configuration) -> dict[str, str]:
        """Names of channels that this node does not have, each with a receiver that names it."""
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
    """The name of the channel that a receiver refers to."""
    scheme, is_address, _ = reference.partition("://")
    if not is_address:
        return reference
    return f"{scheme.lower()}-{hashlib.blake2b(reference.encode(), digest_size=4).hexdigest()}"


class NamedBlock:
    """A block that is loaded at the first send."""

    shows_the_first = True

    def __init__(self, name: str, block: str, resolve: Callable[[str], Any] | None) -> None:
        self.name = name
        self._block = block
        self._resolve = resolve
        self._channel: Channel | None = None

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        if self._channel is None:
            if self._resolve is None:
                return Failed(f"this program cannot load blocks, and so not {self._block!r}")
            try:
                block = await asyncio.to_thread(self._resolve, self._block)
                self._channel = channel_of(self.name, block)
            except Exception as error:  # noqa: BLE001 - of Prefect, its server or the block: the try fails with it
                return failed(f"the block {self._block!r} cannot be loaded: {type(error).__name__}: {error}")
        return await self._channel.send(message, notice)


class FunctionChannel:
    """A user's function, sync or async, of one alert.

    It is called with each alert of a notice that is new or resolved; at a repeat or an escalation with each that fires.
    It runs in a thread of the channel's own, a coroutine function in the program's event loop, under the watchdog. It
    fails if it raises or returns False. If it fails for one of several alerts, this process does not repeat those
    before it when the notice is tried again.
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
        firing = notice.firing if notice.kind in _NOTIFIED_AGAIN else notice.new
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
    """Any object with `notify(body, subject)`: Prefect's notification blocks as they are."""

    def __init__(self, name: str, block: Any) -> None:
        super().__init__(name, SECONDS, _secrets_in(block))
        self._block = block
        self._one_at_a_time = threading.Lock()  # `raise_on_failure` is the block's, not the call's

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
                # Prefect's blocks raise with what Apprise logged.
                return failed(log or "Prefect's block could not send, and logged no reason", self._secrets)
        return None

    def _body(self, message: Message) -> str:
        """Without a form Apprise passes it on as it is, and mail services take it for HTML."""
        servers = list(getattr(self._block, "_apprise_client", ()))  # Prefect's; without it plain text is right
        limit = min((each.body_maxlen for each in servers), default=TEXT_LIMIT)
        letters = bool(servers) and all(each.notify_format == Form.HTML.value for each in servers)
        return message.body(Form.PAGE if letters else Form.TEXT, limit)


def _secrets_in(block: Any) -> Secrets:
    """The values of all fields of the type SecretStr or Secret."""
    fields = [getattr(block, name, None) for name in getattr(type(block), "model_fields", {})]
    hidden = [each.get_secret_value() for each in fields if isinstance(each, Secret | SecretStr)]
    texts = [each for value in hidden for each in (value.values() if isinstance(value, dict) else [value])]
    return Secrets(part for each in texts if isinstance(each, str) for part in parts_of(each, shown=host_in(each)))


# The built-in ones. No text in an alert can forge an entry: a record of the log is one line, and in the console and the
# file every line of an entry but its first is indented.

_shown: Callable[[Alert], bool] | None = None


def show_only(wanted: Callable[[Alert], bool] | None) -> None:
    """What the log and the console of this process show of all that goes through them; None: everything.

    For a program that a person watches, and that is about few optimizations of the store. All of it counts as sent.
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
    """Logger `o9.alerts`: one record for each notice, at its level; INFO once all of it is resolved."""

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
    """The program's stderr at the time of the send; coloured if that is a terminal and NO_COLOR is not set.

    logged: whether a receiver is notified through the log as well. A message that the program's own logging shows on
    the same stream is not printed twice.
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
    """A file (None: O9_ALERTS_LOG). Above `most_bytes` it is renamed to `NAME.1`, and older ones up to `NAME.kept`.
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
    """Whether a record of the channel `log` goes to this stream, by the handlers that the program has."""
    if not logger.isEnabledFor(level):
        return False
    at: logging.Logger | None = logger
    while at is not None:
        there = (each for each in at.handlers if _bare(getattr(each, "stream", None)) is _bare(stream))
        if any(level >= handler.level for handler in there):
            return True
        at = at.parent if at.propagate else None
    return False


def _bare(stream: object) -> object:
    """The stream behind a proxy of Rich's live display."""
    return getattr(stream, "rich_proxied_file", stream)


def _indented(text: str) -> str:
    return "\n".join(f"  {each}" if each else "" for each in text.split("\n"))

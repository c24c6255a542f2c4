"""Users' channels: a function or coroutine function of one alert, or a block that notifies.

Contract. A function is called with an `OptimizationAlert` for each alert of a notice that is new or resolved; at a
repeat or an escalation for each that fires. It runs in a thread of the channel's own, a coroutine function in the
program's event loop, under the watchdog. It fails if it raises or returns False. If it fails for one of several alerts,
this process does not repeat those before it when the notice is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import Secret, SecretStr

from o9.alerts.channels.outcome import Failed, Sent, failed, outcome_of
from o9.alerts.channels.redaction import Secrets, guarded, host_in, parts_of
from o9.alerts.messages.render import Form, Message
from o9.alerts.pipeline.alert import optimization_alert_of
from o9.alerts.pipeline.notice import Notice, NoticeKind
from o9.model.optimization import OptimizationAlert
from o9.strategies.registry import is_async
from o9.user_code.calls import Calls

SECONDS = 30.0
TEXT_LIMIT = 20_000  # for a block that has no limit of its own
_NOTIFIED_AGAIN = (NoticeKind.REPEAT, NoticeKind.ESCALATION)
_REMEMBERED = 100  # notices that failed in part


class FunctionChannel:
    """A user's function, sync or async."""

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

    def __repr__(self) -> str:
        return f"<FunctionChannel {self.name!r}>"


class BlockChannel:
    """Any object with `notify(body, subject)`: Prefect's notification blocks as they are."""

    shows_the_first = True

    def __init__(self, name: str, block: Any, seconds: float = SECONDS) -> None:
        self.name = name
        self._block = block
        self._seconds = seconds
        self._secrets = _secrets_in(block)
        self._calls = Calls(f"channel {name}")
        self._one_at_a_time = threading.Lock()  # `raise_on_failure` is the block's, not the call's

    async def send(self, message: Message, notice: Notice) -> Sent | Failed:
        return await outcome_of(self._calls, lambda: self._notify(message), self._seconds, self._secrets)

    def _notify(self, message: Message) -> Failed | None:
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

    def __repr__(self) -> str:
        return f"<BlockChannel {self.name!r}>"


def _secrets_in(block: Any) -> Secrets:
    """The values of all fields of the type SecretStr or Secret."""
    fields = [getattr(block, name, None) for name in getattr(type(block), "model_fields", {})]
    hidden = [each.get_secret_value() for each in fields if isinstance(each, Secret | SecretStr)]
    texts = [each for value in hidden for each in (value.values() if isinstance(value, dict) else [value])]
    return Secrets(part for each in texts if isinstance(each, str) for part in parts_of(each, shown=host_in(each)))

"""The block that keeps an alert channel's URL as a secret, and the loading of blocks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import PrefectException
from pydantic import Field, HttpUrl, SecretStr

from o9.model.errors import OptimizationAlertError, OptimizationValidationError
from o9.model.urls import public_text

if TYPE_CHECKING:
    from o9.alerts.channels.apprise import AppriseChannel


class AlertChannel(Block):
    """A channel for O9's alerts, by its Apprise URL: `AlertChannel(url="slack://…").save("desk")`.

    O9 sends to it through the channel `block:desk`.
    """

    _block_type_name = "O9 Alert Channel"
    _block_type_slug = "o9-alert-channel"
    _description = "A service that O9 sends its alerts to: any that Apprise knows."
    _logo_url = HttpUrl(  # Prefect's own, for what is sent
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/"
        "block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://pypi.org/project/prefect-o9/")
    _code_example = """```python
from o9.blocks import AlertChannel
from OptimizationStateAggregator import AlertNotificationSystem

channel = AlertChannel.load("BLOCK_NAME")
AlertNotificationSystem({"desk": channel.url.get_secret_value()})
```
In the alerts' file, a receiver sends to it by `channels: ["block:BLOCK_NAME"]`."""

    url: SecretStr = Field(
        title="URL", description="An Apprise URL, such as slack://… or mailtos://user:password@host."
    )

    def to_channel(self, name: str) -> AppriseChannel:
        """The channel `name`. Raises OptimizationValidationError for a URL that Apprise does not accept."""
        from o9.alerts.channels.apprise import AppriseChannel

        return AppriseChannel(name, self.url)


def load_block(name: str) -> Any:
    """The AlertChannel that was saved as `name`, or with `TYPE/NAME` any block, such as `slack-webhook/desk`.

    Raises OptimizationValidationError for an unknown block, OptimizationAlertError where it cannot be loaded. Blocks.
    """
    try:
        if "/" in name:
            return Block.load(name, _sync=True)  # type: ignore[call-arg]  # Prefect's decorator takes it
        return AlertChannel.load(name, _sync=True)  # type: ignore[call-arg]
    except ValueError as error:
        raise OptimizationValidationError(f"block:{name}", f"{error}; save it, or give the URL itself") from None
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        why = public_text(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise OptimizationAlertError(f"block:{name} cannot be loaded from Prefect's server ({why})") from error

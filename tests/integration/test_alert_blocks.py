"""Channels that are blocks of a real Prefect server: O9's own and Prefect's deliver; what cannot be loaded is said."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from alert_servers import HookServer
from command_line import O9
from o9_testing import free_port

from o9.aggregator.prefect_server import prefect_client_settings
from o9.blocks import AlertChannel
from o9.blocks.alert_channel import load_block
from o9.model.errors import OptimizationAlertError
from o9.model.optimization import OptimizationAlert, utc_now

BLOCKS = ("block:desk-saved", "block:custom-webhook/desk-saved")
FILE = """
route: {{receiver: desk, group_wait: 0s, group_interval: 1s}}
receivers: [{{name: desk, channels: [{channels}]}}]
"""


@pytest.fixture
async def saved(hooks: HookServer) -> None:
    """O9's block and one of Prefect's, which send to `hooks`."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    theirs = CustomWebhookNotificationBlock(
        name="desk", url=f"http://localhost:{hooks.port}/{{{{token}}}}", secrets={"token": "theirs-T0PSECRET"},
        json_data={"title": "{{subject}}", "message": "{{body}}"},
    )  # fmt: skip
    with prefect_client_settings(o9_testing.session_server()):
        await AlertChannel(url=f"json://localhost:{hooks.port}/ours-T0PSECRET").save("desk-saved", overwrite=True)
        await theirs.save("desk-saved", overwrite=True)


def o9(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return zygote.run([*O9, "alerts", *arguments], cwd=folder, env=o9_testing.clean_environment(**environment))


async def test_a_node_sends_through_them(
    saved: None,
    hooks: HookServer,
    tmp_path: Path,
    set_o9: Callable[..., None],
    open_aggregator: Callable[..., Awaitable[Any]],
    async_wait_until: Callable[..., Awaitable[Any]],
) -> None:
    (tmp_path / "alerts.yaml").write_text(FILE.format(channels=", ".join(BLOCKS)), encoding="utf-8")
    set_o9(alerts_file=tmp_path / "alerts.yaml")
    aggregator = await open_aggregator()
    await aggregator.send_alert(OptimizationAlert("a", "opt-1", "error", "Drawdown", "it fell", utc_now()))  # type: ignore[arg-type]
    await async_wait_until(lambda: len(hooks.received) == 2, 30.0)
    assert sorted(each.path for each in hooks.received) == ["/ours-T0PSECRET", "/theirs-T0PSECRET"]
    assert {each.json["title"] for each in hooks.received} == {"[ERROR] Drawdown: opt-1"}
    assert all("it fell" in each.json["message"] for each in hooks.received)

    async def sent() -> bool:
        history = await aggregator.alert_system.get_notification_history()
        return sorted((each["channel"], each["status"]) for each in history) == [
            (name, "sent") for name in sorted(BLOCKS)
        ]

    await async_wait_until(sent)


async def test_a_channel_that_is_a_block_is_really_tried(saved: None, hooks: HookServer, tmp_path: Path) -> None:
    for block, path in zip(BLOCKS, ("/ours-T0PSECRET", "/theirs-T0PSECRET"), strict=True):
        told = await asyncio.to_thread(o9, tmp_path, "config", "test", block)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith(block)
        assert told.stdout.endswith(": sent\n")
        assert "T0PSECRET" not in told.stdout
        assert hooks.received[-1].path == path
        assert hooks.received[-1].json["title"] == "[INFO] Test of a channel"


@pytest.mark.parametrize("block", ["block:nothing", "block:custom-webhook/nothing", "block:nosuch/nothing"])
async def test_a_block_that_is_not_there_is_said_in_a_line(block: str, tmp_path: Path) -> None:
    o9_testing.session_server()
    told = await asyncio.to_thread(o9, tmp_path, "config", "test", block)
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert (line.startswith(f"o9: {block}: "), line.count(block), "nothing for block type" in line) == (True, 1, True)


def test_a_prefect_server_that_does_not_answer_is_said_in_a_line(tmp_path: Path) -> None:
    told = o9(tmp_path, "config", "test", "block:desk", PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("o9: block:desk: not sent: Prefect's server at http://127.0.0.1:")
    assert "did not answer within 10 s" in line


def test_a_block_that_cannot_be_loaded_is_an_error_of_o9_s() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(OptimizationAlertError, match=r"block:desk cannot be loaded .*\(ConnectError: "),
    ):
        load_block("desk")

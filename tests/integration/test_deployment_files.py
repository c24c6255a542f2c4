"""The files of `deployments/` for Docker and Kubernetes, as far as they can be tried without either.

No container is built or started. Each command and health check of `compose.yaml` is run as a plain process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import yaml
import zygote
from command_line import O9
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from o9.aggregator.deployments import all_flows, deploy
from o9.aggregator.prefect_server import prefect_client_settings
from o9.aggregator.schedules import SCHEDULES
from o9.flows.hand_over import DEFAULT_DEPLOYMENT
from o9.model.settings import Settings
from o9.store import queries
from o9.store.store import Store

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
COMPOSE = FOLDER / "compose.yaml"
TEMPLATE = json.loads((FOLDER / "kubernetes-job-template.json").read_text())
CHOICES = {"POSTGRES_PASSWORD": "secret", "PREFECT_AUTH_STRING": "admin:secret"}
SPEC = {"optimization_id": "composed", "total_steps": 2, "metadata": {"objective": "branin", "seed": 7}}


def services() -> dict[str, Any]:
    """Those of compose.yaml, with its variables filled in."""

    def chosen(found: re.Match[str]) -> str:
        name, default = found.groups()
        return CHOICES[name] if default is None or default.startswith("?") else CHOICES.get(name, default[1:])

    text = re.sub(r"\$\{(\w+)(?::([-?][^}]*))?\}", chosen, COMPOSE.read_text())
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="on Debian: apt-get install docker-compose")
def test_compose_reads_the_file() -> None:
    command = ["docker-compose", "-f", str(COMPOSE), "config", "--format", "json"]
    done = subprocess.run(command, env=os.environ | CHOICES, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["services"].keys() == services().keys()
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0  # without a password


def test_every_variable_is_a_setting() -> None:
    known = {f"O9_{name.upper()}" for name in Settings.model_fields} | _get_valid_setting_names(PrefectSettings)
    named = {name for service in services().values() for name in service["environment"]}
    assert {name for name in named if name.startswith(("O9_", "PREFECT_"))} <= known
    (given,) = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert given["name"] in known


def test_the_image_is_built_of_what_is_copied(tmp_path: Path) -> None:
    for line in re.findall(r"^COPY (.+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / source, tmp_path / target, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert wheel.name.startswith("prefect_o9")


async def test_prefect_takes_the_job_template_and_o9_deploys_to_it(set_o9: Callable[..., None]) -> None:
    public_url = "https://o9.desk.example"
    set_o9(store_url="postgresql://o9:secret@postgres/o9", allowed_imports="desk", public_url=public_url)
    with prefect_client_settings(o9_testing.session_server()):
        async with get_client() as client:
            pool = WorkPoolCreate(name="cluster", type="kubernetes", base_job_template=TEMPLATE)
            await client.create_work_pool(pool, overwrite=True)
            try:
                names = await deploy(await asyncio.to_thread(all_flows), "cluster")
                assert len(names) == len(SCHEDULES)
                made = await client.read_deployment_by_name(names[0])
                environment = {"O9_ALLOWED_IMPORTS": "desk", "O9_PUBLIC_URL": public_url}  # the password stays here
                assert made.job_variables == {"env": environment}
            finally:
                for name in names:
                    await client.delete_deployment((await client.read_deployment_by_name(name)).id)
                await client.delete_work_pool("cluster")


def test_every_placeholder_of_the_job_template_is_a_variable() -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == TEMPLATE["variables"]["properties"].keys()


# What compose.yaml starts, as plain processes


@pytest.mark.long
def test_each_command_runs_and_each_health_check_passes(
    new_postgres_url: str, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """With Prefect's record in SQLite: the PostgreSQL that tests have lacks the extension that Prefect needs."""
    o9_testing.give_prefect_database(tmp_path / "home")
    alerts = yaml.safe_load(COMPOSE.read_text())["configs"]["alerts"]["content"]
    (tmp_path / "alerts.yaml").write_text(alerts.replace("${O9_ALERT_CHANNEL:-log}", "log"))
    server, node, worker = (str(o9_testing.free_port()) for _ in range(3))
    here = {
        "postgresql://o9:secret@postgres/o9": new_postgres_url,
        "postgresql+asyncpg://o9:secret@postgres/prefect": f"sqlite+aiosqlite:///{tmp_path}/home/prefect.db",
        "http://prefect:4200": f"http://127.0.0.1:{server}", "127.0.0.1:4200": f"127.0.0.1:{server}",
        "localhost:4200": f"127.0.0.1:{server}", "127.0.0.1:8420": f"127.0.0.1:{node}",
        "127.0.0.1:8080": f"127.0.0.1:{worker}", "/etc/o9": str(tmp_path), "/home/o9": str(tmp_path),
        "/desk": str(tmp_path),
    }  # fmt: skip

    def localized(text: str) -> str:
        for there, place in here.items():
            text = text.replace(there, place)
        return text

    running: dict[str, zygote.Process] = {}
    with o9_testing.no_process_left() as environment, ExitStack() as open_files:
        environment |= {
            "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_API_PORT": server, "O9_API_PORT": node,
            "PREFECT_WORKER_WEBSERVER_PORT": worker, "PREFECT_WORKER_QUERY_SECONDS": "1",
        }  # fmt: skip

        def environment_of(service: dict[str, Any]) -> dict[str, str]:
            return environment | {name: localized(value or "") for name, value in service["environment"].items()}

        def run(command: list[str], service: dict[str, Any], **streams: Any) -> zygote.Process:
            program, *arguments = command
            words = {"o9": O9, "prefect": ["-m", "prefect"], "python": []}[program]
            return zygote.start(
                [*words, *map(localized, arguments)], cwd=tmp_path, env=environment_of(service), **streams
            )

        def healthy(service: dict[str, Any]) -> bool:
            _, *check = service["healthcheck"]["test"]
            return run(check, service, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait() == 0

        try:
            for name, service in services().items():  # each stands behind those that it depends on
                if "command" not in service:
                    continue
                assert all(other in running or other == "postgres" for other in service["depends_on"])
                log = open_files.enter_context((tmp_path / f"{name}.log").open("w"))
                running[name] = run(service["command"], service, stdout=log, stderr=subprocess.STDOUT)
                if "healthcheck" in service:
                    wait_until(lambda: healthy(service), 60)  # noqa: B023 - it is over before the next
                else:
                    assert running.pop(name).wait(60) == 0, (tmp_path / f"{name}.log").read_text()
            started = run(
                ["prefect", "deployment", "run", DEFAULT_DEPLOYMENT, "--param", f"spec={json.dumps(SPEC)}"],
                services()["worker"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            told, _ = started.communicate(timeout=60)
            assert started.returncode == 0, told
            with Store(environment_of(services()["node"])["O9_STORE_URL"]) as store:

                def ended() -> bool:
                    state = store.read(queries.get, "composed")
                    return state is not None and state.status.value == "completed"

                wait_until(ended, 60)
        finally:
            for process in reversed(running.values()):
                process.terminate()
                process.wait(40)
            for log_file in tmp_path.glob("*.log"):
                print(log_file.name, log_file.read_text()[-3000:], sep="\n")

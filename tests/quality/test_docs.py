"""The documentation is held to the code: its examples run, its tables are complete."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import o9_testing
import pytest
import zygote
from command_line import filled_store

from o9.alerts.config.schema import load
from o9.cli.commands.control import answer_to
from o9.cli.main import root
from o9.cli.session.follow import Nodes
from o9.lifecycle.control import Verb
from o9.mirror import interpretation
from o9.model.settings import Settings
from o9.model.specification import Metadata, Role, keys_of
from o9.model.states import ENDED, TRANSITIONS, OptimizationStatus
from o9.statistics import frames
from o9.store.core.base import metadata
from o9.store.optimizations.queries import Holding

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


[FRAMES] = [block for block in blocks(GUIDE, "python") if "statistics.frame(" in block]


def run(folder: Path, *command: str) -> str:
    o9_testing.session_server()
    done = zygote.run(list(command), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_begins_with_its_two_commands() -> None:
    demo, tests = blocks(README, "sh")
    assert demo.count("\n") == tests.count("\n") == 1
    assert "o9 demo" in demo
    assert "pytest" in tests


def test_the_readme_example_runs_as_file_and_as_program(tmp_path: Path) -> None:
    objective, program = blocks(README, "python")
    specification, _ = blocks(README, "yaml")
    run(tmp_path, "-m", "o9.cli.main", "init")
    assert (tmp_path / "crossover.py").read_text(encoding="utf-8") == objective
    assert (tmp_path / "crossover.yaml").read_text(encoding="utf-8") == specification
    (tmp_path / "program.py").write_text(program, encoding="utf-8")

    told = run(tmp_path, "-m", "o9.cli.main", "run", "crossover.yaml")
    assert "completed" in told
    told = run(tmp_path, "program.py")
    assert "'fast':" in told.splitlines()[-1]


def test_the_alert_files_that_are_shown_are_such() -> None:
    files = [
        block for text in (README, GUIDE) for block in blocks(text, "yaml") if block.startswith(("route:", "rules:"))
    ]
    assert len([load(text) for text in files]) == 3


def test_the_guide_s_strategies_run(tmp_path: Path) -> None:
    strategies = [block for block in blocks(GUIDE, "python") if "register_strategy" in block]
    (tmp_path / "mine.py").write_text("\n".join(strategies), encoding="utf-8")
    steering = [block for block in blocks(GUIDE, "python") if "register_strategy" not in block and block != FRAMES]
    (tmp_path / "steering.txt").write_text("\n".join(steering), encoding="utf-8")
    (tmp_path / "program.py").write_text(_RUN_BOTH, encoding="utf-8")
    told = run(tmp_path, "program.py").splitlines()
    assert [line for line in told if "completed" in line] == ["halving completed True", "descent completed True"]
    assert sum(line.startswith("done: ") for line in told) == 2
    assert "Drawdown True eu has lost 3.0% since noon" in told


_RUN_BOTH = """
import asyncio

import pathlib

import mine
from OptimizationStateAggregator import OptimizationStateAggregator
from OptimizationStateAggregator import new_optimization


async def main():
    class exchange:
        async def is_open():
            return True

    class feed:
        async def age_seconds():
            return 0.0

    async with OptimizationStateAggregator(monitoring_interval=0.1) as aggregator:
        names = {"aggregator": aggregator, "coordinator": aggregator.coordinator, "exchange": exchange, "feed": feed}
        exec(pathlib.Path("steering.txt").read_text(), names)
        for name in ("halving", "descent"):
            state = new_optimization({"name": name, "total_steps": 12, "metadata": {"strategy": name}})
            await aggregator.submit_optimization(state)
            while (state := await aggregator.get_optimization_status(state.optimization_id)).completed_at is None:
                await asyncio.sleep(0.1)
            print(name, state.status.value, state.current_performance > -0.1)
        alerts, _ = await names["tell_of_drawdown"]("eu", 0.03)
        print(alerts[0].title, alerts[0].resolved, alerts[0].message)
        await asyncio.sleep(1)  # what happened is told within the monitoring interval


asyncio.run(main())
"""


async def test_the_guide_s_frames_are_there_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    filled_store()
    await eval(compile(FRAMES, "notebook", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    assert {"completed", "failed"} <= set(capsys.readouterr().out.split())
    assert (tmp_path / "trials.csv").read_text(encoding="utf-8").count("\n") == 1 + 6
    table = GUIDE.partition("| frame | has |")[2].partition("\n\n")[0]
    named = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    assert set(re.findall(r"\w+", named)) == {*frames.KINDS}


def test_the_guide_lists_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `O9_(\w+)` \| (.*?) \|", GUIDE, re.MULTILINE))
    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = rows[name.upper()].strip("`")
        if field.default_factory is None:
            number = isinstance(field.default, int | float)
            default = "empty" if field.default in ((), "") else f"{field.default:g}" if number else field.default
            assert shown == default


def test_the_guide_s_table_of_what_to_optimize_has_the_keys_that_may_be_typed() -> None:
    rows = GUIDE.partition("## What to optimize")[2].partition("Any other key")[0].splitlines()
    keys = {key for row in rows if row.startswith("| `") for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert keys == Metadata.model_fields.keys() - keys_of(Role.RECORDED)


def test_the_guide_s_table_of_statuses_is_the_code_s() -> None:
    for status, onward in TRANSITIONS.items():
        if status not in ENDED:
            row = re.search(rf"^\| {status.value} \| .*? \| (.*?) \|$", GUIDE, re.MULTILINE)
            assert row is not None, status
            assert {word.strip() for word in row[1].split(",")} == {other.value for other in onward}


def test_the_guide_s_table_of_commands_is_the_command_line_s() -> None:
    listed = {
        row for cell in re.findall(r"^\| (`o9 .*?) \|", GUIDE, re.MULTILINE) for row in re.findall(r"`o9 (\w+)", cell)
    }
    there = set(root().commands)
    assert listed == there
    assert set(re.findall(r"o9 (\w+)", " ".join(re.findall(r"`(o9 [^`]*)`", README + GUIDE)))) <= there


def test_the_guide_s_table_of_what_stops_an_optimization_names_prefect_s_states() -> None:
    for beginning, state in {
        "pause, with a deployment": "Suspended",
        "pause, without one": f"Cancelled, named `{interpretation.PAUSED}`",
        "O9 suspends it": f"named `{interpretation.SUSPENDED}`",
        "cancel": "Cancelled",
        "timeout": "Failed, named `TimedOut`",
        "its node is stopped": f"Cancelled, named `{interpretation.REQUEUED}`",
        "its node dies": "Crashed",
    }.items():
        row = re.search(rf"^\| {beginning}.*?\|.*?\| (.*?) \|", GUIDE, re.MULTILINE)
        assert row is not None, beginning
        assert state in row[1]
    assert interpretation.meaning_of("flow", "CANCELLED", interpretation.PAUSED, None).to is OptimizationStatus.PAUSED
    assert (
        interpretation.meaning_of("flow", "CANCELLED", interpretation.SUSPENDED, None).to
        is OptimizationStatus.SUSPENDED
    )
    assert (
        interpretation.meaning_of("flow", "CANCELLED", interpretation.REQUEUED, None).to is OptimizationStatus.CREATED
    )
    assert interpretation.meaning_of("flow", "FAILED", "TimedOut", None).to is OptimizationStatus.TIMEOUT
    assert interpretation.meaning_of("flow", "PAUSED", "Suspended", None).to is OptimizationStatus.PAUSED


def test_the_guide_s_examples_of_control_say_what_the_commands_say() -> None:
    told = " ".join(blocks(GUIDE, "console")[-1].split())
    held = Holding(**dict.fromkeys(Holding.__dataclass_fields__) | {"unmet": 0, "attempt": 1, "lease_node": "node"})  # type: ignore[arg-type]
    running = replace(held, status="running", intent="run")
    waiting = replace(held, status="created", intent="run", attempt=0, lease_node=None)
    nodes = Nodes({"node": {"limit": 1}})
    for wish, before, after in (
        (Verb.PAUSE, running, OptimizationStatus.RUNNING),
        (Verb.PAUSE, waiting, OptimizationStatus.PAUSED),
        (Verb.RESUME, replace(running, intent="pause"), OptimizationStatus.RUNNING),
        (Verb.CANCEL, waiting, OptimizationStatus.CANCELLED),
    ):
        assert answer_to(wish, "x", before, after, nodes)[1] in told


# For who changes O9


def test_the_architecture_names_every_table() -> None:
    named = set(re.findall(r"`(\w+)`", ARCHITECTURE))
    assert set(metadata.tables) - named == set()


def is_there(name: str) -> bool:
    """A path of the repository, or `room.module` and what is in it: `store.queue.claims.Claim`."""
    if "/" in name:
        return (ROOT / name).exists() or not name.startswith(("src/", "tests/", "docs/", "benchmarks/", "examples/"))
    here, (room, *rest) = ROOT / "src" / "o9", name.split(".")
    if not rest or not (here / room / "__init__.py").is_file():
        return True  # something else
    for part in (room, *rest):
        if here.suffix == ".py":
            return re.search(rf"\b{part}\b", here.read_text(encoding="utf-8")) is not None
        here = here / part if (here / part).is_dir() else here / f"{part}.py"
        if not here.exists():
            return False
    return True


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/adr/0001-layout.md"])
def test_what_the_pages_on_the_code_name_is_there(page: str) -> None:
    names = re.findall(r"`([\w./]+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert [name for name in names if not is_there(name) and "000N" not in name] == []

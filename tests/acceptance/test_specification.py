"""Scripts written only from the specification, run as they stand in an empty folder, and what they print."""

import ast
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import o9_testing
import pytest
import zygote
from command_line import O9

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).with_name("scripts")


@pytest.fixture
def told(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """What the script of the test's parameter printed; it must leave no process behind."""
    source = (SCRIPTS / request.param).read_text(encoding="utf-8")
    with o9_testing.no_process_left() as environment:
        done = o9_testing.run_script(source, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("told", ["quick_start.py"], indirect=True)
def test_the_quick_start(told: str, tmp_path: Path) -> None:
    submitted, status, progress = told.splitlines()[-3:]
    assert submitted == "提交优化任务: opt_basic_001"
    assert status in ("优化状态: running", "优化状态: completed")
    assert re.fullmatch(r"进度: \d+\.\d%", progress)
    assert progress != "进度: 0.0%"

    record = sqlite3.connect(tmp_path / "optimization_state.db")
    ((name, warnings, steps),) = record.execute("SELECT name, warnings, completed_steps FROM optimization").fetchall()
    assert name == "基础优化示例"
    assert "built-in demonstration objective 'branin'" in warnings
    # Real work: each step has its trials, each of which has other parameters.
    trials = record.execute("SELECT DISTINCT parameters FROM trial").fetchall()
    assert len(trials) == 4 * steps > 0
    record.close()


@pytest.mark.parametrize("told", ["advanced.py"], indirect=True)
def test_the_advanced_example(told: str, tmp_path: Path) -> None:
    for number in range(5):
        name = f"opt_advanced_{number:03d}"
        seen = re.findall(rf"^{name}: (\w+) - (\d+\.\d)%$", told, re.MULTILINE)
        progress = [float(share) for _, share in seen]
        assert progress == sorted(progress)
        assert seen[-1] == ("completed", "100.0")

    statistics = ast.literal_eval(re.search(r"^全局统计: (.*)$", told, re.MULTILINE)[1])  # type: ignore[index]
    assert statistics["total_optimizations"] == 5
    assert statistics["by_status"]["completed"] == 5
    assert statistics["success_rate"] == 1.0
    assert statistics["duration_seconds"]["mean"] > 0
    # Without returns nobody can say whether a result is real, and then it is not called healthy.
    judged = re.findall(r"健康状态: (\w+)", told)
    assert (len(judged), judged.count("healthy")) == (5, 0)
    # Whoever misses the target of 0.9, or ends below the baseline of 0.7, is told of by a rule, once, and nobody else.
    record = sqlite3.connect(tmp_path / "optimization_state.db")
    alerts = record.execute("SELECT optimization_id, json_extract(labels, '$.rule') FROM alert").fetchall()
    ends = record.execute("SELECT optimization_id, current_performance FROM optimization").fetchall()
    record.close()
    limits = {"target_missed": 0.9, "worse_than_baseline": 0.7}
    assert sorted((name, rule) for name, rule in alerts if rule in limits) == sorted(
        (name, rule) for name, performance in ends for rule, limit in limits.items() if performance < limit
    )
    assert re.findall(r"^告警数量: (\d+)$", told, re.MULTILINE) == [str(len(alerts))]
    response = ast.literal_eval(re.search(r"^API响应: (.*)$", told, re.MULTILINE)[1])  # type: ignore[index]
    assert response["success"] is True
    assert response["api_version"] == "v1"
    assert response["data"] == statistics


@pytest.mark.parametrize("told", ["best_practices.py"], indirect=True)
def test_the_best_practices_and_the_custom_strategy(told: str) -> None:
    """With logging at DEBUG, and two aggregators one after the other, each in an event loop of its own."""
    lines = told.splitlines()
    assert lines[0].startswith("优化错误: total_steps: ")
    assert "['opt_002', 'opt_003', 'opt_004']" in lines
    assert "暂停: 50%" in lines
    statistics = ast.literal_eval(re.search(r"^系统状态: (.*)$", told, re.MULTILINE)[1])  # type: ignore[index]
    assert statistics["by_status"] == {"completed": 3}
    assert statistics["by_strategy"] == {"custom": 1, "demonstration": 2}
    assert "活跃任务: 3" in lines
    assert lines[-1] == "未解决告警: 0"


@pytest.mark.long  # `test_cli_serve.py` and `test_http.py` are about its parts
def test_the_two_examples_over_http(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    """The same programs as requests to `o9 serve`, started as a process in an empty folder."""
    out = tmp_path / "out"
    with o9_testing.no_process_left() as environment, out.open("w") as written:
        environment |= {**o9_testing.prefect_environment(), "O9_API_PORT": "0", "O9_API_RATE_LIMIT": "100000/minute"}
        server = zygote.start([*O9, "serve"], cwd=tmp_path, env=environment, stdout=written, stderr=written)
        try:
            wait_until(lambda: "Ctrl-C shuts it down" in out.read_text() or server.poll() is not None, 60)
            url = re.search(r"^HTTP: +(\S+),", out.read_text(), re.MULTILINE)[1]  # type: ignore[index]
            with httpx.Client(base_url=url, timeout=60) as client:
                _over_http(client, wait_until)
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def _over_http(client: httpx.Client, wait_until: Callable[..., Any]) -> None:
    def ask(path: str, **body: Any) -> Any:
        answer = client.post(path, json=body) if body else client.get(path)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def status(name: str) -> Any:
        return ask(f"/optimizations/{name}")

    objective = {"metadata": {"objective": "branin"}}
    names = ["opt_basic_001", *(f"opt_advanced_{number:03d}" for number in range(5))]
    ask("/optimizations", optimization_id=names[0], name="基础优化示例", optimization_type="parameter_tuning",
        priority="normal", **objective)  # fmt: skip
    for number, name in enumerate(names[1:]):
        ask("/optimizations", optimization_id=name, name=f"高级优化任务 {number}",
            description=f"演示高级功能的第{number + 1}个任务", optimization_type="strategy_optimization",
            priority="normal" if number % 2 else "high", total_steps=20, baseline_performance=0.7,
            target_performance=0.9, **objective)  # fmt: skip
    wait_until(lambda: len(ask("/optimizations?status=completed")["items"]) == len(names), 60)

    assert {status(name)["progress"] for name in names} == {1.0}
    statistics = ask("/statistics")
    assert (statistics["total_optimizations"], statistics["by_status"]) == (6, {"completed": 6})
    assert statistics["by_type"] == {"parameter_tuning": 1, "strategy_optimization": 5}
    healths = [ask(f"/health/{name}")["overall_status"] for name in names]
    assert (len(healths), healths.count("healthy")) == (6, 0)
    # Whoever misses the target of 0.9, or ends below the baseline of 0.7, is told of by a rule.
    limits = {"target_missed": 0.9, "worse_than_baseline": 0.7}
    missed = {
        (name, rule)
        for name in names[1:]
        for rule, limit in limits.items()
        if status(name)["current_performance"] < limit
    }

    def alerts() -> set[tuple[str, str]]:
        return {(each["optimization_id"], each["metadata"].get("rule")) for each in ask("/alerts")["items"]}

    wait_until(lambda: {each for each in alerts() if each[1] in limits} == missed, 60)

"""`o9 serve` as a process: it runs the queue and the schedules, and the next start continues its work."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import o9_testing
import pytest
import zygote
from command_line import O9, create

from o9.store import queries
from o9.store.store import Store

DESK = """
import time

def slow(parameters):
    time.sleep(0.2)
    return parameters["x"]
"""
KEPT = {"compute-statistics": "5 min", "check-health": "30 s", "prune-history": "1 h"}
SELDOM = ("compute-statistics", "prune-history")  # the other is due again before a test ends
SERVE = [*O9, "serve", "--store", "store.db"]


class Served:
    """`o9 serve` processes in one folder, their logs one JSON object a line."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment | {
            **o9_testing.prefect_environment(),
            "O9_LOG_FORMAT": "json",
        }
        self.processes: list[zygote.Process] = []

    def start(self) -> zygote.Process:
        number = len(self.processes)
        with (self.folder / f"out-{number}").open("w") as out, (self.folder / f"log-{number}").open("w") as log:
            self.processes.append(zygote.start(SERVE, cwd=self.folder, env=self._environment, stdout=out, stderr=log))
        return self.processes[-1]

    def out(self, number: int) -> str:
        return (self.folder / f"out-{number}").read_text()

    def log(self, number: int) -> list[dict[str, Any]]:
        lines = (self.folder / f"log-{number}").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def said(self, number: int) -> str:
        return "\n".join(line["message"] for line in self.log(number))

    def has_said(self, number: int, what: str, names: Iterable[str]) -> bool:
        said = self.said(number)
        return all(f"{name}: {what}" in said for name in names)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "desk.py").write_text(DESK)
    with o9_testing.no_process_left() as environment:
        made = Served(tmp_path, environment)
        yield made
        for process in made.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def submit(store: Store, name: str, **fields: Any) -> None:
    metadata = {"objective": "desk:slow", "search_space": o9_testing.LINE, "seed": 7}
    create(store, name, metadata=metadata, **fields)


@pytest.mark.slow
def test_it_works_the_queue_keeps_the_schedules_and_hands_what_runs_to_the_next(
    served: Served, wait_until: Callable[..., Any]
) -> None:
    with Store(str(served.folder / "store.db")) as store:
        first = served.start()
        wait_until(lambda: "Ctrl-C shuts it down" in served.out(0), 60)
        for word in ("store.db", "Prefect:", *(f"{name} (every {every})" for name, every in KEPT.items())):
            assert word in served.out(0)
        wait_until(lambda: served.has_said(0, "completed after", KEPT), 90)
        submit(store, "long", total_steps=400)  # from another process
        wait_until(lambda: (state := store.read(queries.get, "long")) and state.completed_steps >= 2, 60)
        second = served.start()  # beside the first: it runs nothing that the first has just run
        wait_until(lambda: "Ctrl-C shuts it down" in served.out(1), 60)
        assert not any(f"{name}: completed after" in served.said(1) for name in SELDOM)
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 0
        assert served.said(0).endswith("stopped")
        assert "running → created (node)" in served.said(0)
        assert "paused" not in served.said(0)
        assert {line["level"] for line in served.log(0)} == {"INFO"}
        assert [served.said(0).count(f"{name}: completed after") for name in SELDOM] == [1, 1]

        done = store.read(queries.get, "long").completed_steps
        wait_until(lambda: (state := store.read(queries.get, "long")) and state.completed_steps > done + 1, 60)
        assert o9_testing.path_of(store, "long")[-3:] == ["created", "initializing", "running"]
        told = [line for line in served.log(1) if line.get("optimization") == "long"]
        assert any(line["message"] == "initializing → running (hook)" for line in told)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
        assert o9_testing.path_of(store, "long")[-1] == "created"

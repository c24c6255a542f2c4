"""Build the API reference from the docstrings: `make docs`, then open build/docs/index.html in a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import OptimizationStateAggregator as public

MODULES = (
    "OptimizationStateAggregator",
    # What all components share, and what stands beside the public names.
    "o9.model.component", "o9.store.core.component", "o9.lifecycle.submission", "o9.statistics.frames",
    "o9.model.settings",
    # In Prefect: flows, tasks, blocks, schedules.
    "o9.flows.lifecycle", "o9.flows.mirror", "o9.flows.compute_statistics", "o9.flows.check_health",
    "o9.flows.deliver_alerts", "o9.flows.reconcile_states", "o9.flows.prune_history", "o9.tasks.steps",
    "o9.blocks.store", "o9.blocks.alert_channel", "o9.aggregator.schedules",
)  # fmt: skip


def build(folder: Path) -> None:
    """Write the pages into `folder`, over those that are there."""
    for name in public.__all__:
        getattr(public, name)  # each is loaded when it is first asked for, and pdoc looks at what is loaded
    pdoc.render.configure(docformat="markdown", footer_text=f"O9 {public.__version__}")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))

"""`run` and `resume --here`: run optimizations in this process, with progress, until they end."""

from __future__ import annotations

from collections.abc import Sequence

from o9.cli.failures import help_only
from o9.cli.options import Files, Json, MaxConcurrent, StoreUrl
from o9.model.errors import OptimizationError
from o9.model.states import ENDED

if not help_only:
    from o9.cli.batch import import_from_here, read_batch
    from o9.cli.open_store import existing_ids, existing_optimization, existing_store
    from o9.cli.session.session import conclude, run_session
    from o9.cli.views.words import command
    from o9.model.optimization import OptimizationState
    from o9.strategies.factory import settle
    from o9.text.escape import one_line


def run(files: Files, max_concurrent: MaxConcurrent = 10, store: StoreUrl = None, json: Json = False) -> int:
    """Submits them, shows their progress until they end, and prints the verdicts. A run file contains one optimization
    or a list of them, with the fields that `o9 show ID --json` prints; `o9 init` writes an example. The first Ctrl-C
    pauses them and prints how to continue; the second exits at once.
    """
    states = read_batch(files)
    ids = [state.optimization_id for state in states]
    return conclude(store, ids, run_session(store, ids, states, max_concurrent), as_json=json)


def resume_here(typed: Sequence[str], url: str | None, max_concurrent: int, *, as_json: bool) -> int:
    """Continue optimizations that do not run, in this process."""
    import_from_here()
    with existing_store(url) as store:
        names = existing_ids(store, typed)
        for name in names:
            _check_resumable(existing_optimization(store, name))

    return conclude(url, names, run_session(url, names, max_concurrent=max_concurrent), as_json=as_json)


def _check_resumable(state: OptimizationState) -> None:
    """Raise OptimizationError if it cannot continue here: the attempt itself would fail for good."""
    if state.status in ENDED:
        raise OptimizationError(
            f"{state.optimization_id} has ended ({state.status.value}), so it cannot be resumed; "
            f"`{command('retry', [state.optimization_id])}` runs it again"
        )
    try:
        settle(state)  # imports what it names, and runs nothing
    except OptimizationError as error:
        raise OptimizationError(f"{state.optimization_id} cannot be resumed here: {one_line(str(error))}") from error

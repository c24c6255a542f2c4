"""Run files: one optimization as a mapping, or a list of them, with the fields of OptimizationSpec.

Contract. Unless everything in all files can be submitted, the error has a line for each fault, which names the file,
the line, the entry and the field. Import paths may name modules of the current folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o9.config.document import Document
from o9.lifecycle.submission import in_order, prepared, requested
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationState, utc_now
from o9.text.escape import one_line

LIMIT_BYTES = 5 * 2**20


@dataclass(frozen=True)
class BatchEntry:
    """One optimization of a file. `number` is its place in a list, counted from 1; 0 for a single mapping."""

    document: Document
    number: int
    content: Any

    @property
    def place(self) -> str:
        return f"{self.document.source}, entry {self.number}" if self.number else self.document.source

    def faults(self, error: OptimizationValidationError) -> Iterator[str]:
        """A line for each fault."""
        for fault in sorted(self.document.placed(error, (self.number - 1,) if self.number else ())):
            yield f"{self.place}, {one_line(str(fault))}"


def read_batch(paths: Sequence[str]) -> list[OptimizationState]:
    """Read the optimizations of all files, checked as at submission, each behind those that it runs after."""
    import_from_here()
    faults: list[str] = []
    places: dict[str, str] = {}
    states: list[OptimizationState] = []
    for entry in [entry for path in paths for entry in _entries(path, faults)]:
        try:
            state = requested(_named(entry))
            name = state.optimization_id
            if name in places:
                problem = f"{name!r} is already in {places[name]}; use a different id, or omit it"
                raise OptimizationValidationError("optimization_id", problem)
            places[name] = entry.place
            prepared(state)
            states.append(state)
        except OptimizationValidationError as error:
            faults += entry.faults(error)
    if faults:
        raise OptimizationError("\n".join(dict.fromkeys(faults)))
    return in_order(states)


def read_template(path: str) -> Mapping[str, Any]:
    """Read a file with a single optimization, and leave its dates unfilled.

    It is checked with the dates of the present moment. Raises as `read_batch` does.
    """
    import_from_here()
    faults: list[str] = []
    entry, *_ = _entries(path, faults)
    if entry.number:
        raise OptimizationError(f"{path} contains a list: deploy each optimization from its own file")
    content = _named(entry)
    try:
        prepared(requested(content, scheduled_for=utc_now()))
    except OptimizationValidationError as error:
        faults += entry.faults(error)
    if faults:
        raise OptimizationError("\n".join(dict.fromkeys(faults)))
    given: Mapping[str, Any] = content
    return given


def import_from_here() -> None:
    """Make modules of the current directory importable, as `python -m` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _entries(path: str, faults: list[str]) -> Iterator[BatchEntry]:
    document = Document.parse(_read(path), path, size_limit=LIMIT_BYTES)
    faults += [f"{path}, {one_line(str(fault))}" for fault in document.faults]
    if isinstance(document.data, list) and document.data:
        for number, content in enumerate(document.data, start=1):
            yield BatchEntry(document, number, content)
    elif isinstance(document.data, Mapping):
        yield BatchEntry(document, 0, document.data)
    else:
        example = "give fields such as `metadata: {objective: module:function}`, or a list of such mappings"
        raise OptimizationError(f"{path} contains no optimization; {example}")


def _named(entry: BatchEntry) -> Any:
    """Return the content; without a name and an objective, the optimization is named after its file."""
    content, path = entry.content, entry.document.source
    if not isinstance(content, Mapping) or content.get("name") is not None or path == "-":
        return content
    metadata = content.get("metadata")
    objective = metadata.get("objective") if isinstance(metadata, Mapping) else None
    return content if objective is not None else {**content, "name": Path(path).stem}


def _read(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(LIMIT_BYTES + 1)
        with Path(path).open("rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise OptimizationError(f"{path} cannot be read: {error.strerror}") from error

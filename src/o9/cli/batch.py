"""From YAML to optimizations ready to submit: one mapping, or a list of them, with OptimizationState's field names.

Contract. Either everything in all files can be submitted, or an error has a line for each fault, which names the file,
the line, the entry and the field, and nothing has been submitted. Values are read as YAML 1.2 does, as JSON would:
`1e-3` is a number, `no` and `2026-01-31` are text. Import paths may name modules of the current directory.
"""

from __future__ import annotations

import re
import secrets
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from o9.lifecycle.submission import in_order, new_optimization, prepared
from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.optimization import OptimizationState, utc_now
from o9.model.validation import METADATA
from o9.text.escape import one_line
from o9.text.suggest import suggestion

LIMIT_BYTES = 5 * 2**20
EXPANDED_LIMIT = 1_000_000  # nodes, once aliases are written out
NESTING_LIMIT = 100
FIELDS = tuple(field.name for field in fields(OptimizationState))


@dataclass(frozen=True)
class Entry:
    """One optimization of a file. `where` is `file.yaml, entry 2`; `lines` maps a dotted field to its line."""

    state: OptimizationState
    where: str
    lines: dict[str, int]


def read_batch(paths: Sequence[str]) -> list[OptimizationState]:
    """The optimizations of all files, each checked as at its submission, and behind those that it is to run after."""
    import_from_here()
    faults: list[str] = []
    entries = [entry for path in paths for entry in _entries(path, faults)]
    _refuse_duplicates(entries, faults)
    for entry in entries:
        try:
            prepared(entry.state, must_name=True)
        except OptimizationValidationError as error:
            faults += _placed(error, entry.where, entry.lines)
    if faults:
        raise OptimizationError("\n".join(dict.fromkeys(faults)))
    return in_order([entry.state for entry in entries])


def import_from_here() -> None:
    """As `python -m` does: `objective: mystrategy:objective` finds mystrategy.py in the current directory."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _entries(path: str, faults: list[str]) -> Iterator[Entry]:
    root = _parse(path)
    if isinstance(root, MappingNode):
        nodes = [(root, path)]
    elif isinstance(root, SequenceNode) and root.value:
        nodes = [(node, f"{path}, entry {index}") for index, node in enumerate(root.value, start=1)]
    else:
        what = "an empty list" if isinstance(root, SequenceNode) else "a single value"
        raise OptimizationError(f"{path} holds {what}; give a mapping of fields, or a list of such mappings")
    for node, where in nodes:
        if (entry := _entry(node, path, where, faults)) is not None:
            yield entry


def _entry(node: Node, path: str, where: str, faults: list[str]) -> Entry | None:
    """None for one that cannot be made, which is among the `faults` then."""
    line = node.start_mark.line + 1
    if not isinstance(node, MappingNode):
        raise OptimizationError(f"{where} (line {line}): expected a mapping of fields such as `name: …`")
    if not node.value:
        raise OptimizationError(f"{where} (line {line}): it is empty; give at least metadata.objective")
    lines = dict(_lines(node))
    try:
        content: dict[str, Any] = _Loader.construct(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag such as !!int on what is none
        raise OptimizationError(f"{where} (line {line}): {_yaml_problem(error)}") from error
    for name in [name for name in content if name not in FIELDS]:
        faults += _placed(OptimizationValidationError(str(name), _unknown_field(str(name))), where, lines)
        del content[name]
    while True:
        try:
            return Entry(new_optimization(_with_id(content, path)), where, lines)
        except OptimizationValidationError as error:
            faults += _placed(error, where, lines)
            if error.field == "metadata" or content.pop(error.field, None) is None:
                return None  # else what it has beside that field is checked, too


def _unknown_field(name: str) -> str:
    if name in METADATA:
        return "there is no such field; it belongs under metadata"
    return f"there is no such field{suggestion(name, FIELDS)}"


def _with_id(content: dict[str, Any], path: str) -> dict[str, Any]:
    """An id that says what it is, when it was typed, and that nothing else has."""
    metadata = content.get("metadata")
    objective = metadata.get("objective") if isinstance(metadata, dict) else None
    name = content.get("name") or objective or ("optimization" if path == "-" else Path(path).stem)
    if content.get("optimization_id") is not None:
        return {"name": name} | content
    stem = _slug(str(name)) or _slug(str(objective or "")) or "optimization"
    generated = f"{stem}-{utc_now().astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return {"name": name} | content | {"optimization_id": generated}


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.rpartition(":")[2]).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:32].strip("-")


def _refuse_duplicates(entries: Sequence[Entry], faults: list[str]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        name = entry.state.optimization_id
        if name in seen:
            problem = f"{name!r} is in {seen[name].where} already; give each its own, or leave it out"
            faults += _placed(OptimizationValidationError("optimization_id", problem), entry.where, entry.lines)
        seen.setdefault(name, entry)


def _placed(error: OptimizationValidationError, where: str, lines: dict[str, int]) -> Iterator[str]:
    """A line for each fault, with its place: the line of the field, or of what holds it."""
    for fault in error.faults:
        field = fault.field
        while field and field not in lines:
            field = field.rpartition(".")[0] if "[" not in field else field.rpartition("[")[0]
        place = f"{where} (line {lines[field]})" if field else where
        yield f"{place}: {one_line(str(fault))}"


def _parse(path: str) -> Node:
    data = _read(path)
    try:
        documents = list(yaml.compose_all(data, Loader=_Loader))
        if len(documents) > 1:
            raise OptimizationError(f"{path} holds {len(documents)} documents; make them one list")
        if not documents or documents[0] is None:
            raise OptimizationError(f"{path} is empty; give fields such as `metadata: {{objective: module:function}}`")
        _expanded(documents[0], path, (), {})
    except yaml.YAMLError as error:
        raise OptimizationError(f"{path}: {_yaml_problem(error)}") from error
    except RecursionError as error:
        raise OptimizationError(f"{path}: it is nested too deeply to be an optimization") from error
    return documents[0]


def _read(path: str) -> bytes:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LIMIT_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise OptimizationError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LIMIT_BYTES:
        raise OptimizationError(
            f"{path} is larger than {LIMIT_BYTES >> 20} MiB; put data into files that the objective reads, "
            "or split the batch"
        )
    return data


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = one_line(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error))
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _expanded(node: Node, path: str, above: tuple[int, ...], known: dict[int, int]) -> int:
    """How many nodes there are once aliases are written out; refuses bombs, circles and keys given twice."""
    if id(node) in above:
        raise OptimizationError(f"{path} (line {node.start_mark.line + 1}): an alias that contains itself")
    if len(above) > NESTING_LIMIT:
        raise OptimizationError(f"{path} (line {node.start_mark.line + 1}): nested deeper than {NESTING_LIMIT}")
    if id(node) in known:
        return known[id(node)]
    total = 1
    if isinstance(node, MappingNode):
        _refuse_repeated_keys(node, path)
    if not isinstance(node, ScalarNode):
        children = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        total += sum(_expanded(child, path, (*above, id(node)), known) for child in children)
    if total > EXPANDED_LIMIT:
        raise OptimizationError(f"{path}: its aliases stand for more than {EXPANDED_LIMIT:,} values")
    known[id(node)] = total
    return total


def _refuse_repeated_keys(node: MappingNode, path: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise OptimizationError(f"{path} (line {key.start_mark.line + 1}): a field's name has to be text")
        if key.value in seen:
            raise OptimizationError(f"{path} (line {key.start_mark.line + 1}): {key.value!r} is given twice")
        seen.add(key.value)


def _lines(node: Node, above: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            field = f"{above}.{key.value}" if above else str(key.value)
            yield field, key.start_mark.line + 1
            yield from _lines(value, field)


# The parser written in C is twenty times as fast; a build of PyYAML may lack it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML 1.2's core schema: what looks like a date or says `yes` stays text, and `1e-3` is a number."""

    @classmethod
    def construct(cls, node: Node) -> Any:
        return cls(b"").construct_document(node)


# A table of its own: the inherited one belongs to PyYAML.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _whole(loader: yaml.SafeLoader, node: ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own would read 010 as 8


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)

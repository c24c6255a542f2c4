"""YAML files that people write: parsed with their lines, checked by Pydantic models, with all faults at once.

Contract. `Document.parse(text, source)` reads YAML 1.2: a date and `yes` are strings, `1e-3` is a number, `010` is ten.
A file has one document. DocumentError is raised for invalid YAML and for a file that is too large; a duplicate key, or
a value that does not fit its tag, is a fault in `Document.faults`. `read(Model, document)` makes the model, or raises
DocumentError with these faults and the model's, one per line: the file, its line, the field's path, the problem and the
remedy (`alerts.yaml, line 7: route.reciever: there is no such field; did you mean receiver?`). A model is a subclass of
`Typed` (`o9.model.faults`); its validators raise ValueError, or OptimizationValidationError for fields inside their
own. Checks across fields belong in its `@model_validator(mode="after")`, or after `read`, with
`document.placed(error)`. Pure: no file is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from o9.model.errors import OptimizationError, OptimizationValidationError
from o9.model.faults import Path, validated, written_path

M = TypeVar("M", bound=BaseModel)
SIZE_LIMIT_BYTES = 1 << 20
VALUES_LIMIT = 250_000  # once aliases are written out
NESTING_LIMIT = 100
FAULTS_SHOWN = 100


@dataclass(frozen=True, order=True)
class Fault:
    """A fault in a file. `line` counts from 1; `field` is the field's path, or ""."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.problem}" if self.field else f"line {self.line}: {self.problem}"


class DocumentError(OptimizationError):
    """A file that cannot be used, with all its faults in the order of their lines."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(sorted(faults))
        lines = [f"{source}, {fault}" for fault in self.faults[:FAULTS_SHOWN]]
        if len(self.faults) > FAULTS_SHOWN:
            lines.append(f"{source} has {len(self.faults) - FAULTS_SHOWN:,} more faults")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Document:
    """`data`: mappings, lists, strings, numbers, booleans and None; None for an empty file."""

    source: str
    data: Any
    faults: tuple[Fault, ...]
    _root: Node | None = field(repr=False)

    @classmethod
    def parse(cls, text: str | bytes, source: str, *, size_limit: int = SIZE_LIMIT_BYTES) -> Document:
        """Parse `text`. `source` names it in messages, as by its path."""
        if len(text) > size_limit:
            raise DocumentError(source, [Fault(1, "", f"it is larger than {size_limit >> 20} MiB")])
        root = _composed(text, source)
        reader = _Reader(source)
        data = None if root is None else reader.value(root, (), ())
        return cls(source, data, tuple(reader.faults), root)

    def line_of(self, path: str, within: Path = ()) -> int:
        """Return the line of the field at `path` (`a.b[2]`) below `within`; if it is missing, that of its parent."""
        node, line = self._root, 1
        for part in within:
            node, line = _child(node, part, line)
        while node is not None and path:
            part, path = _first_part(node, path)
            node, line = _child(node, part, line)
        return line

    def placed(self, error: OptimizationValidationError, within: Path = ()) -> Iterator[Fault]:
        """Yield the faults of `error`, raised for the data at `within`, with their lines."""
        for fault in error.faults:
            yield Fault(self.line_of(fault.field, within), fault.field, fault.problem)


def read(model: type[M], document: Document, *, context: Any = None) -> M:
    """Make a `model` of the document. Raises DocumentError with all faults. `context`: for the model's validators."""
    faults = list(document.faults)
    try:
        made = validated(model, document.data, context=context)
    except OptimizationValidationError as error:
        known = {fault.field for fault in faults}
        raise DocumentError(
            document.source, [*faults, *(fault for fault in document.placed(error) if fault.field not in known)]
        ) from None
    if faults:
        raise DocumentError(document.source, faults)
    return made


def _composed(text: str | bytes, source: str) -> Node | None:
    try:
        documents = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(source, [Fault(mark.line + 1 if mark else 1, "", f"not YAML: {_remedy(error)}")]) from error
    except (yaml.YAMLError, UnicodeError) as error:
        problem = str(getattr(error, "reason", None) or error).partition("\n")[0]
        raise DocumentError(source, [Fault(1, "", f"not YAML in UTF-8: {problem}")]) from error
    except RecursionError as error:
        raise DocumentError(source, [Fault(1, "", f"nested deeper than {NESTING_LIMIT}")]) from error
    if len(documents) > 1:
        problem = f"{len(documents)} documents; make them one list, or separate files"
        raise DocumentError(source, [Fault(documents[1].start_mark.line + 1, "", problem)])
    return documents[0] if documents else None


class _Reader:
    """Makes values of nodes."""

    def __init__(self, source: str) -> None:
        self.faults: list[Fault] = []
        self._source = source
        self._left = VALUES_LIMIT

    def value(self, node: Node, path: Path, above: tuple[int, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, path, f"more than {VALUES_LIMIT:,} values, with aliases expanded")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in above:
            raise self._error(node, path, "an alias that contains itself")
        if len(above) >= NESTING_LIMIT:
            raise self._error(node, path, f"nested deeper than {NESTING_LIMIT}")
        if node.tag not in (_MAP, _SEQUENCE):
            self._fault(node, path, f"the tag {node.tag} is not supported; leave it out")
        inside = (*above, id(node))
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index), inside) for index, item in enumerate(node.value)]
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._fault(key, path, "a field's name must be a string")
            elif (name := key.value) in lines:
                self._fault(key, (*path, name), f"duplicate key, first in line {lines[name]}")
            else:
                values[name], lines[name] = self.value(value, (*path, name), inside), key.start_mark.line + 1
        return values

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        if node.tag not in _SCALARS:
            self._fault(node, path, f"the tag {node.tag} is not supported; leave it out")
            return None
        try:
            return _SCALARS[node.tag](node.value)
        except (KeyError, ValueError):
            self._fault(node, path, f"{node.value!r:.80} is not a valid {node.tag.removeprefix(_PREFIX)}")
            return None

    def _fault(self, node: Node, path: Path, problem: str) -> None:
        self.faults.append(Fault(node.start_mark.line + 1, written_path(path), problem))

    def _error(self, node: Node, path: Path, problem: str) -> DocumentError:
        return DocumentError(self._source, [Fault(node.start_mark.line + 1, written_path(path), problem)])


def _child(node: Node | None, part: str | int, line: int) -> tuple[Node | None, int]:
    """Return the child `part` of `node` and its line; if it is missing, None and `line`, the parent's."""
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    return None, line


def _first_part(node: Node, path: str) -> tuple[str | int, str]:
    """Split off the first name of `path`. A key that contains dots is one name."""
    if index := re.match(r"\[(\d+)\]\.?", path):
        return int(index[1]), path[index.end() :]
    keys = [str(key.value) for key, _ in node.value] if isinstance(node, MappingNode) else []
    fitting = [key for key in keys if re.match(rf"{re.escape(key)}(?:[.\[]|$)", path)]
    name = max(fitting, key=len) if fitting else re.split(r"[.\[]", path, maxsplit=1)[0]
    return name, path[len(name) :].removeprefix(".")


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's message with the remedy for the usual cause."""
    problem, context = error.problem or "", error.context or ""
    if problem.startswith("but "):
        problem = f"{context}, {problem}"
    for sign, remedy in _REMEDIES:
        if sign in f"{context} {problem}":
            return f"{problem}; {remedy}"
    return problem


_REMEDIES = (
    ("second occurrence", "give each anchor a name of its own"),
    ("expected ',' or", "close each { and [, and quote text with #"),
    ("that cannot start any token", "quote text that begins with it, and indent with spaces"),
    ("scanning an alias", "quote text that begins with * or &"),
    ("scanning an anchor", "quote text that begins with * or &"),
    ("mapping values are not allowed", "quote text with a colon, and check the indentation"),
    ("expected key", "check the indentation, and quote text that begins with {, [ or a quotation mark"),
    ("expected <block end>", "check the indentation, and quote text that begins with { or ["),
)
_PREFIX = "tag:yaml.org,2002:"
_MAP, _SEQUENCE = f"{_PREFIX}map", f"{_PREFIX}seq"

# The C parser is twenty times as fast; a build of PyYAML may lack it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Resolves plain scalars by YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - a table of its own: PyYAML's is YAML 1.1


_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", _INT, [*"-+0123456789"]),
    ("float", _FLOAT, [*"-+0123456789."]),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def _whole(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{_PREFIX}null": lambda text: None,
    f"{_PREFIX}bool": lambda text: {"true": True, "false": False}[text.lower()],
    f"{_PREFIX}int": _whole,
    f"{_PREFIX}float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    f"{_PREFIX}str": str,
}

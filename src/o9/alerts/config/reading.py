"""Reading YAML that people write: every fault in it is found at once, each with its line, its field and the remedy.

A `Reader` goes from node to node; what is wrong it notes in `faults`, and goes on with the rest. Names that are unknown
are faults, with the name that was probably meant. Anchors work; what they blow up beyond any sense is refused. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import yaml

from o9.model.errors import OptimizationValidationError
from o9.model.states import AlertLevel
from o9.text.suggest import suggestion

SIZE_LIMIT = 1 << 20
NODES_LIMIT = 20_000
DEPTH_LIMIT = 40
TEXT_LIMIT = 20_000
FAULTS_SHOWN = 100
LONGEST = timedelta(days=3660)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.problem}" if self.field else f"line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Node:
    """A part of the document, with the path of names that leads to it."""

    raw: yaml.Node
    field: str

    @property
    def line(self) -> int:
        return int(self.raw.start_mark.line) + 1

    def fault_of(self, problem: str) -> Fault:
        return Fault(self.line, self.field, problem)


def all_faults(source: str, faults: Iterable[Fault]) -> str:
    """A line that counts them, and one for each of the first."""
    lines = [f"\n  {fault}" for fault in sorted(faults)]
    more = f"\n  and {len(lines) - FAULTS_SHOWN:,} more" if len(lines) > FAULTS_SHOWN else ""
    return f"{source} has {len(lines):,} fault{'s' * (len(lines) > 1)}:{''.join(lines[:FAULTS_SHOWN])}{more}"


class Reader:
    """Over one document. A method that finds a fault notes it, and answers None or nothing."""

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self._visited = 0
        self.root = self._composed(text)

    def fault(self, node: Node, problem: str) -> None:
        self.faults.append(node.fault_of(problem))

    def mapping(self, node: Node, known: Collection[str] = (), required: Collection[str] = ()) -> dict[str, Node]:
        """By name. `known` are the names there are; without any, each is taken."""
        if not self._enter(node):
            return {}
        if not isinstance(node.raw, yaml.MappingNode):
            self.fault(node, f"expected {_named(known)}, found {_kind(node.raw)}")
            return {}
        found: dict[str, Node] = {}
        for key, value in node.raw.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else _kind(key)
            here = Node(key, f"{node.field}.{name}" if node.field else name)
            if known and name == "<<":
                self.fault(here, "merging is not possible here; write the fields out, or take an anchor for all of it")
            elif known and name not in known:
                self.fault(here, f"there is no such field{suggestion(name, known)}")
            elif name in found:
                self.fault(here, f"it is given twice, first in line {found[name].line}")
            else:
                found[name] = Node(value, here.field)
        for name in required:
            if name not in found:
                self.fault(node, f"`{name}` is missing")
        return found

    def items(self, node: Node | None) -> list[Node]:
        if node is None or not self._enter(node):
            return []
        if not isinstance(node.raw, yaml.SequenceNode):
            self.fault(node, f"expected a list, found {_kind(node.raw)}")
            return []
        return [Node(item, f"{node.field}[{index}]") for index, item in enumerate(node.raw.value)]

    def one_or_more(self, node: Node | None) -> list[Node]:
        """A list's items, or one text alone."""
        if node is not None and isinstance(node.raw, yaml.MappingNode):
            self.fault(node, f"expected a list or a text, found a mapping{_quotes(node.raw)}")
            return []
        return [node] if node is not None and self.is_text(node) else self.items(node)

    def is_text(self, node: Node) -> bool:
        return isinstance(node.raw, yaml.ScalarNode)

    def is_list(self, node: Node) -> bool:
        return isinstance(node.raw, yaml.SequenceNode)

    def text(self, node: Node | None) -> str | None:
        """As it is written: a number or `yes`, too."""
        if node is None:
            return None
        if not isinstance(node.raw, yaml.ScalarNode) or node.raw.tag == _NULL:
            self.fault(node, f"expected text, found {_kind(node.raw)}{_quotes(node.raw)}")
            return None
        if len(node.raw.value) > TEXT_LIMIT:
            self.fault(node, f"{len(node.raw.value):,} characters; at most {TEXT_LIMIT:,} are allowed")
            return None
        return str(node.raw.value)

    def name(self, node: Node | None) -> str | None:
        """A text that names something."""
        text = self.text(node)
        if node is not None and text is not None and (not text.strip() or not text.isprintable() or len(text) > 200):
            self.fault(node, "a name is printable text of 1 to 200 characters")
            return None
        return text

    def texts(self, node: Node | None) -> tuple[str, ...] | None:
        """A list of them, or one alone."""
        if node is None:
            return None
        return tuple(text for item in self.one_or_more(node) if (text := self.text(item)) is not None)

    def flag(self, node: Node | None) -> bool | None:
        if node is None:
            return None
        word = node.raw.value.lower() if isinstance(node.raw, yaml.ScalarNode) and node.raw.tag == _BOOL else ""
        if not word:
            self.fault(node, f"expected true or false, found {_kind(node.raw)}")
            return None
        return word in ("true", "yes", "on")

    def count(self, node: Node | None, low: int, high: int) -> int | None:
        text = self.text(node)
        if node is None or text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            self.fault(node, f"{text!r:.80} is no whole number from {low:,} to {high:,}")
            return None
        return int(text)

    def span(self, node: Node | None, *, zero: bool = False) -> timedelta | None:
        """A duration, as `span_of` reads it."""
        return self.understood(node, lambda text: span_of(text, zero=zero))

    def understood(self, node: Node | None, read: Callable[[str], Found]) -> Found | None:
        """What `read` makes of the text; the ValueError that it raises is a fault."""
        text = self.text(node)
        if node is None or text is None:
            return None
        try:
            return read(text)
        except OptimizationValidationError as error:
            self.fault(node, error.problem)
        except ValueError as error:
            self.fault(node, str(error))
        return None

    def one_of(self, node: Node | None, known: Collection[str], kind: str) -> str | None:
        """A name of something that is defined elsewhere."""
        text = self.text(node)
        if node is not None and text is not None and text not in known:
            self.fault(node, f"no {kind} is called {text!r:.80}{suggestion(text, known)}")
            return None
        return text

    def some_of(self, node: Node | None, known: Collection[str], kind: str) -> tuple[str, ...]:
        if node is None:
            return ()
        return tuple(name for each in self.one_or_more(node) if (name := self.one_of(each, known, kind)) is not None)

    def _composed(self, text: str) -> Node | None:
        if len(text) > SIZE_LIMIT:
            self.faults.append(Fault(1, "", f"{len(text):,} characters; at most {SIZE_LIMIT:,} are allowed"))
            return None
        try:
            raw = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.faults.append(Fault(mark.line + 1 if mark else 1, "", f"this is no YAML: {_no_yaml(error)}"))
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            self.faults.append(Fault(line, "", f"the character U+{ord(text[error.position]):04X} is not allowed here"))
        except RecursionError:
            self.faults.append(Fault(1, "", "it is nested too deeply"))
        else:
            return None if raw is None or raw.tag == _NULL else Node(raw, "")
        return None

    def _enter(self, node: Node) -> bool:
        self._visited += 1
        if self._visited > NODES_LIMIT:
            if self._visited == NODES_LIMIT + 1:
                self.fault(node, f"more than {NODES_LIMIT:,} parts; shorten it, or an anchor repeats too much")
            return False
        if node.field.count(".") + node.field.count("[") > DEPTH_LIMIT:
            self.fault(node, f"nested more than {DEPTH_LIMIT} deep; does an anchor hold itself?")
            return False
        return True


def _no_yaml(error: yaml.MarkedYAMLError) -> str:
    """What PyYAML says of it, and what it mostly comes from."""
    problem, context = error.problem or "", error.context or ""
    if problem.startswith("but "):
        problem = f"{context}, {problem}"
    if problem == "second occurrence":
        return f"{context.partition(';')[0]}; give each anchor a name of its own"
    if problem.startswith("expected ',' or"):
        return f"{problem}; close each {{ and [, and write a text with # in quotes"
    if "'\\t'" in problem:
        return f"{problem}; indent with blanks"
    if "that cannot start any token" in problem:
        return f"{problem}; write a text that begins with it in quotes"
    if "scanning an alias" in context or "scanning an anchor" in context:
        return f"{problem}; write a text that begins with * or & in quotes"
    if "mapping values are not allowed" in problem:
        return f"{problem}; write a text with a colon in quotes, and see how the line is indented"
    if "expected <block end>" in problem:
        return f"{problem}; see how the line is indented, and write a text that begins with {{, [ or a quote in quotes"
    return problem


def span_of(text: str, *, zero: bool = False) -> timedelta:
    """``30s``, ``5m``, ``1h30m``, ``2d``, ``500ms``. Raises ValueError."""
    found = _SPAN.fullmatch(text)
    if not text or (found is None and text != "0"):
        unit = "; it needs a unit" if text.isdigit() else ""
        raise ValueError(f"{text!r:.80} is no duration{unit}; write it as 30s, 5m, 1h30m or 2d")
    counts = {unit: int(count) for unit, count in (found.groupdict() if found else {}).items() if count}
    days = counts.pop("days", 0) + 365 * counts.pop("years", 0)
    try:
        span = timedelta(days, **counts)
    except OverflowError:
        span = timedelta.max
    if span > LONGEST:
        raise ValueError(f"{text!r:.80} is longer than {LONGEST.days:,} days")
    if not span and not zero:
        raise ValueError("it has to be longer than 0")
    return span


def level_of(text: str) -> AlertLevel:
    """In whatever case. Raises ValueError with what was probably meant."""
    known = {level.value: level for level in AlertLevel}
    if text.lower() not in known:
        raise ValueError(f"no level is called {text!r:.80}{suggestion(text, known)}")
    return known[text.lower()]


_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_SPAN = re.compile(
    r"(?:(?P<years>\d{1,9})y)?(?:(?P<weeks>\d{1,9})w)?(?:(?P<days>\d{1,9})d)?(?:(?P<hours>\d{1,9})h)?"
    r"(?:(?P<minutes>\d{1,9})m)?(?:(?P<seconds>\d{1,9})s)?(?:(?P<milliseconds>\d{1,9})ms)?",
    re.ASCII,
)


def _named(known: Collection[str]) -> str:
    return f"a mapping with {', '.join(list(known)[:4])}, …" if known else "a mapping"


def _quotes(raw: yaml.Node) -> str:
    return "; a text that begins with { or [ needs quotes" if getattr(raw, "flow_style", False) else ""


def _kind(raw: yaml.Node) -> str:
    if isinstance(raw, yaml.MappingNode):
        return "a mapping"
    if isinstance(raw, yaml.SequenceNode):
        return "a list"
    return "nothing" if raw.tag == _NULL else f"{raw.value!r:.60}"

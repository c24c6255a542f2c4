"""Users' templates: Jinja's language, of it what only prints, and bounds that hold whatever is written.

Contract. `Template(source, field, form)` refuses with OptimizationValidationError, which names the field, the line and
the remedy, what is not Jinja or not allowed here: calls, macros, includes, names that there are not or that begin with
an underscore, filters that are not listed, sums and products of texts. `render` gives text or raises TemplateError. It
reads attributes of `Shown` values and keys of mappings, nothing else; it turns at most TURNS times in its loops and
prints at most PRINTED characters. No bound is a clock's, so that the same template fails or works alike everywhere.

Whoever writes a template is the operator, not an attacker; these are bounds against accidents and copied snippets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from o9.alerts.reading import meant
from o9.alerts.text import cut
from o9.model.errors import OptimizationValidationError

SOURCE_LIMIT = 20_000  # characters
TURNS = 1_000  # of all loops together
PRINTED = 200_000  # characters
JOINED = 20_000
_TURN = "\ue000"  # printed at each turn, so that it can be counted; taken out again


class Form(str, Enum):
    """In what a message is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


class TemplateError(Exception):
    """A template failed while it was rendered. The message says at what."""


class Shown:
    """A base for the dataclasses whose fields templates may read."""


class Address(str):
    """A URL in which nothing is left that means something in Markdown."""

    __slots__ = ()


class Prose(str):
    """A text in which backticks mark what is typed; HTML shows that as code."""

    __slots__ = ()


class Template:
    """One template, checked and compiled."""

    def __init__(self, source: str, field: str, form: Form, names: Collection[str] | None = None) -> None:
        """`names`: those that it may read; None where whoever gives the values knows."""
        self.field = field
        self._escaped = _ESCAPES[form]
        environment = _ENVIRONMENTS[form]
        if not isinstance(source, str) or len(source) > SOURCE_LIMIT:
            raise OptimizationValidationError(field, f"expected a template of at most {SOURCE_LIMIT:,} characters")
        if _TURN in source:
            raise OptimizationValidationError(field, f"it holds the character {_TURN!r}; take it out")
        try:
            tree = environment.parse(source)
            _allow(tree, field)
            if names is not None:
                _check_names(tree, field, names)
            for loop in list(tree.find_all(nodes.For)):
                loop.body.insert(0, nodes.Output([nodes.TemplateData(_TURN)], lineno=loop.lineno))
            self._template = environment.from_string(tree)
        except JinjaError as error:
            at = getattr(error, "lineno", None)
            where = f"line {at}: " if at else ""
            raise OptimizationValidationError(field, f"{where}{error.message or error}") from None
        except (RecursionError, MemoryError, SyntaxError, OverflowError, ValueError) as error:
            if isinstance(error, OptimizationValidationError):
                raise
            raise OptimizationValidationError(field, f"it cannot be compiled: {error}; make it simpler") from None

    def render(self, values: Mapping[str, Any]) -> str:
        """The text. Raises TemplateError."""
        printed: list[str] = []
        room, turns = PRINTED, 0
        try:
            for piece in self._template.generate(values):
                turns += piece.count(_TURN)
                piece = piece.replace(_TURN, "")
                room -= len(piece)
                if turns > TURNS:
                    raise TemplateError(f"its loops turned more than {TURNS:,} times")
                if room < 0:
                    raise TemplateError(f"it printed more than {PRINTED:,} characters")
                printed.append(piece)
        except (
            JinjaError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise TemplateError(str(error) or type(error).__name__) from None
        return "".join(printed)


class _Environment(ImmutableSandboxedEnvironment):
    """What a template can reach."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self, form: Form) -> None:
        super().__init__(
            autoescape=form is Form.HTML,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=partial(_printed, escaped=_ESCAPES[form]),
        )
        self.globals.clear()
        self.filters = dict(_FILTERS)
        self.tests = {name: self.tests[name] for name in _TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return self.undefined(name=str(argument))
        if isinstance(obj, Mapping):
            return obj.get(argument, "")
        if isinstance(obj, Shown) and is_dataclass(obj) and argument in {each.name for each in fields(obj)}:
            return getattr(obj, argument)
        if isinstance(obj, LoopContext) and argument in _OF_LOOPS:
            return getattr(obj, argument)
        if isinstance(obj, Sequence) and not isinstance(obj, str) and isinstance(argument, int):
            return obj[argument]
        known = ", ".join(each.name for each in fields(obj)) if isinstance(obj, Shown) and is_dataclass(obj) else "none"
        raise SecurityError(f"{argument!r} cannot be read there; what can: {known}")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(each, (int, float)) and abs(each) < 1e15 for each in (left, right)):
            raise SecurityError(f"{operator} takes numbers only; texts are printed one after another")
        return super().call_binop(context, operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        if not isinstance(arg, (int, float)):
            raise SecurityError(f"{operator} takes a number only")
        return super().call_unop(context, operator, arg)


def _allow(tree: nodes.Template, field: str) -> None:
    for node in tree.find_all(nodes.Node):
        problem = _problem(node)
        if problem:
            raise OptimizationValidationError(field, f"line {node.lineno}: {problem}")


def _check_names(tree: nodes.Template, field: str, known: Collection[str]) -> None:
    """Also of what is read where no sample gets to. `loop` is Jinja's own."""
    named = list(tree.find_all(nodes.Name))
    its_own = {"loop", *(each.name for each in named if each.ctx == "store")}
    for each in named:
        if each.name not in known and each.name not in its_own:
            problem = f"there is no name {each.name!r:.80} here{meant(each.name, known)}"
            raise OptimizationValidationError(field, f"line {each.lineno}: {problem}")


def _problem(node: nodes.Node) -> str | None:
    if not isinstance(node, _ALLOWED):
        return _REMEDIES.get(type(node), f"{type(node).__name__.lower()} is not possible in a message's template")
    if isinstance(node, (nodes.Getattr, nodes.Name)):
        name = node.attr if isinstance(node, nodes.Getattr) else node.name
        return f"{name!r}: names that begin with an underscore cannot be read" if name.startswith("_") else None
    if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
        return f"no filter {node.name!r}; those are {', '.join(sorted(_FILTERS))}"
    if isinstance(node, nodes.Filter):
        fewest, most = _ARGUMENTS.get(node.name, (0, 0))
        if not fewest <= (given := len(node.args) + len(node.kwargs)) <= most or node.dyn_args or node.dyn_kwargs:
            return f"the filter {node.name!r} takes {_counted(fewest, most)}, not {given}"
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        return f"no test {node.name!r}; those are {', '.join(sorted(_TESTS))}"
    if isinstance(node, nodes.For) and node.recursive:
        return "a loop cannot be recursive; write one inside the other"
    if isinstance(node, (nodes.List, nodes.Tuple)):
        loads = getattr(node, "ctx", "load") == "load"
        if loads and not all(isinstance(each, nodes.Const) for each in node.items):
            return "a list may hold fixed texts and numbers only"
    return None


def _counted(fewest: int, most: int) -> str:
    if not most:
        return "no arguments"
    return "one argument, as in cut(80)" if fewest else "at most one argument"


def _printed(value: Any, escaped: Callable[[str], str]) -> Any:
    if isinstance(value, Markup) or (isinstance(value, Address) and escaped is markdown_text):
        return value
    if isinstance(value, Prose) and escaped is escape:
        return Markup(_TYPED.sub(r"<code>\1</code>", str(escape(value))))
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, (int, float)) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, Undefined):
        return value
    raise SecurityError(f"a {type(value).__name__} cannot be printed; print what it holds, one by one")


_TYPED = re.compile(r"`([^`]+)`")
_AT_WORD = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is no emphasis
_ANYWHERE = re.compile(r"[\\`*\[\]<>|]|~(?=~)")
_MENTION = re.compile(r"@(?=[&0-9a-z])", re.IGNORECASE)  # Apprise makes a ping of each, for Discord
_AT_LINE = re.compile(r"^(\s*)(?:([#>=+-])|(\d{1,9})([.)]))", re.MULTILINE)


def markdown_text(text: str) -> str:
    """`text` so that CommonMark, and the services' dialects of it, show it as it is, and nobody is called by it."""
    told = _AT_WORD.sub(r"\\_", _ANYWHERE.sub(r"\\\g<0>", text))
    told = _MENTION.sub("@\u200b", told)
    return _AT_LINE.sub(lambda at: f"{at[1]}\\{at[2]}" if at[2] else f"{at[1]}{at[3]}\\{at[4]}", told)


def _joined(values: Any, by: str = "") -> str:
    told = [str(each) for each in _texts(values)]
    if sum(map(len, told)) + len(by) * len(told) > JOINED:
        raise SecurityError(f"join makes more than {JOINED:,} characters")
    return by.join(told)


def _texts(values: Any) -> Iterator[str | int | float]:
    for each in values:
        if not isinstance(each, (str, int, float)):
            raise SecurityError("join takes texts and numbers only")
        yield each


def _text(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise SecurityError(f"a {type(value).__name__} is no text")
    return str(value)


def _default(value: Any, otherwise: Any = "") -> Any:
    """Where there is nothing, or nothing in it."""
    return otherwise if isinstance(value, Undefined) or not value else value


def _rounded(value: Any, digits: int = 0) -> float:
    return round(float(value), digits)


_FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": lambda value: _text(value).capitalize(),
    "cut": lambda value, limit: cut(_text(value), limit),
    "default": _default,
    "first": lambda values: next(iter(values), ""),
    "items": lambda values: list(values.items()),
    "join": _joined,
    "length": len,
    "lower": lambda value: _text(value).lower(),
    "round": _rounded,
    "trim": lambda value: _text(value).strip(),
    "upper": lambda value: _text(value).upper(),
}
_ARGUMENTS = {"cut": (1, 1), "default": (0, 1), "join": (0, 1), "round": (0, 1)}  # the fewest and the most; else none
_TESTS = (
    "defined",
    "undefined",
    "in",
    "none",
    "number",
    "string",
    "odd",
    "even",
    "divisibleby",
    "eq",
    "ne",
    "gt",
    "lt",
)
_OF_LOOPS = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.Name, nodes.Const,
    nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.CondExpr, nodes.List, nodes.Tuple, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv,
    nodes.Mod, nodes.Neg, nodes.Pos, nodes.Keyword,
)  # fmt: skip
_REMEDIES = {
    nodes.Call: "nothing can be called; filters stand behind a |",
    nodes.Concat: "~ is not possible; print one after another: {{ a }}{{ b }}",
    nodes.Pow: "** is not possible",
    nodes.AssignBlock: "{% set %} takes a value here: {% set name = value %}",
}
_ESCAPES: dict[Form, Callable[[str], str]] = {Form.TEXT: str, Form.MARKDOWN: markdown_text, Form.HTML: escape}
_ENVIRONMENTS = {form: _Environment(form) for form in Form}

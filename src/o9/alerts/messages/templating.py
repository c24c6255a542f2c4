"""Templates: Jinja in its immutable sandbox, with a bound on what they print.

Contract. `Template` raises OptimizationValidationError, which names the field, the line and the remedy, for what is no
Jinja and for names that there are not. `render` gives text, at most PRINTED characters, or raises TemplateError. What
is printed into Markdown is escaped for it. A key that a mapping lacks is an empty text.

Templates are written by the operator, not by an attacker; these are bounds against accidents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jinja2 import StrictUndefined, meta
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from o9.alerts.messages.markdown import markdown_prose, markdown_text
from o9.model.errors import OptimizationValidationError
from o9.text.cut import cut
from o9.text.suggest import suggestion

SOURCE_LIMIT = 20_000  # characters
PRINTED = 200_000  # characters


class TemplateError(Exception):
    """A template failed while it was rendered. The message says at what."""


class Address(str):
    """A URL in which nothing is left that means something in Markdown."""

    __slots__ = ()


class Prose(str):
    """A text in which backticks mark what is typed, which Markdown shows as code."""

    __slots__ = ()


class Template:
    """One template, checked and compiled. `names`: those that it may read."""

    def __init__(self, source: str, field: str, *, markdown: bool, names: Collection[str]) -> None:
        self.field = field
        environment = _MARKDOWN if markdown else _TEXT
        if not isinstance(source, str) or len(source) > SOURCE_LIMIT:
            raise OptimizationValidationError(field, f"expected a template of at most {SOURCE_LIMIT:,} characters")
        try:
            self._template = environment.from_string(source)
            unknown = meta.find_undeclared_variables(environment.parse(source)) - {*names, *environment.globals}
        except (JinjaError, RecursionError, MemoryError, SyntaxError, OverflowError, ValueError) as error:
            at = getattr(error, "lineno", None)
            where = f"line {at}: " if at else ""
            problem = (isinstance(error, JinjaError) and error.message) or f"it cannot be compiled: {error}"
            raise OptimizationValidationError(field, f"{where}{problem}") from None
        for name in sorted(unknown):
            line = next(n for n, text in enumerate(source.split("\n"), 1) if re.search(rf"\b{re.escape(name)}\b", text))
            problem = f"line {line}: there is no name {name!r:.80} here{suggestion(name, names)}"
            raise OptimizationValidationError(field, problem)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text. Raises TemplateError."""
        printed = ""
        try:
            for piece in self._template.generate(values):
                printed += piece
                if len(printed) > PRINTED:
                    raise OverflowError(f"it printed more than {PRINTED:,} characters")
        except Exception as error:  # noqa: BLE001 - a user's template: whatever it raises is its fault
            raise TemplateError(str(error) or type(error).__name__) from None
        return printed


class _Environment(ImmutableSandboxedEnvironment):
    def __init__(self, finalize: Callable[[Any], str]) -> None:
        super().__init__(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize)
        self.filters["cut"] = lambda value, limit: cut(str(value), limit)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute) if isinstance(obj, Mapping) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping) and argument != "items":
            return obj.get(argument, "")
        return super().getitem(obj, argument)


def _in_text(value: Any) -> str:
    return "" if value is None else str(value)


def _in_markdown(value: Any) -> str:
    if isinstance(value, Address):
        return value
    return markdown_prose(value) if isinstance(value, Prose) else markdown_text(_in_text(value))


_TEXT, _MARKDOWN = _Environment(_in_text), _Environment(_in_markdown)

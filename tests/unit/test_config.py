"""YAML files: their values, lines and faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from o9.config.document import Document, DocumentError, read
from o9.model.errors import OptimizationValidationError
from o9.model.faults import Flag, Number, Text, Typed, Whole

LINES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufeff"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LINES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LINES, inner, max_size=4),
    max_leaves=20,
)


class Desk(Typed):
    name: Text = Field(examples=["carry"])
    limit: Whole = Field(1, ge=1, le=10)
    share: Number = Field(0.5, gt=0)
    live: Flag = False
    level: Literal["info", "warning"] = "info"
    tags: Text | list[Text] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if " " in name:
            raise ValueError("it has blanks; take one word")
        return name


class Book(Typed):
    desks: list[Desk] = Field(default_factory=list, max_length=3)
    risk: dict[str, Number] = Field(default_factory=dict)
    main: Desk | Literal[False] = False

    @model_validator(mode="after")
    def _risk_is_of_a_desk(self) -> Book:
        names = {desk.name for desk in self.desks}
        problems = [
            OptimizationValidationError(f"risk.{name}", "no such desk") for name in self.risk if name not in names
        ]
        if problems:
            first, *others = problems
            raise OptimizationValidationError(first.field, first.problem, others=others)
        return self


def faults(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(DocumentError) as refused:
        read(Book, Document.parse(text, "book.yaml"))
    assert all(line.startswith("book.yaml") for line in str(refused.value).splitlines())
    return [(fault.line, fault.field) for fault in refused.value.faults]


def problem(text: str | bytes) -> str:
    with pytest.raises(DocumentError) as refused:
        read(Book, Document.parse(text, "book.yaml"))
    (fault,) = refused.value.faults
    return fault.problem


@given(VALUES)
def test_json_is_parsed_as_json(value: Any) -> None:
    assert Document.parse(json.dumps(value, ensure_ascii=False), "x").data == value


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_text_is_a_document_or_refused(text: str | bytes) -> None:
    with suppress(DocumentError):
        Document.parse(text, "x")


def test_yaml_is_version_1_2() -> None:
    text = "[no, 010, 1:30, 2026-01-31, 1e-3, .5, ~, TRUE, 0x1F, 0o17, -.inf, '1']"
    assert Document.parse(text, "x").data == [
        "no", 10, "1:30", "2026-01-31", 0.001, 0.5, None, True, 31, 15, float("-inf"), "1",
    ]  # fmt: skip


def test_aliases_are_expanded() -> None:
    text = "desks: [{name: a, tags: &usual [x]}, {name: b, tags: *usual}]"
    assert [desk.tags for desk in read(Book, Document.parse(text, "x")).desks] == [["x"], ["x"]]


def test_all_faults_are_reported_with_their_lines() -> None:
    text = """
desks:
- name: two words
  limit: 11
  share: 0
  live: 1
  level: warn
  tags: {}
- limit: "1"
  nmae: b
  nmae: c
risk: {a: high}
main:
  levl: info
  name: c
boook: 1
"""
    assert faults(text) == [
        (3, "desks[0].name"), (4, "desks[0].limit"), (5, "desks[0].share"), (6, "desks[0].live"),
        (7, "desks[0].level"), (8, "desks[0].tags"), (9, "desks[1].limit"), (9, "desks[1].name"),
        (11, "desks[1].nmae"), (12, "risk.a"), (14, "main.levl"), (16, "boook"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("desks: [{nam: a, name: a}]", "there is no such field; did you mean name?"),
        ("desks: [{limit: 1}]", "it is missing; for example carry"),
        ("desks: [{name: a, level: warn}]", "'warn' is not one of info, warning; did you mean warning?"),
        ("desks: [{name: a, limit: 11}]", "at most 10"),
        ("desks: [{name: 1}]", "expected text, got 1"),
        ("desks: [{name: a, limit: 1.5}]", "expected a whole number, got 1.5"),
        ("desks: [{name: a, tags: 5}]", "expected text or a list, got 5"),
        ("desks: [{name: a, live: no}]", "expected true or false, got 'no'"),
        ("desks: [{name: a, share: .nan}]", "nan is not a finite number"),
        ("desks: 5", "expected a list, got 5"),
        ("desks: [a]", "expected a mapping, got 'a'"),
        ("desks: [{name: a}, {name: b}, {name: c}, {name: d}]", "4 items; at most 3 allowed"),
        ("risk: {a.b: 1}", "no such desk"),
        ("- 1", "expected a mapping, got a list"),
        ("", "expected a mapping, got nothing"),
        ("desks: [", "node content"),
        ("desks: !!python/object:os.system ls", "not supported"),
        ("desks: [{name: a, limit: !!int x}]", "'x' is not a valid int"),
        ("a: 1\n---\nb: 1", "2 documents"),
        ("desks: [{name: a b: c}]", "quote text"),
        ("a: &a [*a]", "an alias that contains itself"),
        (b"a: \xff", "not YAML"),
    ],
)
def test_problems_have_a_remedy(text: str | bytes, remedy: str) -> None:
    assert remedy in problem(text)


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (lambda: "a: " + "[" * 101 + "]" * 101, "nested deeper than 100"),
        (lambda: "a: " + "[" * 100_000, "nest"),
        (lambda: "a: 1" + "0" * 5000, "is not a valid int"),
        (lambda: "x" * (1 << 20) + "x", "larger than 1 MiB"),
        (lambda: "l0: &l0 [x, x]\n" + "".join(
            f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10)
        ), "more than 250,000 values"),
    ],
    ids=["nested", "nested without end", "digits", "large", "aliases"],
)  # fmt: skip
def test_excessive_documents_are_refused(size: Callable[[], str], remedy: str) -> None:
    with pytest.raises(DocumentError) as refused:
        read(Book, Document.parse(size(), "book.yaml"))
    (fault,) = refused.value.faults
    assert remedy in fault.problem


def test_a_key_with_dots_keeps_its_line() -> None:
    assert faults("desks: []\nrisk:\n  a: 1\n  a.b: 2\n") == [(3, "risk.a"), (4, "risk.a.b")]

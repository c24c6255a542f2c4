"""Matchers: what is read, what is refused and where, and that no regular expression explodes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.pipeline.matchers import Matcher, format_matchers, match, parse, parse_all
from o9.model.errors import OptimizationValidationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("{}", []),
        ("  {  }  ", []),
        ("a=b", [("a", "=", "b")]),
        ('{a="b"}', [("a", "=", "b")]),
        ('a = "b" , c != d,', [("a", "=", "b"), ("c", "!=", "d")]),
        ('{a=~"x|y",b!~z.*,}', [("a", "=~", "x|y"), ("b", "!~", "z.*")]),
        ('"my label"="a b"', [("my label", "=", "a b")]),
        ('a=""', [("a", "=", "")]),
        ("größe=☃", [("größe", "=", "☃")]),
        (r'a="\"\\\n\t\r\u00e9"', [("a", "=", '"\\\n\t\ré')]),
        (r'a=~"opt-\d+\.x"', [("a", "=~", r"opt-\d+\.x")]),
        ('a="{}=~,"', [("a", "=", "{}=~,")]),
        ("a-b.c/d:e=1", [("a-b.c/d:e", "=", "1")]),
    ],
)
def test_what_is_read(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(each.name, each.operator, each.value) for each in parse(text)] == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "character 2: expected one of = != =~ !~, found the end"),
        ("a=", "character 3: expected a value, found the end"),
        ("=b", "character 1: expected a label's name, found '='"),
        ('""=b', "character 1: a label's name is empty"),
        ("a=b c=d", "character 5: expected a comma or the end, found 'c'; put a value with blanks in double quotes"),
        ("{a=b", "character 5: expected a comma or a closing brace, found the end"),
        ("a=b}", "character 4: expected a comma or the end, found '}'"),
        ("{,}", "character 2: expected a label's name or a closing brace, found ','"),
        ("a=b,,c=d", "character 5: expected a comma or the end, found ','"),
        ('a="b', "character 3: the quote is not closed"),
        ('a="b\\"', "character 3: the quote is not closed"),
        ("a=~b(", "character 4: 'b(' is not a regular expression: missing ): b("),
        (r'x=1, a=~"(?=b)"', "character 9: '(?=b)' is not a regular expression: invalid perl operator: (?="),
        (r'a=~"(b)\1"', r"character 4: '(b)\\1' is not a regular expression: invalid escape sequence: \1"),
        ("a!b", "character 2: expected one of = != =~ !~, found '!'"),
        ("a=b'c", 'character 4: expected a comma or the end, found "\'"; use double quotes'),
        ("a='b'", 'character 3: expected a value, found "\'"; use double quotes'),
        ("x" * 20_001, "20,001 characters; at most 20,000 are allowed"),
    ],
)
def test_what_is_refused_and_where(text: str, problem: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        parse(text)
    assert refused.value.field == "matchers"
    assert refused.value.problem == problem


@given(
    st.lists(
        st.builds(
            Matcher,
            name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
            operator=st.sampled_from(["=", "!="]),
            value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        )
    )
)
def test_what_is_written_is_read_as_it_was(matchers: list[Matcher]) -> None:
    assert list(parse(format_matchers(tuple(matchers)))) == matchers


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        matchers = parse(text)
    except OptimizationValidationError:
        return
    assert parse(format_matchers(matchers)) == matchers


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("a=b", {"a": "b"}, True),
        ("a=b", {"a": "bb"}, False),
        ("a=b", {}, False),
        ("a!=b", {}, True),
        ('a=""', {}, True),
        ('a=""', {"a": "b"}, False),
        ("a=~b", {"a": "abc"}, False),
        ("a=~.*b.*", {"a": "abc"}, True),
        ("a=~.*b.*", {"a": "a\nbc"}, True),
        ("a=~b|c", {"a": "c"}, True),
        ("a=~b|c", {"a": "cc"}, False),
        ("a!~b|c", {"a": "c"}, False),
        ("a!~.+", {}, True),
        ("a=~(?i:B)", {"a": "b"}, True),
        ("a=~größe", {"a": "größe"}, True),
        (r'a=~"\u0000"', {"a": "\ufffd"}, True),
        ("a=b,c=d", {"a": "b", "c": "d"}, True),
        ("a=b,c=d", {"a": "b", "c": "e"}, False),
        ("", {}, True),
    ],
)
def test_what_matches(text: str, labels: dict[str, str], matches: bool) -> None:
    assert match(parse(text), labels) is matches


def test_several_texts_have_all_to_hold_and_a_fault_names_its_text() -> None:
    assert parse_all(["a=b,c=d", "e=f"]) == parse("a=b,c=d,e=f")
    with pytest.raises(OptimizationValidationError, match=r"matchers\[1\]: character 2"):
        parse_all(["a=b", "a"])


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*x", "(a?){30}a{60}b", "((a{0,50}){0,10}){0,1}b"])
def test_no_regular_expression_explodes(pattern: str) -> None:
    (matcher,) = parse(f'label=~"{pattern}"')
    began = time.perf_counter()
    assert not matcher.test("a" * 50_000 + "!")
    assert time.perf_counter() - began < 10.0  # milliseconds, usually; elsewhere it would take years


def test_a_regular_expression_that_is_too_large_is_refused() -> None:
    with pytest.raises(OptimizationValidationError, match="is not a regular expression"):
        parse('a=~"((((x{1,100}){1,100}){1,100}){1,100})"')

"""The vocabulary: the standard word for each thing in names, help, messages and comments; and one class to a name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("src", "flows", "tasks", "blocks") for path in (ROOT / room).rglob("*.py"))

# Parts of identifiers, and words of texts: what to write instead.
RETIRED = {
    "told": "notified, or distinguished",
    "untold": "suppressed",
    "wish": "intent",
    "wishes": "intents",
    "presence": "heartbeat",
    "parked": "suspended",
    "tally": "counter",
    "tallies": "counters",
    "luckless": "without edge",
    "whoever": "the one that",
}
# What is a word of the language in a text, but says too little in a name.
RETIRED_NAMES = {
    "aside": "quarantine",
    "standing": "state, or status",
    "leading": "leadership",
    "departs": "leaves",
    "outlet": "writer",
}
RETIRED_PHRASES = {
    "signs? of life": "heartbeat",
    "so many": "the number",
    "what is so": "what already holds",
    "set aside": "quarantined",
    "sees? to it": "ensures",
    "took no leave": "did not shut down cleanly",
}
RETIRED_MODULES = {
    "opinions", "home", "aside", "look", "memory", "reach", "asked", "intake", "own", "conduct", "again", "counting",
    "judging", "alert_asking", "one", "thinning", "turns", "course", "series", "beside", "taking", "outlet", "presence",
    "notices",
}  # fmt: skip


def parts(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, attribute, None), str):
                yield getattr(node, "lineno", 0), name


def test_no_name_or_text_has_a_retired_word() -> None:
    words = re.compile(rf"\b(?:{'|'.join([*RETIRED, *RETIRED_PHRASES])})\b", re.IGNORECASE)
    found = []
    for path in SOURCES:
        place, text = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        found += [f"{place}: a module's name"] if path.stem in RETIRED_MODULES else []
        for line, name in names(ast.parse(text)):
            found += [f"{place}:{line}: {name}" for each in parts(name) if each in RETIRED or each in RETIRED_NAMES]
        text = re.sub(r"[_\s]+", " ", text)  # JSON keys and columns have underscores; a phrase may take two lines
        found += [f"{place}: …{text[each.start() - 40 : each.end() + 30]}…" for each in words.finditer(text)]
    assert found == []


def test_no_two_classes_have_one_name() -> None:
    """Those of one module alone, with an underscore, may."""
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}

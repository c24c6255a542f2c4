"""The vocabulary: the standard word for each thing in code, messages and documentation; and one class to a name."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("src", "flows", "tasks", "blocks") for path in (ROOT / room).rglob("*.py"))
TEXTS = [
    *SOURCES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("templates/*.*"),
    *(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.*")),
]  # fmt: skip

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
# Words of the language that say too little in a name of several parts.
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


def parts(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_no_name_or_text_has_a_retired_word() -> None:
    words = re.compile(rf"\b(?:{'|'.join([*RETIRED, *RETIRED_PHRASES])})\b", re.IGNORECASE)
    found = [f"{path.relative_to(ROOT)}: a module's name" for path in SOURCES if path.stem in RETIRED_MODULES]
    for path in TEXTS:
        place, text = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        if path in SOURCES:
            names = set(re.findall(r"\b\w*(?:_|[a-z][A-Z])\w*\b", text))
            found += [f"{place}: {name}" for name in names if parts(name) & (RETIRED.keys() | RETIRED_NAMES.keys())]
        text = re.sub(r"[_\s]+", " ", text)  # JSON keys and columns have underscores; a phrase may take two lines
        found += [f"{place}: …{text[each.start() - 40 : each.end() + 30]}…" for each in words.finditer(text)]
    assert found == []


def test_no_two_classes_have_one_name() -> None:
    """Those of one module alone, with an underscore, may."""
    places = defaultdict(list)
    for path in SOURCES:
        for name in re.findall(r"^ *class ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            places[name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}

"""Printing for all commands: results to stdout, remarks to stderr, and JSON.

Contract. A `str` is escaped and never read as markup; a `Text` is printed as it is. On a terminal, output has colours,
is redrawn live and fits the width. Elsewhere it is plain text that is neither cut nor wrapped, unless COLUMNS sets a
width, and has no trailing spaces. NO_COLOR and TERM=dumb are respected.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import IO, Any

from rich import box
from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from o9.cli import failures
from o9.text.escape import STEERING, shown
from o9.text.format import local_zone

UNLIMITED_WIDTH = 100_000
PAGE_WIDTH = 120
NONE_YET = "no optimizations yet; try `o9 demo` or `o9 run FILE.yaml`"
Cells = Mapping[str, str | Text]
# Escaped, they mean the same to a JSON parser and nothing to a terminal.
_STEERING = re.compile(f"[{STEERING}]")


def results() -> Console:
    """The console of stdout."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console of stderr, for progress and remarks."""
    return _console(sys.stderr)


def page_width() -> int:
    """The width of stdout, at most PAGE_WIDTH: a wider page of text is hard to read."""
    return min(results().width, PAGE_WIDTH)


def _console(stream: IO[str]) -> Console:
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = UNLIMITED_WIDTH
    return console


def show(*renderables: RenderableType, width: int | None = None) -> None:
    """Print results, each on its own line. `width` defaults to the terminal's."""
    console = results()
    console.width = width or console.width
    emit(console, *renderables)


def say(text: str) -> None:
    """Print a remark, unless --quiet."""
    if not failures.quiet:
        emit(messages(), text)


def say_more(found: int, room: int | None) -> None:
    """Remark that more was found than the `room` for results that were printed."""
    if room is not None and found > room:
        say(f"showing the first {room}; there are more (--limit N)")


def complain(text: str) -> None:
    """Print an error after which the command continues."""
    emit(messages(), f"o9: {text}")


def emit(console: Console, *renderables: RenderableType) -> None:
    """Print each, without trailing spaces unless on a terminal."""
    for each in renderables:
        renderable = Text(shown(each)) if isinstance(each, str) else each
        if console.is_terminal:
            console.print(renderable)
            continue
        with console.capture() as capture:
            console.print(renderable)
        console.file.write("\n".join(line.rstrip() for line in capture.get().split("\n")))


def plain_table(
    *headings: str, right: Collection[str] = (), fixed: Collection[str] = (), times: Collection[str] = ()
) -> Table:
    """A table without frames.

    right: columns of numbers. fixed: columns that are never folded. times: columns of local times; their headings name
    the time zone.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        side: JustifyMethod = "right" if heading in right else "left"
        title = f"{heading} ({local_zone()})" if heading in times else heading
        table.add_column(title, justify=side, overflow="fold", no_wrap=heading in fixed)
    return table


def table_of(rows: Sequence[Cells], hidden: Collection[str] = (), **columns: Collection[str]) -> Table:
    """A `plain_table` of rows by heading, without the columns in `hidden`; `columns` as there."""
    names = [name for name in rows[0] if name not in hidden]
    table = plain_table(*names, **columns)
    for row in rows:
        table.add_row(*(Text(shown(cell)) if isinstance(cell := row[name], str) else cell for name in names))
    return table


def facts_table(facts: Iterable[tuple[str, str | Text]], *, indent: int = 0) -> Table:
    """A table of labels and values. Line breaks in a value are kept."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, fact in facts:
        text = Text("\n".join(map(shown, fact.split("\n")))) if isinstance(fact, str) else fact
        table.add_row(f"{' ' * indent}{shown(label)}", text)
    return table


def indented(text: str | Text, by: int = 2) -> Padding:
    return Padding(Text(shown(text)) if isinstance(text, str) else text, (0, 0, 0, by))


def answer(document: Any, text: str, *, as_json: bool) -> None:
    """Print the document as JSON, or the text; unlike `show`, it never wraps a path."""
    if as_json:
        write_json(document)
    else:
        print(text)


def write_json(document: Any) -> None:
    sys.stdout.write(to_json(document, indent=2) + "\n")


def write_json_line(document: Any) -> None:
    """Write one document of a stream, on its own line."""
    sys.stdout.write(to_json(document) + "\n")
    sys.stdout.flush()


def to_json(document: Any, indent: int | None = None) -> str:
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def write_json_list(items: Iterable[Any]) -> None:
    """Write an array while its items are read, so that a million of them need no memory."""
    separator = "[\n"
    for item in items:
        sys.stdout.write(separator + to_json(item))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")

"""`init`: write an example objective and run file that run as they are."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from o9.cli.failures import help_only
from o9.cli.options import Json
from o9.model.errors import OptimizationError

if not help_only:
    from o9.cli.console import answer, show
    from o9.cli.views.words import Next


OBJECTIVE, RUN_FILE = "crossover.py", "crossover.yaml"


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the files.")] = Path(),
    json: Json = False,
) -> None:
    """Writes crossover.py and crossover.yaml, which run as they are. Existing files are not overwritten."""
    templates = resources.files("o9.cli") / "templates"
    files = {folder / OBJECTIVE: templates / f"{OBJECTIVE}.txt", folder / RUN_FILE: templates / RUN_FILE}
    if there := [str(file) for file in files if file.exists()]:
        exist = "exists" if len(there) == 1 else "exist"
        raise OptimizationError(f"{' and '.join(there)} already {exist}; give another FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for file, template in files.items():
        file.write_bytes(template.read_bytes())
    answer({"files": [str(file) for file in files]}, "\n".join(f"wrote {file}" for file in files), as_json=json)
    if not json:
        enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
        show("", Next([(f"{enter}o9 run {RUN_FILE}", "runs it and prints the verdict")]))
